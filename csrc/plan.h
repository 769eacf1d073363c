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
  uint32_t max_seq_length = 0;         // S, specials included
  uint32_t max_sequences = 0;          // M, examples of a batch at most
  uint32_t predictions_per_batch = 0;  // P
  uint32_t max_predictions = 0;        // of one example
  uint32_t max_ngram = 3;
  uint32_t masked_lm_millionths = 150000;
  uint32_t short_seq_millionths = 100000;
  bool sentence_order = true;
  uint64_t seed = 0;

  uint32_t num_specials() const { return sentence_order ? 3 : 2; }
  uint32_t max_chunk() const { return max_seq_length - num_specials(); }
  // N: examples, and the padding sequences of at most S tokens each that close a batch. The most are needed by a batch
  // with as many examples of two tokens as it may have: a longer or a missing example never costs a slot more.
  uint32_t sequence_slots() const;
  // Throws std::invalid_argument with value, rule and remedy.
  void check() const;
};

// Tokens to mask in an example of `length` tokens, specials included:
// min(max_predictions, max(1, half_even(masked_lm_prob * length))), in integers.
uint32_t budget(const LoaderConfig& config, uint32_t length);

// An example before it is built: `length` tokens from `offset` of the page in slot `slot` of its group. Depends on
// sentence lengths alone.
struct Chunk {
  uint16_t slot;
  uint16_t offset;
  uint16_t length;
};

// What ended a batch: no example in the window fits the tokens left, the sequences, or the prediction slots; or the
// group has no more examples.
enum class ClosedBy : uint8_t { kTokens = 0, kSequences = 1, kPredictions = 2, kEndOfGroup = 3 };

// The batches of one group of pages.
struct Plan {
  uint64_t epoch = 0;
  uint32_t group = 0;
  std::vector<uint32_t> pages;          // page numbers by slot
  std::vector<Chunk> chunks;            // in batch order
  std::vector<uint32_t> first_chunk;    // of each batch, then the number of chunks
  std::vector<ClosedBy> closed_by;      // of each batch
  std::vector<uint64_t> sentence_bits;  // kMaxPageTokens bits a slot: 1 = a sentence begins
  uint64_t dropped_tokens = 0;          // tails of one token

  uint32_t num_batches() const { return static_cast<uint32_t>(closed_by.size()); }
};

// Makes plans: a pure function of (corpus, config, epoch, group). Holds the page order of one epoch (4 bytes a page)
// and scratch, so one thread at a time may call it.
class Planner {
 public:
  Planner(const Corpus& corpus, const LoaderConfig& config);

  // Groups of an epoch; sizes differ by at most one page.
  uint32_t num_groups() const { return num_groups_; }
  // Fills `plan`, reusing its memory. Reads and checks the group's sentence lengths.
  void make(uint64_t epoch, uint32_t group, Plan& plan);

 private:
  void order_pages(uint64_t epoch);
  void add_page(uint32_t slot, uint32_t page, const uint16_t* lengths, uint32_t count, Plan& plan) const;
  void add_document(uint32_t slot, uint32_t page, uint32_t begin, uint32_t end, Plan& plan) const;
  void pack(Plan& plan);

  const Corpus& corpus_;
  const LoaderConfig config_;
  const uint32_t num_groups_;
  std::vector<uint32_t> order_;  // of the pages in epoch order_epoch_
  uint64_t order_epoch_ = 0;
  uint64_t documents_start_ = 0;
  std::vector<uint16_t> lengths_;      // of a page's sentences, then of the group's chunks
  std::vector<uint32_t> budget_;       // by chunk length
  std::vector<uint32_t> most_tokens_;  // the longest chunk whose budget fits a number of slots
};

}  // namespace albert_fast
