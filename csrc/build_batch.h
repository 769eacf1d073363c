#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "batch.h"
#include "corpus.h"
#include "group.h"
#include "plan.h"

namespace albert_fast {

// Everything except the chunk that determines an example: rules for splitting, masking and replacement. Immutable.
struct ExampleRules {
  ExampleRules(const Corpus& corpus, const LoaderConfig& config);

  LoaderConfig config;
  int32_t cls_id, sep_id, mask_id, pad_id;
  uint32_t token_bytes;
  std::vector<uint32_t> ordinary;           // ids of random replacements, ascending
  bool ordinary_is_range = false;           // `ordinary` has no gaps
  std::vector<uint32_t> budget;             // tokens to mask, by chunk length
  std::array<uint32_t, 10> ngram_end = {};  // n is the first with draw < ngram_end[n - 1]; p(n) ~ 1 / n
};

// Per-thread scratch memory for one chunk: bitmaps with one bit per token, and positions of set bits.
struct ExampleScratch {
  explicit ExampleScratch(uint32_t max_seq_length);
  std::vector<uint64_t> starts;    // 1 = first token of a unit (a whole word)
  std::vector<uint64_t> maskable;  // 1 = neither special nor [UNK]
  std::vector<uint64_t> masked;
  std::vector<uint32_t> units;      // first token of each unit, then the length of the chunk
  std::vector<uint32_t> positions;  // of the masked tokens
};

// Instruction sets with a specialized implementation; all produce identical bytes.
enum class InstructionSet { kPortable, kAvx2, kAvx512 };
InstructionSet best_instruction_set();

// Fills `batch` with batch `number` of the group's plan: sentence-order pairs, whole-word n-gram masks, replacements. A
// pure function of its arguments.
using BuildBatch = void (*)(const ExampleRules&, const Group&, uint32_t number, ExampleScratch&, Batch&);
BuildBatch build_batch_for(InstructionSet set, uint32_t token_bytes);

}  // namespace albert_fast
