#include "plan.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>

#include "random.h"

namespace albert_fast {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string number(uint64_t value) { return std::to_string(value); }
std::string share(uint32_t millionths) { return std::to_string(millionths / 1e6); }

// Index of the first longest of the kPackingWindow chunk lengths at `window` that is at most `limit`; kPackingWindow if
// none fits. Vectorized, because filling the end of a batch with short documents takes dozens of searches.
uint32_t longest_that_fits(const uint16_t* window, uint32_t limit) {
  using Lengths __attribute__((vector_size(16), aligned(2), may_alias)) = uint16_t;
  const Lengths limits = Lengths{} + static_cast<uint16_t>(limit);
  Lengths longest = {};
  for (uint32_t i = 0; i < kPackingWindow; i += 8) {
    Lengths lengths = *reinterpret_cast<const Lengths*>(window + i);
    lengths &= static_cast<Lengths>(lengths <= limits);
    longest = lengths > longest ? lengths : longest;
  }
  uint16_t best = 0;
  for (uint32_t i = 0; i < 8; ++i) best = std::max<uint16_t>(best, longest[i]);
  if (best == 0) return kPackingWindow;
  return static_cast<uint32_t>(std::find(window, window + kPackingWindow, best) - window);
}

}  // namespace

void LoaderConfig::check() const {
  if (max_seq_length < 2 + num_specials() || max_seq_length > 65535) {
    refuse("max_seq_length=" + number(max_seq_length) + " must be from " + number(2 + num_specials()) +
           " (two tokens plus special tokens) to 65535; 128 and 512 are usual");
  }
  if (tokens_per_batch < max_seq_length || tokens_per_batch > (1u << 30)) {
    refuse("tokens_per_batch=" + number(tokens_per_batch) + " must be at least max_seq_length=" +
           number(max_seq_length) + " and at most 2^30; use a multiple of max_seq_length");
  }
  if (max_sequences == 0 || max_sequences > tokens_per_batch) {
    refuse("max_sequences=" + number(max_sequences) + " must be from 1 to tokens_per_batch");
  }
  if (max_ngram == 0 || max_ngram > 10) refuse("max_ngram=" + number(max_ngram) + " must be from 1 to 10; 3 is usual");
  if (max_predictions == 0) refuse("max_predictions=0 must be at least 1; omit it for no limit");
  if (masked_lm_millionths == 0 || masked_lm_millionths > kMillion / 2) {
    refuse("masked_lm_prob=" + share(masked_lm_millionths) + " must be from 0.000001 to 0.5; 0.15 is usual");
  }
  if (short_seq_millionths > kMillion) {
    refuse("short_seq_prob=" + share(short_seq_millionths) + " must be from 0 to 1; 0.1 is usual");
  }
  const uint32_t most = budget(*this, max_seq_length);
  if (predictions_per_batch < most || predictions_per_batch > tokens_per_batch) {
    refuse("predictions_per_batch=" + number(predictions_per_batch) + " must hold one full example's " + number(most) +
           " predictions and be at most tokens_per_batch; omit it for a suitable value");
  }
}

uint32_t LoaderConfig::sequence_slots() const {
  const uint32_t shortest = 2 + num_specials();
  const uint32_t examples = std::min(max_sequences, tokens_per_batch / shortest);
  const uint32_t unused = tokens_per_batch - examples * shortest;
  return std::max(max_sequences, examples + (unused + max_seq_length - 1) / max_seq_length);
}

uint32_t budget(const LoaderConfig& config, uint32_t length) {
  const uint64_t product = uint64_t{config.masked_lm_millionths} * length;
  uint64_t whole = product / kMillion;
  const uint64_t rest = product % kMillion;
  if (rest > kMillion / 2 || (rest == kMillion / 2 && whole % 2 == 1)) ++whole;
  return static_cast<uint32_t>(std::min<uint64_t>(config.max_predictions, std::max<uint64_t>(1, whole)));
}

Planner::Planner(const Corpus& corpus, const LoaderConfig& config)
    : corpus_(corpus), config_(config), num_groups_((corpus.num_pages() + kPagesPerGroup - 1) / kPagesPerGroup) {
  for (uint32_t length = 0; length <= config.max_chunk(); ++length) {
    budget_.push_back(budget(config, length + config.num_specials()));
    most_tokens_.resize(budget_.back() + 1, length);  // budgets do not decrease with length
    most_tokens_.back() = length;
  }
  // No chunk fits in fewer slots than the smallest budget.
  std::fill_n(most_tokens_.begin(), budget_.front(), 0);
}

void Planner::order_pages(uint64_t epoch) {
  if (!order_.empty() && order_epoch_ == epoch) return;
  order_.resize(corpus_.num_pages());
  std::iota(order_.begin(), order_.end(), 0u);
  const uint64_t start = domain_start(config_.seed, epoch, Domain::kPages);
  for (uint64_t i = order_.size() - 1; i > 0; --i) std::swap(order_[i], order_[bounded(draw(start, i), i + 1)]);
  order_epoch_ = epoch;
}

void Planner::make(uint64_t epoch, uint32_t group, Plan& plan) {
  order_pages(epoch);
  documents_start_ = domain_start(config_.seed, epoch, Domain::kDocuments);
  const uint64_t pages = order_.size();
  plan.epoch = epoch;
  plan.group = group;
  plan.pages.assign(order_.begin() + static_cast<ptrdiff_t>(pages * group / num_groups_),
                    order_.begin() + static_cast<ptrdiff_t>(pages * (group + 1) / num_groups_));
  plan.chunks.clear();
  plan.dropped_tokens = 0;
  plan.sentence_bits.assign(plan.pages.size() * (kMaxPageTokens / 64), 0);
  std::unique_ptr<File> file;
  for (uint32_t slot = 0; slot < plan.pages.size(); ++slot) {
    const auto [shard_number, page] = corpus_.locate(plan.pages[slot]);
    const Shard& shard = corpus_.shards()[shard_number];
    if (!file || file->path() != shard.path()) file = std::make_unique<File>(shard.path());
    const uint32_t count = shard.pages()[page].num_sentences;
    lengths_.resize(count);
    shard.read_lengths(*file, page, lengths_.data());
    add_page(slot, plan.pages[slot], lengths_.data(), count, plan);
  }
  const uint64_t start = draw(domain_start(config_.seed, epoch, Domain::kShuffle), group);
  Chunk* const chunks = plan.chunks.data();
  for (uint64_t i = plan.chunks.size(); i-- > 1;) std::swap(chunks[i], chunks[bounded(draw(start, i), i + 1)]);
  pack(plan);
}

void Planner::add_page(uint32_t slot, uint32_t page, const uint16_t* lengths, uint32_t count, Plan& plan) const {
  uint64_t* const bits = plan.sentence_bits.data() + slot * (size_t{kMaxPageTokens} / 64);
  uint32_t document = 0, offset = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if ((lengths[i] & kFirstOfDocument) != 0 && i > 0) {
      add_document(slot, page, document, offset, plan);
      document = offset;
    }
    bits[offset / 64] |= uint64_t{1} << (offset % 64);
    offset += lengths[i] & kLengthMask;
  }
  add_document(slot, page, document, offset, plan);
}

void Planner::add_document(uint32_t slot, uint32_t page, uint32_t begin, uint32_t end, Plan& plan) const {
  const uint64_t value = draw(documents_start_, uint64_t{page} << 16 | begin);
  const auto choice = static_cast<uint32_t>(value >> 32);
  uint32_t target = config_.max_chunk();
  if (bounded32(choice, kMillion) < config_.short_seq_millionths) {
    target = 2 + bounded32(static_cast<uint32_t>(value), target - 1);
  }
  while (begin < end) {
    const uint32_t length = std::min(target, end - begin);
    if (length == 1) {
      ++plan.dropped_tokens;
    } else {
      plan.chunks.push_back({static_cast<uint16_t>(slot), static_cast<uint16_t>(begin), static_cast<uint16_t>(length)});
    }
    begin += length;
  }
}

void Planner::pack(Plan& plan) {
  plan.first_chunk.clear();
  plan.closed_by.clear();
  Chunk* const chunks = plan.chunks.data();
  const size_t count = plan.chunks.size();
  lengths_.assign(count + kPackingWindow, 0);  // followed by zeros, which never fit
  for (size_t i = 0; i < count; ++i) lengths_[i] = chunks[i].length;
  const uint32_t specials = config_.num_specials();
  const auto most_slots = static_cast<uint32_t>(most_tokens_.size() - 1);
  for (size_t head = 0; head < count;) {
    const size_t first = head;
    uint32_t tokens = config_.tokens_per_batch;
    uint32_t slots = config_.predictions_per_batch;
    ClosedBy closed_by = ClosedBy::kEndOfGroup;
    for (; head < count; ++head) {
      if (head - first == config_.max_sequences) {
        closed_by = ClosedBy::kSequences;
        break;
      }
      const bool in_order = tokens >= 2 * config_.max_seq_length || head == first;
      if (!in_order || budget_[lengths_[head]] > slots) {
        const uint32_t by_tokens = tokens > specials ? std::min(tokens - specials, config_.max_chunk()) : 0;
        const uint32_t by_slots = most_tokens_[std::min(slots, most_slots)];
        const uint16_t* const window = lengths_.data() + head;
        const size_t pick = longest_that_fits(window, std::min(by_tokens, by_slots));
        if (pick == kPackingWindow) {
          const bool tokens_fit = longest_that_fits(window, by_tokens) != kPackingWindow;
          closed_by = tokens_fit ? ClosedBy::kPredictions : ClosedBy::kTokens;
          break;
        }
        std::swap(chunks[head + pick], chunks[head]);
        std::swap(lengths_[head + pick], lengths_[head]);
      }
      tokens -= lengths_[head] + specials;
      slots -= budget_[lengths_[head]];
    }
    plan.first_chunk.push_back(static_cast<uint32_t>(first));
    plan.closed_by.push_back(closed_by);
  }
  plan.first_chunk.push_back(static_cast<uint32_t>(count));
}

}  // namespace albert_fast
