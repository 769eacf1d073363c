#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "batch.h"
#include "corpus.h"
#include "group.h"
#include "plan.h"

namespace albert_fast {

// Everything but the chunk itself that decides an example: splitting, masking and replacement. Immutable.
struct ExampleRules {
  ExampleRules(const Corpus& corpus, const LoaderConfig& config);

  LoaderConfig config;
  int32_t cls_id, sep_id, mask_id, pad_id;
  uint32_t token_bytes;
  std::vector<uint32_t> ordinary;           // ids drawn as random replacement, ascending
  bool ordinary_is_range = false;           // every id from the first to the last
  std::vector<uint32_t> budget;             // by chunk length
  std::array<uint32_t, 10> ngram_end = {};  // n is the first with draw < ngram_end[n - 1]: p(n) ~ 1 / n, in integers
};

// Memory of one thread for one chunk: bits, one a token, and the positions of set bits.
struct ExampleScratch {
  explicit ExampleScratch(uint32_t max_seq_length);
  std::vector<uint64_t> starts;    // 1 = a unit begins
  std::vector<uint64_t> maskable;  // 1 = neither special nor [UNK]
  std::vector<uint64_t> masked;
  std::vector<uint32_t> units;      // where each unit begins, then the chunk's length
  std::vector<uint32_t> positions;  // of the masked tokens
};

// Instruction sets with a body of their own; all write the same bytes.
enum class InstructionSet { kPortable, kAvx2, kAvx512 };
InstructionSet best_instruction_set();

// Builds batch `number` of the group's plan: sentence-order pairs, whole-word n-gram masks, replacement, every field.
// A pure function of its arguments.
using BuildBatch = void (*)(const ExampleRules&, const Group&, uint32_t number, ExampleScratch&, Batch&);
BuildBatch build_batch_for(InstructionSet set, uint32_t token_bytes);

}  // namespace albert_fast
