#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "batch.h"
#include "build_batch.h"
#include "corpus.h"
#include "group.h"
#include "plan.h"

namespace albert_fast {

// A position in the infinite stream of micro-batches: global micro-batch `index` is number `batch` counted from the
// first one of (epoch, group). It may lie in a later group; the groups in between must then be planned to find it.
struct Cursor {
  uint64_t index = 0;
  uint64_t epoch = 0;
  uint32_t group = 0;
  uint64_t batch = 0;
};

// Counts over the batches returned so far.
struct Statistics {
  uint64_t batches = 0;
  uint64_t sequences = 0;
  uint64_t tokens = 0;         // T per batch
  uint64_t unused_tokens = 0;  // padding at the ends of batches
  uint64_t predictions = 0;    // P per batch
  uint64_t unused_predictions = 0;
  uint64_t dropped_tokens = 0;  // one-token tails in the groups passed so far
  uint64_t closed_by[4] = {};   // indexed by ClosedBy
};

// The micro-batches of one rank: every world_size-th micro-batch of (corpus, config), starting at start.index + rank.
// `threads` threads build them a few batches ahead; next() returns them in order. The bytes depend only on (corpus,
// config, index). An error in a thread (std::runtime_error for damaged or missing files) is thrown by next() in place
// of the affected batch, and by every later call.
//
// next() may be called by one thread at a time; all other methods are thread-safe. In a forked child every call throws
// std::runtime_error and the loader must be leaked (see LoaderDeleter): the threads to join exist only in the parent,
// and destroying a condition variable that had a waiter at the fork blocks forever.
class Loader {
 public:
  Loader(std::shared_ptr<const Corpus> corpus, const LoaderConfig& config, const Cursor& start, uint64_t rank,
         uint64_t world_size, uint32_t threads);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next batch, or nullptr if it is not ready within `seconds`.
  std::shared_ptr<Batch> next(double seconds);
  // The position after this rank's last round of world_size micro-batches; equal on all ranks after the same step.
  Cursor cursor() const;
  Statistics statistics() const;
  const LoaderConfig& config() const { return config_; }
  // Stops and joins the threads; later calls of next() throw. Idempotent.
  void close();
  bool in_opening_process() const;

 private:
  struct Slot {
    std::shared_ptr<Batch> batch;
    std::exception_ptr error;
  };
  struct Origin {  // where a planned group begins in the stream
    uint64_t first_index;
    uint64_t num_batches;
    uint64_t epoch;
    uint32_t group;
    uint64_t dropped_tokens;
  };

  void check_process() const;
  void stop();
  void work();
  std::shared_ptr<Group> idle_group() const;
  void prepare(std::unique_lock<std::mutex>& lock, std::shared_ptr<Group> group);
  void plan_next(Group& group);
  uint64_t own_index_from(uint64_t index) const;
  Cursor after_group(const Cursor& group, uint64_t num_batches) const;
  void check_epoch();
  void build(std::unique_lock<std::mutex>& lock, BuildBatch build_batch, ExampleScratch& scratch);
  void wake_consumer(uint64_t count);
  void forget_passed_groups();

  const std::shared_ptr<const Corpus> corpus_;
  const LoaderConfig config_;
  const ExampleRules rules_;
  const uint64_t rank_, world_size_;
  const pid_t process_;
  const std::shared_ptr<BatchPool> pool_;
  const uint64_t start_index_;

  // Used only by the thread that prepares a group.
  Planner planner_;
  Cursor plan_cursor_;        // the group to plan next; index is its first micro-batch
  bool whole_epoch_ = false;  // the epoch was planned from its first group
  uint64_t epoch_first_index_ = 0;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable work_changed_, batch_ready_;
  std::atomic<bool> stopping_{false};
  std::vector<Slot> ring_;  // batch n of this rank is at n % size
  uint64_t claimed_ = 0;    // batches claimed by a thread to build
  uint64_t delivered_ = 0;  // batches returned by next()
  uint64_t claim_index_;    // global index of batch claimed_
  std::shared_ptr<Group> current_, following_;
  const std::array<std::shared_ptr<Group>, 2> groups_;  // memory, reused
  bool preparing_ = false;
  std::exception_ptr prepare_error_;
  bool failed_ = false;
  std::deque<Origin> origins_;  // planned groups that next() has not passed yet
  Cursor passed_;               // where the first of them begins; initially the start of the stream
  Statistics statistics_;

  std::vector<std::thread> threads_;
};

// Leaks the loader in a forked child.
struct LoaderDeleter {
  void operator()(Loader* loader) const {
    if (loader->in_opening_process()) delete loader;
  }
};

}  // namespace albert_fast
