#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "plan.h"

namespace albert_fast {

// One packed batch: num_sequences examples, followed by padding sequences of at most S tokens each ([PAD], weights 0)
// that cover the rest of the T tokens; unused entries of cu_seqlens are T. The arrays share one allocation. Each is
// aligned to 4096 bytes and followed by kSlackBytes of scratch space, so that vectorized writes may run past its end.
// (memcpy runs at a fifth of its speed if source and destination differ by 16 bytes modulo 4096; page alignment makes
// that rare and equally likely for every array.)
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
  int32_t* masked_lm_positions;    // [P], indices into the T tokens
  int32_t* masked_lm_ids;          // [P]
  float* masked_lm_weights;        // [P]
  int32_t* sentence_order_labels;  // [M]
  float* sentence_order_weights;   // [M]

  uint64_t index = 0;  // global micro-batch number
  uint64_t epoch = 0;
  uint32_t num_tokens = 0;     // in examples, without padding sequences
  uint32_t num_sequences = 0;  // examples
  uint32_t num_predictions = 0;
  ClosedBy closed_by = ClosedBy::kEndOfGroup;

 private:
  void* memory_;
};

// Recycles batches: a batch returns to the pool when its last reference is dropped, because fresh memory costs half a
// nanosecond per token to clear. Thread-safe. In a forked child a dropped batch is leaked, since the mutex may be held
// by a thread that does not exist in the child.
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
