#pragma once

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
  // A page's arrays, each readable for 64 bytes past its end. Bits are LSB first: bit t of word t / 64.
  struct Page {
    const uint8_t* tokens;            // of the corpus's token width
    const uint64_t* word_bits;        // 1 = a word begins
    const uint64_t* sentence_bits;    // 1 = a sentence begins
    const uint64_t* unmaskable_bits;  // 1 = [UNK] or another special id
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

  std::unique_ptr<uint8_t[], Free> memory_;
  size_t capacity_ = 0;
  std::vector<uint64_t> unmaskable_bits_;
  std::vector<Page> pages_;
};

}  // namespace albert_fast
