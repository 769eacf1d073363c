#include "group.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

namespace albert_fast {
namespace {

constexpr size_t kSlackBytes = 4 * kMaxPageTokens + 256;  // a chunk of the widest tokens and a vector
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kWordsPerPage = kMaxPageTokens / 64;

// Sets bit t if token t is special; `prepare` writes [UNK] only. Compares 64 tokens at a time with vector extensions,
// since most groups of 64 have no special token.
template <typename Token>
void mark_unmaskable(const uint8_t* bytes, uint32_t count, const ShardHeader& header, Group::TokenBits* bits) {
  using Tokens __attribute__((vector_size(16), may_alias)) = Token;
  constexpr uint32_t kLanes = 16 / sizeof(Token);
  const auto* tokens = reinterpret_cast<const Token*>(bytes);
  const Token specials[] = {static_cast<Token>(header.unk_id), static_cast<Token>(header.cls_id),
                            static_cast<Token>(header.sep_id), static_cast<Token>(header.mask_id),
                            static_cast<Token>(header.pad_id)};
  const auto is_special = [&specials](auto token) {
    return (token == specials[0]) | (token == specials[1]) | (token == specials[2]) | (token == specials[3]) |
           (token == specials[4]);
  };
  for (uint32_t begin = 0; begin < count; begin += 64) {
    const auto* vectors = reinterpret_cast<const Tokens*>(tokens + begin);  // past the end: word-start bits, slack
    auto any = is_special(vectors[0]);
    for (uint32_t i = 1; i < 64 / kLanes; ++i) any |= is_special(vectors[i]);
    uint64_t word = 0;
    uint64_t lanes[2];
    std::memcpy(lanes, &any, sizeof(lanes));
    if ((lanes[0] | lanes[1]) != 0) {
      const uint32_t width = std::min<uint32_t>(64, count - begin);
      for (uint32_t i = 0; i < width; ++i) word |= static_cast<uint64_t>(is_special(tokens[begin + i])) << i;
    }
    bits[begin / 64].unmaskable = word;
  }
}

}  // namespace

void Group::Free::operator()(void* pointer) const { std::free(pointer); }

// Asks for huge pages: chunks are read in random order, and every access to a small page would miss the TLB.
void Group::reserve(size_t bytes) {
  if (bytes <= capacity_) return;
  memory_.reset();
  capacity_ = 0;
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(kHugePage, bytes)));
  if (!memory_) throw std::bad_alloc();
  ::madvise(memory_.get(), bytes, MADV_HUGEPAGE);
  capacity_ = bytes;
}

void Group::load(const Corpus& corpus) {
  const size_t slots = plan.pages.size();
  const size_t bits_bytes = slots * kWordsPerPage * sizeof(TokenBits);
  std::vector<Corpus::Location> locations(slots);
  size_t bytes = bits_bytes + kSlackBytes;
  for (size_t slot = 0; slot < slots; ++slot) {
    locations[slot] = corpus.locate(plan.pages[slot]);
    bytes += corpus.shards()[locations[slot].shard].page_bytes(locations[slot].page);
  }
  reserve(bytes);
  pages_.resize(slots);

  // In file order, for sequential disk access.
  std::vector<uint32_t> order(slots);
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return plan.pages[a] < plan.pages[b]; });
  std::unique_ptr<File> file;
  auto* const all_bits = reinterpret_cast<TokenBits*>(memory_.get());
  uint8_t* to = memory_.get() + bits_bytes;
  for (const uint32_t slot : order) {
    const auto [shard_number, number] = locations[slot];
    const Shard& shard = corpus.shards()[shard_number];
    if (!file || file->path() != shard.path()) file = std::make_unique<File>(shard.path());
    shard.read_page(*file, number, to);
    const uint32_t tokens = shard.pages()[number].num_tokens;
    TokenBits* const bits = all_bits + slot * kWordsPerPage;
    const auto mark = shard.token_bytes() == 2 ? mark_unmaskable<uint16_t> : mark_unmaskable<uint32_t>;
    mark(to, tokens, shard.header(), bits);
    const auto* const words = reinterpret_cast<const uint64_t*>(to + shard.token_section_bytes(number));
    const uint64_t* const sentences = plan.sentence_bits.data() + slot * kWordsPerPage;
    for (uint32_t i = 0; i < (tokens + 63) / 64; ++i) {
      bits[i].words = words[i];
      bits[i].sentences = sentences[i];
    }
    pages_[slot] = {to, bits};
    to += shard.page_bytes(number);
  }
}

}  // namespace albert_fast
