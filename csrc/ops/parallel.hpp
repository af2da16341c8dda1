// gradcore's own thread pool: OpenMP runtimes break under fork, next to each other, and when oversubscribed. Nothing
// starts before the first call that wants two threads. A forked child starts anew. A caller that finds the pool taken
// runs alone. Workers spin briefly, yield, then sleep.
#ifndef GRADCORE_OPS_PARALLEL_HPP
#define GRADCORE_OPS_PARALLEL_HPP

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "gradcore/gradcore.h"
#include "kernels/kernel_table.hpp"
#include "ops/team_tuner.hpp"

namespace gradcore {

// A callable by reference: two pointers, no allocation. The callable must outlive the call.
template <class Signature>
class FunctionRef;
template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionRef>>>
  FunctionRef(F &&f) noexcept  // NOLINT: implicit by design
      : object_(const_cast<void *>(static_cast<const void *>(std::addressof(f)))),
        call_([](void *object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F> *>(object))(std::forward<Args>(args)...);
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void *object_;
  R (*call_)(void *, Args...);
};

int get_num_threads() noexcept;
const char *num_threads_source() noexcept;  // where the number comes from, in words
void set_num_threads(int n) noexcept;       // n >= 1

// A counter to wait on: spins briefly, then yields, then sleeps until woken.
class Gate {
 public:
  std::uint32_t value() const noexcept { return value_.load(std::memory_order_acquire); }
  void reset(std::uint32_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  std::uint32_t add(std::uint32_t amount) noexcept;   // wakes the waiting; returns the new value
  void wait_while(std::uint32_t old_value) noexcept;  // returns once value() != old_value

 private:
  void yield_or_sleep_while(std::uint32_t old_value) noexcept;

  alignas(64) std::atomic<std::uint32_t> value_{0};
  std::atomic<std::uint32_t> sleepers_{0};
};

// A barrier.
class Meeting {
 public:
  void reset(int size) noexcept;
  void wait() noexcept;

 private:
  alignas(64) std::atomic<std::uint32_t> arrived_{0};
  Gate generation_;
  std::uint32_t size_ = 1;
};

// One thread of a team that runs a body together.
struct Team {
  int rank, size;
  Meeting *meeting;
  void meet() const noexcept {
    if (size > 1) meeting->wait();
  }
};

// A range [begin, end).
struct Share {
  index begin, end;
};
// The contiguous share of `count` items that one thread of a team takes.
inline Share share_of(index count, const Team &team) noexcept {
  return {count * team.rank / team.size, count * (team.rank + 1) / team.size};
}

// Where the threads of a call come from: the library's own pool, or the caller's.
struct ThreadSource {
  gradcore_parallel_for parallel_for = nullptr;  // null: the pool
  void *context = nullptr;
  int num_threads = 0;  // at most; 0: get_num_threads()
};

// Sets where the calling thread's teams come from until the end of the scope. The source must outlive it.
class ThreadScope {
 public:
  explicit ThreadScope(const ThreadSource &source) noexcept;
  ThreadScope(const ThreadScope &) = delete;
  ThreadScope &operator=(const ThreadScope &) = delete;
  ~ThreadScope();

 private:
  const ThreadSource *const outer_;
};

// The most threads that a call may run on: its source's number, or get_num_threads(), which also limits the pool.
int most_threads() noexcept;

// The number of threads worth waking for this much work: at least kFlopsPerThread each, at most most_threads().
int threads_for(double flops, index max_threads) noexcept;

// Runs body on `size` threads at once (the caller is rank 0) and returns when all are done. The team is smaller while
// other programs keep the pool's threads from running at the same time (team_limit.hpp), and has one member if another
// caller has taken the pool: bodies must give the same bits for any size.
void run_team(int size, FunctionRef<void(const Team &)> body) noexcept;

// The same for a size that the tuner has chosen, which learns how long it took.
void run_team(int size, TeamTuner &tuner, FunctionRef<void(const Team &)> body) noexcept;

// task(0) ... task(num_tasks - 1) in any order. Each thread begins with a share that depends on the numbers alone, so
// that repeated calls find their data in its caches.
void parallel_for(index num_tasks, double flops, FunctionRef<void(index)> task) noexcept;

}  // namespace gradcore

#endif
