#include "group.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

namespace albert_fast {
namespace {

constexpr size_t kSlackBytes = 256;
constexpr size_t kWordsPerPage = kMaxPageTokens / 64;

// Sets bit t where token t is special; [UNK] is the only one that `prepare` writes.
template <typename Token>
void mark_unmaskable(const uint8_t* bytes, uint32_t count, const ShardHeader& header, uint64_t* bits) {
  const auto* tokens = reinterpret_cast<const Token*>(bytes);
  const auto unk = static_cast<Token>(header.unk_id), cls = static_cast<Token>(header.cls_id),
             sep = static_cast<Token>(header.sep_id), mask = static_cast<Token>(header.mask_id),
             pad = static_cast<Token>(header.pad_id);
  for (uint32_t begin = 0; begin < count; begin += 64) {
    uint8_t special[64] = {};
    const uint32_t width = std::min<uint32_t>(64, count - begin);
    uint8_t any = 0;
    for (uint32_t i = 0; i < width; ++i) {
      const Token t = tokens[begin + i];
      special[i] = (t == unk) | (t == cls) | (t == sep) | (t == mask) | (t == pad);
      any |= special[i];
    }
    uint64_t word = 0;
    if (any != 0) {
      for (uint32_t i = 0; i < width; ++i) word |= uint64_t{special[i]} << i;
    }
    bits[begin / 64] = word;
  }
}

}  // namespace

void Group::Free::operator()(void* pointer) const { std::free(pointer); }

void Group::load(const Corpus& corpus) {
  const size_t slots = plan.pages.size();
  std::vector<Corpus::Location> locations(slots);
  size_t bytes = 0;
  for (size_t slot = 0; slot < slots; ++slot) {
    locations[slot] = corpus.locate(plan.pages[slot]);
    bytes += corpus.shards()[locations[slot].shard].page_bytes(locations[slot].page);
  }
  if (bytes + kSlackBytes > capacity_) {
    memory_.reset();
    capacity_ = (bytes + kSlackBytes + 4095) / 4096 * 4096;
    memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(4096, capacity_)));
    if (!memory_) {
      capacity_ = 0;
      throw std::bad_alloc();
    }
    std::memset(memory_.get(), 0, capacity_);
  }
  unmaskable_bits_.resize(slots * kWordsPerPage + 8);
  pages_.resize(slots);

  // In the order of the files, so that a disk reads forwards.
  std::vector<uint32_t> order(slots);
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return plan.pages[a] < plan.pages[b]; });
  std::unique_ptr<File> file;
  uint8_t* to = memory_.get();
  for (const uint32_t slot : order) {
    const auto [shard_number, number] = locations[slot];
    const Shard& shard = corpus.shards()[shard_number];
    if (!file || file->path() != shard.path()) file = std::make_unique<File>(shard.path());
    shard.read_page(*file, number, to);
    uint64_t* const unmaskable = unmaskable_bits_.data() + slot * kWordsPerPage;
    const auto mark = shard.token_bytes() == 2 ? mark_unmaskable<uint16_t> : mark_unmaskable<uint32_t>;
    mark(to, shard.pages()[number].num_tokens, shard.header(), unmaskable);
    pages_[slot] = {to, reinterpret_cast<const uint64_t*>(to + shard.token_section_bytes(number)),
                    plan.sentence_bits.data() + slot * kWordsPerPage, unmaskable};
    to += shard.page_bytes(number);
  }
}

}  // namespace albert_fast
