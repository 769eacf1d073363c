#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "corpus.h"
#include "plan.h"

namespace albert_fast {

// The pages of one group in memory, with their plan. One thread fills it, then any number of threads may read it. The
// memory is reused for later groups.
class Group {
 public:
  // Three bits for each of 64 tokens. Stored together, the bits of a chunk take one or two cache lines instead of six.
  // Bit t % 64 (from the least significant) of element t / 64 belongs to token t.
  struct alignas(32) TokenBits {
    uint64_t words;       // first token of a word
    uint64_t sentences;   // first token of a sentence
    uint64_t unmaskable;  // [UNK] or another special id
  };

  // The arrays of a page. 64 bytes past their ends are readable.
  struct Page {
    const uint8_t* tokens;  // token_bytes each
    const TokenBits* bits;
  };

  Plan plan;
  uint64_t first_index = 0;  // global micro-batch number of batch 0 of the plan

  // Reads and verifies the pages of the plan, in file order. Throws std::runtime_error.
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
