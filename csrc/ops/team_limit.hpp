// How many threads are worth having while other programs use the CPUs. A thread that meets one whose CPU is taken waits
// for a time slice, milliseconds at each barrier: beside two busy programs on two CPUs, a batch-norm gradient of 60
// layers took 26 times as long with two threads as with one (bench/experiments.md).
//
// Half as many threads would take twice the part of the time in which the caller of a team worked. If it has waited for
// more than two thirds of the time, this is less than two thirds of it. Then the limit becomes half of the team. Some
// time later, teams may be as large as they like again, to find out whether the CPUs are free. What this costs, at
// first a fifth of the time, halves with every attempt that fails, down to 3 %.
#ifndef GRADCORE_OPS_TEAM_LIMIT_HPP
#define GRADCORE_OPS_TEAM_LIMIT_HPP

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdint>

namespace gradcore {

// Times are in nanoseconds of a clock that never goes back.
class TeamLimit {
 public:
  static constexpr int kNone = INT_MAX;
  // Teams are judged by so much of their time, several time slices: a program that takes a CPU for a moment is no
  // reason, nor are the 10 ms that Linux may take to start a thread.
  static constexpr std::int64_t kJudged = 20'000'000;
  // The pause before larger teams are tried again, in units of the time that it took to refuse them.
  static constexpr int kFirstPause = 4, kLongestPause = 32;

  bool is_set() const noexcept { return most_.load(std::memory_order_relaxed) != kNone; }

  // The most threads that a team may have now. For any thread.
  int most(std::int64_t now) noexcept {
    const int most = most_.load(std::memory_order_relaxed);
    if (most == kNone || now < lifted_at_.load(std::memory_order_relaxed)) return most;
    lift();
    return kNone;
  }
  void lift() noexcept { most_.store(kNone, std::memory_order_relaxed); }

  // After the run of a team of `size` > 1 that took `time`, of which its caller waited for others for `waited`. For one
  // thread at a time.
  void note(int size, std::int64_t time, std::int64_t waited, std::int64_t now) noexcept {
    size_ = std::max(size_, size);
    time_ += time;
    waited_ += waited;
    if (time_ < kJudged) return;
    if (3 * waited_ > 2 * time_)
      lower(now);
    else if (!is_set())
      refused_ = 0, pause_ = kFirstPause;
    size_ = 0;
    time_ = waited_ = 0;
  }

 private:
  void lower(std::int64_t now) noexcept {
    // Teams of the whole size have been refused again, after a pause.
    if (!is_set() && refused_ > 0) refused_ = 0, pause_ = std::min(2 * pause_, kLongestPause);
    refused_ += time_;
    lifted_at_.store(now + pause_ * refused_, std::memory_order_relaxed);
    most_.store(size_ / 2, std::memory_order_relaxed);
  }

  std::atomic<int> most_{kNone};
  std::atomic<std::int64_t> lifted_at_{0};
  int size_ = 0;  // of the largest team since the last judgement
  std::int64_t time_ = 0, waited_ = 0;
  std::int64_t refused_ = 0;  // time that it took to come to the present limit; 0: none since teams were last approved
  int pause_ = kFirstPause;
};

}  // namespace gradcore

#endif
