// One limit of the machine, measured in about 30 ms on N threads:
//
//   peak float32|float64 N     FMA peak: independent multiply-adds in registers, GFLOP/s
//   peak bfloat16 N            the same for products of pairs if the CPU has them, else float32's
//   peak read|update N BYTES   a plain loop that reads an array of BYTES, or reads and writes it, GB/s
//   peak handoff 2             a message to another core and back, ns: the least cost of a meeting
//
// Prints the least disturbed of a few rounds. bench/limits.py builds it with -march=native, so that it measures the
// limit of this CPU and not that of a compiler's default.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define GRADCORE_TARGET native
#if defined(__AVX512F__)
#define GRADCORE_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define GRADCORE_VECTOR_BYTES 32
#else
#define GRADCORE_VECTOR_BYTES 16
#endif
#include "roof-inl.h"

namespace gradcore::native {

// Pins each thread to a core; otherwise the scheduler may put two on one core for a whole round.
void pin_to_core(int rank) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE; core++) {
    if (!CPU_ISSET(core, &allowed) || rank-- > 0) continue;
    CPU_SET(core, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
}

// The least seconds of `rounds` rounds in which `threads` threads run body(rank) at the same time.
template <class Body>
double least_seconds(int threads, int rounds, Body &&body) {
  double best = 1e30;
  for (int round = 0; round < rounds; round++) {
    std::atomic<int> waiting{threads};
    std::vector<std::chrono::steady_clock::time_point> start(threads), end(threads);
    std::vector<std::thread> team;
    for (int t = 0; t < threads; t++)
      team.emplace_back([&, t] {
        pin_to_core(t);
        for (waiting--; waiting.load() > 0;) {
        }
        start[t] = std::chrono::steady_clock::now();
        body(t);
        end[t] = std::chrono::steady_clock::now();
      });
    for (std::thread &thread : team) thread.join();
    const std::chrono::duration<double> seconds =
        *std::max_element(end.begin(), end.end()) - *std::min_element(start.begin(), start.end());
    best = std::min(best, seconds.count());
  }
  return best;
}

template <class T, class Op = MultiplyAdd>
double fma_gflops(int threads) {
  const long steps = 3000000;  // about 10 ms in float32
  std::vector<double> sink(threads);
  const double seconds = least_seconds(threads, 3, [&](int t) { sink[t] = fma_chains<T, Op>(steps); });
  if (sink[0] == -0.5) std::abort();  // keeps the sums alive
  return 1e-9 * 2 * Op::kTerms * kChains * kLanes<T> * double(steps) * threads / seconds;
}

// Each thread passes twice per round over its contiguous share of the array.
double bandwidth(int threads, std::size_t bytes, bool writes) {
  const std::int64_t unit = 8 * kLanes<float>, share = std::int64_t(bytes / sizeof(float)) / threads / unit * unit;
  float *data = static_cast<float *>(std::aligned_alloc(64, std::size_t(share * threads) * sizeof(float)));
  if (!data || share == 0) return 0;
  std::fill(data, data + share * threads, 1.0f);
  std::vector<double> sink(threads);
  const int passes = 2;
  const double seconds = least_seconds(threads, 6, [&](int t) {
    for (int pass = 0; pass < passes; pass++) {
      if (writes)
        negate_all(share, data + t * share);
      else
        sink[t] += read_all(share, data + t * share);
    }
  });
  if (sink[0] == 0.5) std::abort();
  std::free(data);
  return 1e-9 * double(share) * sizeof(float) * threads * passes * (writes ? 2 : 1) / seconds;
}

// Two threads increment a number in turn, one when it is even and one when it is odd.
double handoff_ns() {
  const int messages = 20000;
  alignas(64) std::atomic<int> number{0};
  const auto play = [&](int rank) {
    for (int i = rank; i < 2 * messages; i += 2) {
      while (number.load(std::memory_order_acquire) != i) {
      }
      number.store(i + 1, std::memory_order_release);
    }
    if (rank == 1) number.store(0, std::memory_order_release);
  };
  return 1e9 * least_seconds(2, 5, play) / messages;
}

}  // namespace gradcore::native

int main(int argc, char **argv) {
  using namespace gradcore::native;
  const char *kind = argc > 1 ? argv[1] : "";
  const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 1;
  const std::size_t bytes = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  double limit = 0;
  if (std::strcmp(kind, "float32") == 0) limit = fma_gflops<float>(threads);
  if (std::strcmp(kind, "float64") == 0) limit = fma_gflops<double>(threads);
  if (std::strcmp(kind, "bfloat16") == 0) limit = fma_gflops<float, MultiplyAddPairs>(threads);
  if (std::strcmp(kind, "read") == 0) limit = bandwidth(threads, bytes, false);
  if (std::strcmp(kind, "update") == 0) limit = bandwidth(threads, bytes, true);
  if (std::strcmp(kind, "handoff") == 0) limit = handoff_ns();
  if (limit == 0) {
    std::fprintf(stderr, "usage: %s float32|float64|bfloat16|read|update|handoff THREADS [BYTES]\n", argv[0]);
    return 2;
  }
  std::printf("%.2f\n", limit);
}
