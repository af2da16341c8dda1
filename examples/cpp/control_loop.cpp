// A control loop that learns while it runs. An arm on a motor follows a path, but its controller does not know the
// arm's inertia, friction and weight. A small net learns the required torque from the loop's measurements. It is
// trained in every tick, within the time budget of the tick.
//
//   control_loop [ticks] [budget in microseconds]      (default 8000 ticks of 1 ms, 200 us each)
//
// Exit code 0 if the tracking error of the last quarter is below a third of that of the first 500 ticks.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <gradcore/gradcore.hpp>
#include <random>

namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTick = 1e-3;           // seconds of the simulated arm
constexpr double kAssumedInertia = 1.0;  // the only model of the controller
constexpr float kTorqueScale = 0.1f;     // brings torques to the order of 1
constexpr std::size_t kMemory = 4096;    // number of samples kept
constexpr std::size_t kBatch = 32;

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// ---- the arm: (inertia) acceleration = torque - friction - weight ----

struct Arm {
  double angle = 0, speed = 0, acceleration = 0;

  void move(double torque) {
    acceleration = (torque - 0.4 * speed - 6.0 * std::sin(angle)) / 1.3;
    speed += kTick * acceleration;
    angle += kTick * speed;
  }
};

struct Point {
  double angle, speed, acceleration;
};

Point path(double t) {
  return {0.9 * std::sin(1.5 * t) + 0.4 * std::sin(3.7 * t), 1.35 * std::cos(1.5 * t) + 1.48 * std::cos(3.7 * t),
          -2.025 * std::sin(1.5 * t) - 5.476 * std::sin(3.7 * t)};
}

// ---- what it learns: (angle, speed, acceleration) -> torque beyond the assumed inertia ----

class TorqueModel {
 public:
  TorqueModel() : net_(config()), optimizer_(net_, gradcore::adam(2e-3)) {
    net_.initialize();
    const gradcore::Tensor<float> last = net_.parameter("dense2.weight");
    std::fill(last.values.begin(), last.values.end(), 0.0f);  // the untrained net adds no torque
    net_.parameters_changed();
    train();  // allocates the workspace before the loop starts
  }

  double torque(double angle, double speed, double acceleration) {
    const std::array<float, 3> x = features(angle, speed, acceleration);
    std::array<float, 1> y;
    net_.forward({x.data(), 1, 3}, y);
    return y[0] / kTorqueScale;
  }

  void remember(const Arm &before, double torque, double acceleration) {
    const std::array<float, 3> x = features(before.angle, before.speed, acceleration);
    std::copy(x.begin(), x.end(), &inputs_[3 * (count_ % kMemory)]);
    torques_[count_ % kMemory] = kTorqueScale * float(torque - kAssumedInertia * acceleration);
    count_++;
  }

  // One step on samples drawn from memory.
  void train() {
    const std::size_t filled = std::max<std::size_t>(1, std::min(count_, kMemory));
    for (std::size_t i = 0; i < kBatch; i++) {
      const std::size_t sample = random_() % filled;
      std::copy_n(&inputs_[3 * sample], 3, &batch_x_[3 * i]);
      batch_y_[i] = torques_[sample];
    }
    net_.train_step({batch_x_.data(), kBatch, 3}, gradcore::Matrix(batch_y_.data(), kBatch, 1), gradcore::Loss::mse,
                    optimizer_, {1.0, 0});
  }

 private:
  static gradcore::NetConfig config() {
    gradcore::NetConfig config;
    config.widths = {3, 32, 32, 1};
    config.activations = {gradcore::Activation::tanh};
    return config;
  }
  static std::array<float, 3> features(double angle, double speed, double acceleration) {
    return {float(angle), float(speed / 3), float(acceleration / 8)};
  }

  gradcore::Net<float> net_;
  gradcore::Optimizer<float> optimizer_;
  std::array<float, 3 * kMemory> inputs_{};
  std::array<float, kMemory> torques_{};
  std::array<float, 3 * kBatch> batch_x_{};
  std::array<float, kBatch> batch_y_{};
  std::size_t count_ = 0;
  std::minstd_rand random_{1};
};

// ---- the loop ----

struct Report {
  std::vector<double> errors, times;  // of each tick: radians, microseconds
  long steps = 0;
};

// Trains at least once, and again while the longest step so far still fits into the budget.
long train_until(TorqueModel &model, Clock::time_point start, double budget) {
  long steps = 0;
  double longest = 0, now = microseconds_since(start);
  do {
    model.train();
    const double after = microseconds_since(start);
    longest = std::max(longest, after - now);
    now = after;
    steps++;
  } while (now + longest <= budget);
  return steps;
}

Report run(long ticks, double budget) {
  TorqueModel model;
  Arm arm;
  Report report;
  report.errors.reserve(std::size_t(ticks));
  report.times.reserve(std::size_t(ticks));
  for (long tick = 0; tick < ticks; tick++) {
    const Clock::time_point start = Clock::now();
    const Point goal = path(kTick * double(tick));
    const double wanted = goal.acceleration + 6 * (goal.speed - arm.speed) + 25 * (goal.angle - arm.angle);
    const double torque = kAssumedInertia * wanted + model.torque(arm.angle, arm.speed, wanted);
    const Arm before = arm;
    arm.move(torque);
    model.remember(before, torque, arm.acceleration);
    report.steps += train_until(model, start, budget);
    report.times.push_back(microseconds_since(start));
    report.errors.push_back(goal.angle - before.angle);
  }
  return report;
}

double root_mean_square(const double *begin, const double *end) {
  double sum = 0;
  for (const double *e = begin; e != end; ++e) sum += *e * *e;
  return std::sqrt(sum / double(end - begin));
}

}  // namespace

int main(int argc, char **argv) try {
  const long ticks = argc > 1 ? std::atol(argv[1]) : 8000;
  const double budget = argc > 2 ? std::atof(argv[2]) : 200;
  if (ticks < 2000 || !(budget > 0)) {
    std::fprintf(stderr, "usage: control_loop [ticks >= 2000] [budget in microseconds > 0]\n");
    return 2;
  }
  gradcore::set_num_threads(1);  // so small a net gains nothing from more, and the loop may have only one core
  Report report = run(ticks, budget);

  const double *errors = report.errors.data();
  const double first = root_mean_square(errors, errors + 500);
  const double last = root_mean_square(errors + ticks - ticks / 4, errors + ticks);
  std::sort(report.times.begin(), report.times.end());
  const auto late = report.times.end() - std::upper_bound(report.times.begin(), report.times.end(), budget);
  std::printf("training steps     %.1f a tick\n", double(report.steps) / double(ticks));
  std::printf("worst tick         %.1f us of a budget of %.0f us\n", report.times.back(), budget);
  std::printf("median tick        %.1f us; %ld of %ld over the budget\n", report.times[std::size_t(ticks / 2)],
              long(late), ticks);
  std::printf("tracking error     %.4f rad at first, %.4f rad at last\n", first, last);
  return last < first / 3 ? 0 : 1;
} catch (const gradcore::Error &error) {
  std::fprintf(stderr, "control_loop: %s\n", error.what());
  return 2;
}
