#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "corpus.h"
#include "plan.h"

namespace albert_fast {

// The pages of one group in memory, with their plan. Reused from group to group; filled by one thread, then read by
// any number.
class Group {
 public:
  // Three bits of each of 64 tokens, side by side: a chunk then costs one or two cache lines of bits, not six. LSB
  // first: bit t % 64 of element t / 64 is token t's.
  struct alignas(32) TokenBits {
    uint64_t words;       // a word begins
    uint64_t sentences;   // a sentence begins
    uint64_t unmaskable;  // [UNK] or another special id
  };

  // A page's arrays, readable for 64 bytes past their ends.
  struct Page {
    const uint8_t* tokens;  // of the corpus's token width
    const TokenBits* bits;
  };

  Plan plan;
  uint64_t first_index = 0;  // global micro-batch of the plan's batch 0

  // Reads and checks the pages that the plan names, by shard and offset. Throws std::runtime_error.
  void load(const Corpus& corpus);
  const Page& page(uint32_t slot) const { return pages_[slot]; }

 private:
  struct Free {
    void operator()(void* pointer) const;
  };
  using Memory = std::unique_ptr<uint8_t[], Free>;

  void reserve(size_t bytes);

  Memory memory_;
  size_t capacity_ = 0;
  std::vector<Page> pages_;
};

}  // namespace albert_fast
