#include "loader.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace albert_fast {
namespace {

constexpr uint64_t kLastIndex = std::numeric_limits<int64_t>::max();
// Most sentence lengths that a search without a cursor may read, which takes about 15 minutes.
constexpr double kMostSentencesToPass = 1e11;

// Blocks all signals while threads start. Threads inherit the mask, so Python's main thread receives the signals.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

size_t checked_threads(uint32_t threads) {
  if (threads == 0 || threads > 256) {
    throw std::invalid_argument("threads=" + std::to_string(threads) + " must be from 1 to 256; 2 is usual");
  }
  return threads;
}

}  // namespace

Loader::Loader(std::shared_ptr<const Corpus> corpus, const LoaderConfig& config, const Cursor& start, uint64_t rank,
               uint64_t world_size, uint32_t threads)
    : corpus_(std::move(corpus)),
      config_((config.check(), config)),
      rules_(*corpus_, config),
      rank_(rank),
      world_size_(world_size),
      process_(::getpid()),
      pool_(std::make_shared<BatchPool>(config, 2 * checked_threads(threads) + 4)),  // checked before allocating
      start_index_(start.index),
      planner_(*corpus_, config),
      plan_cursor_{start.index - start.batch, start.epoch, start.group, 0},
      ring_(2 * size_t{threads} + 2),
      claim_index_(start.index + rank),
      groups_{std::make_shared<Group>(), std::make_shared<Group>()},
      passed_(start) {
  if (world_size == 0 || world_size > (1u << 30) || rank >= world_size) {
    throw std::invalid_argument("rank=" + std::to_string(rank) + " must be below world_size=" +
                                std::to_string(world_size) + ", which must be from 1 to 2^30");
  }
  if (start.index > kLastIndex - rank || start.batch > start.index || start.group >= planner_.num_groups()) {
    throw std::invalid_argument("no such position in this stream: micro-batch " + std::to_string(start.index) +
                                ", group " + std::to_string(start.group) + " of " +
                                std::to_string(planner_.num_groups()));
  }
  const BlockedSignals blocked;
  try {
    for (uint32_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {
    close();
    throw;
  }
}

Loader::~Loader() { stop(); }

bool Loader::in_opening_process() const { return ::getpid() == process_; }

void Loader::check_process() const {
  if (!in_opening_process()) {
    throw std::runtime_error("this loader belongs to the process that created it; create one in each process");
  }
}

void Loader::close() {
  check_process();
  stop();
}

void Loader::stop() {
  stopping_ = true;
  {
    const std::scoped_lock lock(mutex_);
    work_changed_.notify_all();
    batch_ready_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  const std::scoped_lock lock(mutex_);
  for (Slot& slot : ring_) slot = {};
  current_.reset();
  following_.reset();
}

std::shared_ptr<Batch> Loader::next(double seconds) {
  check_process();
  std::unique_lock<std::mutex> lock(mutex_);
  Slot& slot = ring_[delivered_ % ring_.size()];
  batch_ready_.wait_for(lock, std::chrono::duration<double>(seconds),
                        [&] { return slot.batch || slot.error || stopping_; });
  if (stopping_) throw std::runtime_error("this loader is closed; create another");
  if (slot.error) std::rethrow_exception(slot.error);
  if (!slot.batch) return nullptr;
  std::shared_ptr<Batch> batch = std::move(slot.batch);
  slot.batch.reset();
  ++delivered_;
  statistics_.batches += 1;
  statistics_.sequences += batch->num_sequences;
  statistics_.tokens += config_.tokens_per_batch;
  statistics_.unused_tokens += config_.tokens_per_batch - batch->num_tokens;
  statistics_.predictions += config_.predictions_per_batch;
  statistics_.unused_predictions += config_.predictions_per_batch - batch->num_predictions;
  statistics_.closed_by[static_cast<size_t>(batch->closed_by)] += 1;
  forget_passed_groups();
  work_changed_.notify_one();
  return batch;
}

void Loader::forget_passed_groups() {
  const uint64_t next = start_index_ + delivered_ * world_size_;
  while (!origins_.empty() && origins_.front().first_index + origins_.front().num_batches <= next) {
    const Origin& passed = origins_.front();
    passed_ = after_group({passed.first_index, passed.epoch, passed.group, 0}, passed.num_batches);
    statistics_.dropped_tokens += passed.dropped_tokens;
    origins_.pop_front();
  }
}

Cursor Loader::cursor() const {
  check_process();
  const std::scoped_lock lock(mutex_);
  const uint64_t next = start_index_ + delivered_ * world_size_;
  for (const Origin& origin : origins_) {
    if (next >= origin.first_index && next < origin.first_index + origin.num_batches) {
      return {next, origin.epoch, origin.group, next - origin.first_index};
    }
  }
  return {next, passed_.epoch, passed_.group, next - (passed_.index - passed_.batch)};
}

Statistics Loader::statistics() const {
  check_process();
  const std::scoped_lock lock(mutex_);
  return statistics_;
}

void Loader::work() {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "albert-loader");
#endif
  ExampleScratch scratch(config_.max_seq_length);
  const BuildBatch build_batch = build_batch_for(best_instruction_set(), rules_.token_bytes);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_ && !failed_) {
    // Micro-batches of the current group: those claimed or skipped for other ranks, and all of them.
    const uint64_t passed = current_ ? claim_index_ - current_->first_index : 0;
    const uint64_t count = current_ ? current_->plan.num_batches() : 0;
    const bool used_up = passed >= count;
    const bool room = claimed_ - delivered_ < ring_.size();

    // At half of the group, one thread reads and plans the next group while the others build the remaining batches.
    if (!preparing_ && !following_ && !prepare_error_ && passed >= count / 2) {
      if (auto group = idle_group()) {
        wake_consumer(1);
        prepare(lock, std::move(group));
        continue;
      }
    }
    if (!used_up && room) {  // a micro-batch to build and a free slot
      build(lock, build_batch, scratch);
    } else if (used_up && following_) {  // the next group is ready
      current_ = std::move(following_);
      following_.reset();
      work_changed_.notify_all();
    } else if (used_up && prepare_error_ &&
               room) {  // it could not be read: report the error in place of its first batch
      ring_[claimed_ % ring_.size()].error = prepare_error_;
      failed_ = true;
      batch_ready_.notify_one();
      work_changed_.notify_all();
    } else {  // the ring is full or the next group is not ready
      wake_consumer(1);
      work_changed_.wait(lock);
    }
  }
}

// Two groups suffice: one is consumed while the other is read. use_count() is exact because references are only dropped
// under the lock.
std::shared_ptr<Group> Loader::idle_group() const {
  for (const auto& group : groups_) {
    if (group.use_count() == 1) return group;
  }
  return nullptr;
}

void Loader::prepare(std::unique_lock<std::mutex>& lock, std::shared_ptr<Group> group) {
  preparing_ = true;
  lock.unlock();
  std::exception_ptr error;
  try {
    plan_next(*group);
    if (!stopping_) group->load(*corpus_);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  preparing_ = false;
  if (error) {
    prepare_error_ = error;
  } else {
    following_ = std::move(group);
  }
  work_changed_.notify_all();
}

// Plans the next group that has a micro-batch of this rank; the pages of groups without one are not read.
void Loader::plan_next(Group& group) {
  while (!stopping_) {
    if (plan_cursor_.group == 0) {
      whole_epoch_ = true;
      epoch_first_index_ = plan_cursor_.index;
    }
    planner_.make(plan_cursor_.epoch, plan_cursor_.group, group.plan);
    group.first_index = plan_cursor_.index;
    const uint64_t count = group.plan.num_batches();
    {
      const std::scoped_lock lock(mutex_);
      origins_.push_back(
          {plan_cursor_.index, count, plan_cursor_.epoch, plan_cursor_.group, group.plan.dropped_tokens});
      forget_passed_groups();
    }
    plan_cursor_ = after_group(plan_cursor_, count);
    if (plan_cursor_.group == 0) check_epoch();
    if (own_index_from(group.first_index) < plan_cursor_.index) return;
  }
}

Cursor Loader::after_group(const Cursor& group, uint64_t num_batches) const {
  const bool last = group.group + 1 == planner_.num_groups();
  return {group.index + num_batches, group.epoch + last, last ? 0 : group.group + 1, 0};
}

// The first micro-batch of this rank at or after `index`.
uint64_t Loader::own_index_from(uint64_t index) const {
  const uint64_t first = start_index_ + rank_;
  if (index <= first) return first;
  return first + (index - first + world_size_ - 1) / world_size_ * world_size_;
}

// At the end of an epoch: throws if it had no batch, or if the start of the stream is too far ahead to search.
void Loader::check_epoch() {
  if (!whole_epoch_) return;
  const uint64_t batches = plan_cursor_.index - epoch_first_index_;
  if (batches == 0) {
    throw std::runtime_error(corpus_->shards().front().path() +
                             ": no document has two tokens, so there is nothing to train on; prepare more text");
  }
  const uint64_t wanted = own_index_from(epoch_first_index_);
  if (wanted < plan_cursor_.index) return;
  const double epochs = static_cast<double>(wanted - plan_cursor_.index) / static_cast<double>(batches);
  if (epochs * static_cast<double>(corpus_->num_sentences()) > kMostSentencesToPass) {
    throw std::invalid_argument("start_batch=" + std::to_string(start_index_) + " is about " +
                                std::to_string(static_cast<uint64_t>(epochs)) +
                                " epochs ahead, which must all be planned to find it; give the cursor of a "
                                "checkpoint instead");
  }
}

void Loader::build(std::unique_lock<std::mutex>& lock, BuildBatch build_batch, ExampleScratch& scratch) {
  Slot& slot = ring_[claimed_ % ring_.size()];
  const uint64_t index = claim_index_;
  std::shared_ptr<Group> group = current_;
  ++claimed_;
  claim_index_ += world_size_;
  lock.unlock();
  std::shared_ptr<Batch> batch;
  std::exception_ptr error;
  try {
    if (index > kLastIndex) throw std::runtime_error("the stream of micro-batches ends at number 2^63 - 1");
    batch = pool_->take();
    build_batch(rules_, *group, static_cast<uint32_t>(index - group->first_index), scratch, *batch);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  const bool passed = group != current_;  // it may be idle now, and a thread may wait for that
  group.reset();
  slot.batch = std::move(batch);
  slot.error = error;
  if (error) failed_ = true;
  wake_consumer(ring_.size() / 2);
  if (error || passed) work_changed_.notify_all();
}

// Wakes the caller of next() if the next `count` batches, or an error, are ready. Waking it for half a ring at a time
// avoids most context switches if it is faster than the threads; before a thread waits or plans, one batch is enough.
void Loader::wake_consumer(uint64_t count) {
  for (uint64_t i = 0; i < count; ++i) {
    const Slot& slot = ring_[(delivered_ + i) % ring_.size()];
    if (slot.error) break;
    if (!slot.batch) return;
  }
  batch_ready_.notify_one();
}

}  // namespace albert_fast
