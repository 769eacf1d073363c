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

// A place in the endless stream of micro-batches: global micro-batch `index` is number `batch` counted from the first
// of (epoch, group). `batch` may lie in a later group; finding it then costs the plans between.
struct Cursor {
  uint64_t index = 0;
  uint64_t epoch = 0;
  uint32_t group = 0;
  uint64_t batch = 0;
};

// What was handed out so far, and why batches ended.
struct Statistics {
  uint64_t batches = 0;
  uint64_t sequences = 0;
  uint64_t tokens = 0;         // of the batches' T each
  uint64_t unused_tokens = 0;  // at the ends of batches
  uint64_t predictions = 0;    // of the batches' P each
  uint64_t unused_predictions = 0;
  uint64_t dropped_tokens = 0;  // one-token tails in the groups planned so far
  uint64_t closed_by[4] = {};   // indexed by ClosedBy
};

// The stream of micro-batches index, index + world_size, ... of (corpus, config), from cursor.index + rank on, built by
// `threads` threads a few batches ahead and handed out in order. The bytes depend on nothing but (corpus, config,
// index). Errors of the threads (std::runtime_error for damaged or vanished files) are thrown by next() in place of the
// batch that needed them, and by every later call.
//
// One thread at a time may call next(); any thread may call the rest. In a forked child every call throws
// std::runtime_error, and the loader must be leaked (LoaderDeleter does): the parent's threads are not there to join,
// and destroying a condition variable that one of them waited for at the fork would wait for ever.
class Loader {
 public:
  Loader(std::shared_ptr<const Corpus> corpus, const LoaderConfig& config, const Cursor& start, uint64_t rank,
         uint64_t world_size, uint32_t threads);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Waits at most `seconds`; nullptr where the batch is not there yet.
  std::shared_ptr<Batch> next(double seconds);
  // Of the global micro-batch that follows this rank's last round: the same for all ranks at the same step.
  Cursor cursor() const;
  Statistics statistics() const;
  const LoaderConfig& config() const { return config_; }
  // Stops and joins the threads; later calls of next() throw. May be called again.
  void close();
  bool in_opening_process() const;

 private:
  struct Slot {
    std::shared_ptr<Batch> batch;
    std::exception_ptr error;
  };
  struct Origin {  // of a group that was planned
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

  // Of the one thread that prepares a group.
  Planner planner_;
  Cursor plan_cursor_;        // the group to plan next; index is its first micro-batch
  bool whole_epoch_ = false;  // planned from its first group on
  uint64_t epoch_first_index_ = 0;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable work_changed_, batch_ready_;
  std::atomic<bool> stopping_{false};
  std::vector<Slot> ring_;  // batch number n of this rank at n % size
  uint64_t claimed_ = 0;    // batches taken up by a thread
  uint64_t delivered_ = 0;  // batches handed out
  uint64_t claim_index_;    // global index of batch number claimed_
  std::shared_ptr<Group> current_, following_;
  const std::array<std::shared_ptr<Group>, 2> groups_;  // memory, reused
  bool preparing_ = false;
  std::exception_ptr prepare_error_;
  bool failed_ = false;
  std::deque<Origin> origins_;  // of groups that were planned and are not passed yet
  Cursor passed_;               // where the first of them begins, or where the stream was entered
  Statistics statistics_;

  std::vector<std::thread> threads_;
};

struct LoaderDeleter {
  void operator()(Loader* loader) const {
    if (loader->in_opening_process()) delete loader;
  }
};

}  // namespace albert_fast
