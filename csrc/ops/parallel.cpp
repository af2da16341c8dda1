#include "ops/parallel.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>

#include "cancellation.hpp"
#include "float_mode.hpp"
#include "ops/cpus.hpp"
#include "ops/team_limit.hpp"

namespace gradcore {

namespace {

constexpr int kMaxThreads = 256;
// About 2 us of products on one core; below that, waking a sleeping worker costs more than it saves.
constexpr double kFlopsPerThread = 400e3;
// A thread waits in three stages. It spins for about 3 us, longer than threads that run at the same time need. It
// yields the CPU for about 60 us, so that a thread on the same CPU continues at once (with spinning alone, a batch-norm
// gradient with both threads on one CPU takes 15 ms instead of 1.6). Then it sleeps; waking takes 50 us or more.
constexpr int kSpins = 256;
constexpr int kYields = 200;

void pause_cpu() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

std::int64_t nanoseconds() noexcept {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How long this thread has waited at gates, without the spinning.
thread_local std::int64_t waited = 0;

// A positive whole number, or the first of a list of them, as in OMP_NUM_THREADS; 0 for anything else, such as 2.5.
int positive_from_environment(const char *name) noexcept {
  const char *text = std::getenv(name);
  if (!text) return 0;
  char *end = nullptr;
  const long value = std::strtol(text, &end, 10);
  end += std::strspn(end, " \t\r\n");
  const bool whole = end != text && (*end == '\0' || *end == ',');
  return whole && value > 0 ? int(value < kMaxThreads ? value : kMaxThreads) : 0;
}

struct ThreadCount {
  int count;
  const char *source;
};

ThreadCount default_num_threads() noexcept {
  for (const char *name : {"GRADCORE_NUM_THREADS", "OMP_NUM_THREADS"})
    if (int n = positive_from_environment(name)) return {n, name};
  const CancellationPutOff put_off;
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool known = sched_getaffinity(0, sizeof set, &set) == 0;
  const int cores = known ? count_cores(set) : int(std::thread::hardware_concurrency()), quota = cpu_quota();
  if (quota < cores) return {quota < kMaxThreads ? quota : kMaxThreads, "cgroup quota"};
  return {cores < 1 ? 1 : cores < kMaxThreads ? cores : kMaxThreads, "CPU affinity"};
}

std::atomic<int> num_threads{0};  // 0: not determined yet
std::atomic<const char *> num_threads_from{nullptr};

// Linux may start or wake a thread on the CPU of its caller and leave both there, taking turns, for 20 ms and more
// (short programs then took 1.2 times as long with two threads as with one, instead of 0.6; bench/experiments.md). So
// such a thread moves to another CPU that it may use; afterwards it may move anywhere again.
void leave_cpu(int cpu) noexcept {
  cpu_set_t allowed;
  if (cpu < 0 || sched_getcpu() != cpu || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(std::size_t(cpu), &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
}

// Blocks signals while threads are created, which inherit that: a signal for the process is for the host, which may
// wait for it (sigwait, signalfd) with all of its own threads blocking it. Not blocked: what a thread's own faults
// raise, and what profilers count by.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int own : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPROF, SIGSEGV, SIGSYS, SIGTRAP}) sigdelset(&blocked, own);
    pthread_sigmask(SIG_BLOCK, &blocked, &before_);
  }
  SignalsBlocked(const SignalsBlocked &) = delete;
  SignalsBlocked &operator=(const SignalsBlocked &) = delete;
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

constexpr int group_of(int rank) noexcept { return 31 - __builtin_clz(unsigned(rank)); }

// Workers wait at the gate of their group: rank 1, ranks 2 and 3, 4 to 7, ... A job is published by writing it and
// opening the gates of as many groups as it needs, so a small team neither wakes the other workers of a large pool nor
// waits for them. Every worker of these groups answers, so none can see a job twice or miss one.
class Pool {
 public:
  // Returns false if another caller is inside, or this thread further up its stack.
  bool try_run(int size, FunctionRef<void(const Team &)> body) noexcept {
    if (taken_.exchange(true, std::memory_order_acquire)) return false;
    const std::int64_t began = nanoseconds(), waited_before = waited;
    size_ = ensure_workers(size);
    meeting_.reset(size_);
    body_ = &body;
    mode_ = FloatMode();
    callers_cpu_ = sched_getcpu();
    const int groups = size_ > 1 ? group_of(size_ - 1) + 1 : 0, called = (1 << groups) - 1;
    unfinished_.reset(std::uint32_t(std::min(called, num_workers_)));
    for (int group = 0; group < groups; group++) jobs_[group].add(1);
    body(Team{0, size_, &meeting_});
    for (std::uint32_t left; (left = unfinished_.value()) != 0;) unfinished_.wait_while(left);
    const std::int64_t now = nanoseconds();
    if (size_ > 1) limit_.note(size_, now - began, waited - waited_before, now);
    taken_.store(false, std::memory_order_release);
    return true;
  }
  int most_threads() noexcept { return limit_.is_set() ? limit_.most(nanoseconds()) : TeamLimit::kNone; }
  void lift_limit() noexcept { limit_.lift(); }

 private:
  // Returns a smaller size if the system refuses a thread.
  int ensure_workers(int size) noexcept {
    if (num_workers_ >= size - 1) return size;
    const SignalsBlocked blocked;
    while (num_workers_ < size - 1) {
      const int rank = num_workers_ + 1;
      try {
        std::thread(&Pool::work, this, rank, jobs_[group_of(rank)].value()).detach();
      } catch (...) {
        break;
      }
      num_workers_++;
    }
    return num_workers_ + 1 < size ? num_workers_ + 1 : size;
  }

  void work(int rank, std::uint32_t job) noexcept {
    for (;; job++) {
      jobs_[group_of(rank)].wait_while(job);
      if (rank < size_) {
        leave_cpu(callers_cpu_);
        mode_.set();
        (*body_)(Team{rank, size_, &meeting_});
      }
      unfinished_.add(std::uint32_t(-1));
    }
  }

  std::atomic<bool> taken_{false};
  Meeting meeting_;
  const FunctionRef<void(const Team &)> *body_ = nullptr;
  FloatMode mode_;  // of the caller: results do not depend on who computes what
  int size_ = 0, callers_cpu_ = -1;
  int num_workers_ = 0;
  TeamLimit limit_;
  Gate jobs_[group_of(kMaxThreads - 1) + 1], unfinished_;
};

thread_local const ThreadSource *thread_source = nullptr;  // null: the pool with get_num_threads()

// A team on the host's threads. The members meet, so all of them must run at the same time, but a host may run its
// tasks one after another. So the team consists of the members that arrive while the first one waits briefly; then it
// is closed, and members that arrive later have nothing to do.
class HostTeam {
 public:
  HostTeam(int size, FunctionRef<void(const Team &)> body) noexcept : wanted_(std::uint32_t(size)), body_(body) {}

  void run(const ThreadSource &source) noexcept {
    source.parallel_for(
        source.context, int32_t(wanted_), [](void *team, int32_t) { static_cast<HostTeam *>(team)->join(); }, this);
    if (!(state_.load(std::memory_order_acquire) & kClosed)) join();  // the host has run no task
  }

 private:
  static constexpr std::uint32_t kClosed = std::uint32_t(1) << 31;

  void join() noexcept {
    std::uint32_t rank = state_.load(std::memory_order_relaxed);
    do {
      if ((rank & kClosed) || rank >= wanted_) return;
    } while (!state_.compare_exchange_weak(rank, rank + 1, std::memory_order_acq_rel));
    if (rank == 0)
      close();
    else
      while (size_.value() == 0) size_.wait_while(0);
    const FloatMode own;
    mode_.set();
    body_(Team{int(rank), int(size_.value()), &meeting_});
    own.set();
  }

  void close() noexcept {
    for (int i = 0; i < kSpins + kYields && state_.load(std::memory_order_acquire) < wanted_; i++)
      i < kSpins ? pause_cpu() : (void)sched_yield();
    const std::uint32_t size = state_.fetch_or(kClosed, std::memory_order_acq_rel);
    meeting_.reset(int(size));
    size_.add(size);
  }

  const std::uint32_t wanted_;
  const FunctionRef<void(const Team &)> body_;
  const FloatMode mode_;                 // of the caller
  std::atomic<std::uint32_t> state_{0};  // number of members so far, and kClosed
  Gate size_;                            // size of the closed team; 0 before
  Meeting meeting_;
};

// The pool is never destroyed, because workers wait in it until the process ends. A forked child has none of the
// parent's workers and may have copied a locked mutex, so it gets a new pool.
std::atomic<Pool *> the_pool{nullptr};
std::mutex pool_creation;

Pool *pool() noexcept {
  if (Pool *p = the_pool.load(std::memory_order_acquire)) return p;
  std::lock_guard<std::mutex> lock(pool_creation);
  if (Pool *p = the_pool.load(std::memory_order_acquire)) return p;
  static const int registered = pthread_atfork([] { pool_creation.lock(); }, [] { pool_creation.unlock(); },
                                               [] {
                                                 the_pool.store(nullptr);
                                                 pool_creation.unlock();
                                               });
  (void)registered;
  Pool *p = new (std::nothrow) Pool;
  the_pool.store(p, std::memory_order_release);
  return p;
}

}  // namespace

// If another thread sets the number meanwhile, that value stays.
int get_num_threads() noexcept {
  int n = num_threads.load(std::memory_order_relaxed);
  if (n != 0) return n;
  const ThreadCount chosen = default_num_threads();
  if (!num_threads.compare_exchange_strong(n, chosen.count, std::memory_order_relaxed)) return n;
  const char *none = nullptr;
  num_threads_from.compare_exchange_strong(none, chosen.source, std::memory_order_relaxed);
  return chosen.count;
}

const char *num_threads_source() noexcept {
  get_num_threads();
  const char *source = num_threads_from.load(std::memory_order_relaxed);
  return source ? source : default_num_threads().source;  // another thread is about to store it
}

void set_num_threads(int n) noexcept {
  num_threads_from.store("set_num_threads", std::memory_order_relaxed);
  num_threads.store(n < 1 ? 1 : n < kMaxThreads ? n : kMaxThreads, std::memory_order_relaxed);
  if (Pool *p = the_pool.load(std::memory_order_acquire)) p->lift_limit();
}

// Sequential consistency on both sides: either the sleeper sees the new value, or add() sees the sleeper.
std::uint32_t Gate::add(std::uint32_t amount) noexcept {
  const std::uint32_t value = value_.fetch_add(amount, std::memory_order_seq_cst) + amount;
  if (sleepers_.load(std::memory_order_seq_cst) != 0)
    syscall(SYS_futex, reinterpret_cast<std::uint32_t *>(&value_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  return value;
}

void Gate::wait_while(std::uint32_t old_value) noexcept {
  for (int i = 0; i < kSpins; i++) {
    if (value() != old_value) return;
    pause_cpu();
  }
  const std::int64_t began = nanoseconds();
  yield_or_sleep_while(old_value);
  waited += nanoseconds() - began;
}

void Gate::yield_or_sleep_while(std::uint32_t old_value) noexcept {
  for (int i = 0; i < kYields; i++) {
    if (value() != old_value) return;
    sched_yield();
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == old_value)
    syscall(SYS_futex, reinterpret_cast<std::uint32_t *>(&value_), FUTEX_WAIT_PRIVATE, old_value, nullptr, nullptr, 0);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

void Meeting::reset(int size) noexcept {
  size_ = std::uint32_t(size);
  arrived_.store(0, std::memory_order_relaxed);
}

void Meeting::wait() noexcept {
  const std::uint32_t generation = generation_.value();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.add(1);
  } else {
    generation_.wait_while(generation);
  }
}

ThreadScope::ThreadScope(const ThreadSource &source) noexcept : outer_(thread_source) { thread_source = &source; }
ThreadScope::~ThreadScope() { thread_source = outer_; }

int most_threads() noexcept {
  const int asked = thread_source ? std::min(thread_source->num_threads, kMaxThreads) : 0;
  if (asked == 0) return get_num_threads();
  return thread_source->parallel_for ? asked : std::min(asked, get_num_threads());
}

int threads_for(double flops, index max_threads) noexcept {
  const double worth = flops / kFlopsPerThread;
  index n = most_threads();
  if (worth < double(n)) n = index(worth);
  if (max_threads < n) n = max_threads;
  return n < 1 ? 1 : int(n);
}

void run_team(int size, FunctionRef<void(const Team &)> body) noexcept {
  if (size > 1 && thread_source && thread_source->parallel_for) return HostTeam(size, body).run(*thread_source);
  if (size > 1)
    if (Pool *p = pool())
      if (const int most = p->most_threads(); most > 1 && p->try_run(std::min(size, most), body)) return;
  body(Team{0, 1, nullptr});
}

// A team that has become smaller than the tuner chose says nothing about its choice.
void run_team(int size, TeamTuner &tuner, FunctionRef<void(const Team &)> body) noexcept {
  const bool timed = tuner.is_timed();
  const std::int64_t began = timed ? nanoseconds() : 0;
  int joined = 0;
  run_team(size, [&](const Team &team) {
    if (team.rank == 0) joined = team.size;
    body(team);
  });
  if (joined == size) tuner.note(timed ? nanoseconds() - began : 0);
}

void parallel_for(index num_tasks, double flops, FunctionRef<void(index)> task) noexcept {
  const int size = threads_for(flops, num_tasks);
  if (size == 1) {
    for (index i = 0; i < num_tasks; i++) task(i);
    return;
  }
  struct alignas(kCacheLine) Claims {
    std::atomic<index> count;
  };
  Claims claims[kMaxThreads];  // of the tasks in each thread's share
  for (int rank = 0; rank < size; rank++) claims[rank].count.store(0, std::memory_order_relaxed);
  run_team(size, [&](const Team &team) {
    for (int k = 0; k < team.size; k++) {  // its own share, then what the others have left of theirs
      const int rank = (team.rank + k) % team.size;
      const Share share = share_of(num_tasks, Team{rank, team.size, nullptr});
      for (index i; (i = share.begin + claims[rank].count.fetch_add(1, std::memory_order_relaxed)) < share.end;)
        task(i);
    }
  });
}

}  // namespace gradcore
