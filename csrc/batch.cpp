#include "batch.h"

#include <unistd.h>

#include <cstdlib>
#include <new>

namespace albert_fast {

Batch::Batch(const LoaderConfig& config) {
  const size_t tokens = config.tokens_per_batch, sequences = config.max_sequences;
  const size_t predictions = config.predictions_per_batch;
  constexpr size_t kPage = 4096;
  size_t bytes = 0;
  const auto place = [&bytes](size_t elements) {
    const size_t begin = bytes;
    bytes += (elements * 4 + kSlackBytes + kPage - 1) / kPage * kPage;
    return begin;
  };
  const size_t offsets[] = {
      place(tokens),      place(tokens),      place(tokens),      place(config.sequence_slots() + size_t{1}),
      place(predictions), place(predictions), place(predictions), place(sequences),
      place(sequences)};
  memory_ = std::aligned_alloc(kPage, bytes);
  if (memory_ == nullptr) throw std::bad_alloc();
  const auto at = [&](size_t field) { return static_cast<char*>(memory_) + offsets[field]; };
  input_ids = reinterpret_cast<int32_t*>(at(0));
  token_type_ids = reinterpret_cast<int32_t*>(at(1));
  position_ids = reinterpret_cast<int32_t*>(at(2));
  cu_seqlens = reinterpret_cast<int32_t*>(at(3));
  masked_lm_positions = reinterpret_cast<int32_t*>(at(4));
  masked_lm_ids = reinterpret_cast<int32_t*>(at(5));
  masked_lm_weights = reinterpret_cast<float*>(at(6));
  sentence_order_labels = reinterpret_cast<int32_t*>(at(7));
  sentence_order_weights = reinterpret_cast<float*>(at(8));
}

Batch::~Batch() { std::free(memory_); }

BatchPool::BatchPool(const LoaderConfig& config, size_t most_idle)
    : config_(config), most_idle_(most_idle), process_(::getpid()) {}

std::shared_ptr<Batch> BatchPool::take() {
  std::unique_ptr<Batch> batch;
  {
    const std::scoped_lock lock(mutex_);
    if (!idle_.empty()) {
      batch = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (!batch) batch = std::make_unique<Batch>(config_);
  return {batch.release(), [pool = weak_from_this()](Batch* dropped) {
            std::unique_ptr<Batch> owned(dropped);
            if (const auto alive = pool.lock()) alive->give_back(std::move(owned));
          }};
}

void BatchPool::give_back(std::unique_ptr<Batch> batch) {
  if (::getpid() != process_) {
    static_cast<void>(batch.release());
    return;
  }
  const std::scoped_lock lock(mutex_);
  if (idle_.size() < most_idle_) idle_.push_back(std::move(batch));
}

}  // namespace albert_fast
