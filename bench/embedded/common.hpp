// One small net, trained and run by each library in its own program; embedded.py builds and runs them.
//
//   PROGRAM verify PROBLEM RESULT    outputs of the 32 rows at first, after 5 steps of one row each, and
//                                    after 5 more of all rows: embedded.py compares them before any timing
//   PROGRAM time PROBLEM             nanoseconds, the least mean of many short runs: one line a case
//   PROGRAM start PROBLEM            makes the net and runs it once
//
// A step is forward, backward and plain gradient descent on the mean squared error, on one thread.
#ifndef GRADCORE_BENCH_EMBEDDED_COMMON_HPP
#define GRADCORE_BENCH_EMBEDDED_COMMON_HPP

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

namespace embedded {

constexpr int kIn = 16, kWidth = 64, kHidden = 3, kOut = 8, kRows = 32;
constexpr int kWidths[kHidden + 2] = {kIn, kWidth, kWidth, kWidth, kOut};
constexpr double kLearningRate = 0.05;
// Of libraries that descend along (target - output) without the mean's factor 2 / outputs.
constexpr double kSummedRate = kLearningRate * 2 / kOut;

struct Layer {
  int in, out;
  std::vector<float> weight, bias;  // [out, in], [out]
};

struct Problem {
  std::vector<Layer> layers;
  std::vector<float> x, target;  // [rows, in], [rows, out]
};

inline Problem read(const char *path) {
  std::ifstream file(path, std::ios::binary);
  const auto take = [&](int count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    file.read(reinterpret_cast<char *>(values.data()), std::streamsize(values.size() * sizeof(float)));
    return values;
  };
  Problem problem;
  for (int l = 0; l <= kHidden; l++) {
    const int in = kWidths[l], out = kWidths[l + 1];
    std::vector<float> weight = take(in * out);
    problem.layers.push_back({in, out, std::move(weight), take(out)});
  }
  problem.x = take(kRows * kIn);
  problem.target = take(kRows * kOut);
  return problem;
}

// The least mean over short runs: what is left of it when other programs are out of the way.
template <class Function>
double nanoseconds(Function &&function) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double, std::nano>(Clock::now() - since).count();
  };
  long repeats = 1;
  double best = 1e300;
  for (;; repeats *= 2) {
    const Clock::time_point start = Clock::now();
    for (long i = 0; i < repeats; i++) function();
    if (elapsed(start) > 2e5) break;
  }
  const Clock::time_point begin = Clock::now();
  while (elapsed(begin) < 1e9) {
    const Clock::time_point start = Clock::now();
    for (long i = 0; i < repeats; i++) function();
    best = std::min(best, elapsed(start) / double(repeats));
  }
  return best;
}

// Peer(problem) makes the net; run(x, rows, y) and step(x, target, rows) take matrices without gaps.
// Peer::kTrains says whether there is a step.
template <class Peer>
int bench_main(int argc, char **argv) {
  if (argc < 3) return 2;
  const std::string mode = argv[1];
  const Problem problem = read(argv[2]);
  Peer peer(problem);
  std::vector<float> y(kRows * kOut), results;
  const auto record = [&] {
    peer.run(problem.x.data(), kRows, y.data());
    results.insert(results.end(), y.begin(), y.end());
  };
  record();
  if (mode == "start") return 0;
  const float *x = problem.x.data(), *target = problem.target.data();
  if constexpr (Peer::kTrains) {
    for (int i = 0; i < 5; i++) peer.step(x + i * kIn, target + i * kOut, 1);
    record();
    for (int i = 0; i < 5; i++) peer.step(x, target, kRows);
    record();
  }
  if (mode == "verify") {
    std::ofstream(argv[3], std::ios::binary)
        .write(reinterpret_cast<const char *>(results.data()), std::streamsize(results.size() * sizeof(float)));
    return 0;
  }
  std::printf("run1 %.1f\n", nanoseconds([&] { peer.run(x, 1, y.data()); }));
  std::printf("run32 %.1f\n", nanoseconds([&] { peer.run(x, kRows, y.data()); }));
  if constexpr (Peer::kTrains) {
    std::printf("step1 %.1f\n", nanoseconds([&] { peer.step(x, target, 1); }));
    std::printf("step32 %.1f\n", nanoseconds([&] { peer.step(x, target, kRows); }));
  }
  return 0;
}

}  // namespace embedded

#endif
