#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "plan.h"

namespace albert_fast {

// One packed batch: num_sequences examples, then padding sequences of at most S tokens each ([PAD], weights 0) up to T,
// so that no token belongs to no sequence; the slots left repeat T in cu_seqlens. The arrays lie in one allocation,
// each beginning at a multiple of 4096 bytes and followed by kSlackBytes that may be overwritten, so that copies need
// no exact ends. (memcpy drops to a fifth of its speed where source and destination differ by 16 bytes modulo 4096;
// whole pages at least keep that rare and equal for all.)
struct Batch {
  static constexpr size_t kSlackBytes = 256;

  explicit Batch(const LoaderConfig& config);
  ~Batch();
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  int32_t* input_ids;              // [T]
  int32_t* token_type_ids;         // [T]
  int32_t* position_ids;           // [T]
  int32_t* cu_seqlens;             // [N+1], N = config.sequence_slots()
  int32_t* masked_lm_positions;    // [P], indices into [T]
  int32_t* masked_lm_ids;          // [P]
  float* masked_lm_weights;        // [P]
  int32_t* sentence_order_labels;  // [M]
  float* sentence_order_weights;   // [M]

  uint64_t index = 0;  // global micro-batch
  uint64_t epoch = 0;
  uint32_t num_tokens = 0;     // of the examples
  uint32_t num_sequences = 0;  // examples
  uint32_t num_predictions = 0;
  ClosedBy closed_by = ClosedBy::kEndOfGroup;

 private:
  void* memory_;
};

// Hands out batches and takes them back once nobody holds them; fresh memory costs half a nanosecond a token to clear.
// Any thread may call it and may drop a batch. In a forked child a dropped batch is left alone: the lock may have been
// held by a thread that the child does not have.
class BatchPool : public std::enable_shared_from_this<BatchPool> {
 public:
  BatchPool(const LoaderConfig& config, size_t most_idle);
  std::shared_ptr<Batch> take();

 private:
  void give_back(std::unique_ptr<Batch> batch);

  const LoaderConfig config_;
  const size_t most_idle_;
  const pid_t process_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Batch>> idle_;
};

}  // namespace albert_fast
