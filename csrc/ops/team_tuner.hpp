// How many threads a repeated call is fastest with. FLOPs tell how many could pay, but what threads cost depends on the
// machine: above all on how long a cache line takes from one core to another, which may be 0.1 us or, between sockets
// or on a virtual machine, 0.35. Then a training step of 32 rows of w64 d10 takes 1.7 times as long with two threads as
// with one, although it takes 0.75 of the time where lines travel fast (bench/experiments.md).
//
// So once in a while half or twice as many threads are tried for a few calls, and kept if these are faster. A trial
// that fails mostly ends with its second call, which costs up to 0.8 % of the time at first and, because the pause
// before the next one doubles, 0.1 % later.
#ifndef GRADCORE_OPS_TEAM_TUNER_HPP
#define GRADCORE_OPS_TEAM_TUNER_HPP

#include <algorithm>
#include <cstdint>

namespace gradcore {

// For one caller at a time. Times are in nanoseconds.
class TeamTuner {
 public:
  // Calls in a sample, whose median counts: now and then a call takes much longer.
  static constexpr int kSample = 5;
  // Calls from one trial to the next.
  static constexpr int kFirstPause = 256, kLongestPause = 2048;
  // Another size must save a twentieth; a trial ends at once when a call takes a quarter longer.
  static constexpr double kGain = 0.95, kHopeless = 1.25;

  // The size for the next call of this work, at most `worth`. Calls with the same number are alike; a single call of
  // other work is not measured, a second one makes it the work to be tuned for.
  int size(int worth, std::uint64_t work) noexcept {
    matches_ = worth == worth_ && work == work_;
    if (!matches_ && worth == other_worth_ && work == other_work_) begin(worth, work);
    other_worth_ = matches_ ? 0 : worth;
    other_work_ = work;
    if (!matches_) return size_ < worth_ ? std::min(size_, worth) : worth;
    return trying() ? tried_ : size_;
  }
  // Whether the time of this call is of interest.
  bool is_timed() const noexcept { return matches_ && worth_ > 1 && call_ >= pause_; }

  // After the call, which took `time` if it was to be timed.
  void note(std::int64_t time) noexcept {
    if (!matches_ || worth_ == 1) return;
    const int k = call_++ - pause_;
    if (k < 0) return;
    if (k < kSample) {
      sample_[k] = time;
      if (k == kSample - 1) begin_trial();
      return;
    }
    if (k == kSample) return;  // the first call with another team also moves data to other caches
    sample_[k - kSample - 1] = time;
    if (k == kSample + 1 && double(time) > kHopeless * double(usual_)) return end_trial(false);
    if (k == 2 * kSample) end_trial(double(median()) < kGain * double(usual_));
  }

 private:
  bool trying() const noexcept { return call_ >= pause_ + kSample; }

  void begin(int worth, std::uint64_t work) noexcept {
    *this = TeamTuner();
    worth_ = size_ = worth;
    work_ = work;
    matches_ = true;
  }
  void begin_trial() noexcept {
    usual_ = median();
    if (size_ == 1 || size_ == worth_) up_ = size_ == 1;
    tried_ = up_ ? std::min(2 * size_, worth_) : size_ / 2;
    up_ = !up_;
  }
  void end_trial(bool better) noexcept {
    if (better) size_ = tried_;
    pause_ = better ? kFirstPause : std::min(2 * pause_, kLongestPause);
    call_ = 0;
  }
  std::int64_t median() noexcept {
    std::nth_element(sample_, sample_ + kSample / 2, sample_ + kSample);
    return sample_[kSample / 2];
  }

  int worth_ = 0, other_worth_ = 0;
  std::uint64_t work_ = 0, other_work_ = 0;
  bool matches_ = false;
  int size_ = 0, tried_ = 0;
  bool up_ = false;                     // the direction of the next trial, if both are possible
  int call_ = 0, pause_ = kFirstPause;  // calls since the last trial, and how many until the next
  std::int64_t usual_ = 0, sample_[kSample] = {};
};

}  // namespace gradcore

#endif
