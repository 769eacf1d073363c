#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "corpus.h"

namespace albert_fast {

constexpr uint32_t kPagesPerGroup = 256;
constexpr uint32_t kPackingWindow = 512;
constexpr uint32_t kMillion = 1000000;  // probabilities are integers, in millionths

struct LoaderConfig {
  uint32_t tokens_per_batch = 0;       // T
  uint32_t max_seq_length = 0;         // S, special tokens included
  uint32_t max_sequences = 0;          // M, most examples in a batch
  uint32_t predictions_per_batch = 0;  // P
  uint32_t max_predictions = 0;        // per example
  uint32_t max_ngram = 3;
  uint32_t masked_lm_millionths = 150000;
  uint32_t short_seq_millionths = 100000;
  bool sentence_order = true;
  uint64_t seed = 0;

  uint32_t num_specials() const { return sentence_order ? 3 : 2; }
  uint32_t max_chunk() const { return max_seq_length - num_specials(); }
  // N: capacity for the examples of a batch plus its padding sequences of at most S tokens each. The worst case is the
  // largest number of two-token examples: making one longer or leaving one out never takes an additional slot.
  uint32_t sequence_slots() const;
  // Throws std::invalid_argument if a setting is out of range.
  void check() const;
};

// Number of tokens to mask in an example of `length` tokens, special tokens included:
// min(max_predictions, max(1, half_even(masked_lm_prob * length))), in integer arithmetic.
uint32_t budget(const LoaderConfig& config, uint32_t length);

// The text of an example: `length` tokens from `offset` of the page in slot `slot` of its group. Determined by sentence
// lengths alone.
struct Chunk {
  uint16_t slot;
  uint16_t offset;
  uint16_t length;
};

// Why a batch was closed: no example in the window fits the remaining tokens or prediction slots, the batch has
// max_sequences examples, or the group has no more examples.
enum class ClosedBy : uint8_t { kTokens = 0, kSequences = 1, kPredictions = 2, kEndOfGroup = 3 };

// The batches of one group of pages.
struct Plan {
  uint64_t epoch = 0;
  uint32_t group = 0;
  std::vector<uint32_t> pages;          // page number by slot
  std::vector<Chunk> chunks;            // in batch order
  std::vector<uint32_t> first_chunk;    // by batch, then the number of chunks
  std::vector<ClosedBy> closed_by;      // by batch
  std::vector<uint64_t> sentence_bits;  // kMaxPageTokens bits per slot: 1 = first token of a sentence
  uint64_t dropped_tokens = 0;          // document tails of one token

  uint32_t num_batches() const { return static_cast<uint32_t>(closed_by.size()); }
};

// Computes plans, each a pure function of (corpus, config, epoch, group). Caches the page order of one epoch (4 bytes
// per page). Not thread-safe. `corpus` must outlive it.
class Planner {
 public:
  Planner(const Corpus& corpus, const LoaderConfig& config);

  // Number of groups in an epoch; their sizes differ by at most one page.
  uint32_t num_groups() const { return num_groups_; }
  // Fills `plan`, reusing its memory. Reads and verifies the sentence lengths of the group; throws std::runtime_error.
  void make(uint64_t epoch, uint32_t group, Plan& plan);

 private:
  void order_pages(uint64_t epoch);
  void add_page(uint32_t slot, uint32_t page, const uint16_t* lengths, uint32_t count, Plan& plan) const;
  void add_document(uint32_t slot, uint32_t page, uint32_t begin, uint32_t end, Plan& plan) const;
  void pack(Plan& plan);

  const Corpus& corpus_;
  const LoaderConfig config_;
  const uint32_t num_groups_;
  std::vector<uint32_t> order_;  // page order of epoch order_epoch_
  uint64_t order_epoch_ = 0;
  uint64_t documents_start_ = 0;
  std::vector<uint16_t> lengths_;      // scratch: sentences of a page, then chunks of the group
  std::vector<uint32_t> budget_;       // by chunk length
  std::vector<uint32_t> most_tokens_;  // longest chunk whose budget fits, by number of slots
};

}  // namespace albert_fast
