// The machine's limits. The FMA peak, independent multiply-adds in registers on 1 and on N threads: one
// line a precision and thread count, "float32 1 260.1" (GFLOP/s). And what a meeting of two threads costs
// at least: "handoff 2 90.5", nanoseconds for a message to another core and back. Built by bench/peers.py
// with -march=native, so that it is the peak of this CPU and not of a compiler's default.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
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

// A core for each thread: left to itself the scheduler may put two on one for a whole round.
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

template <class T>
void measure(const char *name, int threads) {
  const long steps = 10000000;  // about 15 ms
  double best = 0;
  for (int round = 0; round < 9; round++) {
    std::vector<double> sink(threads);
    std::vector<std::thread> team;
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; t++)
      team.emplace_back([&, t] {
        pin_to_core(t);
        sink[t] = fma_chains<T>(steps);
      });
    for (std::thread &thread : team) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (sink[0] < 0) std::abort();  // keeps the sums alive
    best = std::max(best, 1e-9 * 2 * kChains * kLanes<T> * double(steps) * threads / seconds.count());
  }
  std::printf("%s %d %.1f\n", name, threads, best);
}

// Each of two threads raises the number that the other one left even or odd.
void measure_handoff() {
  const int messages = 20000;
  alignas(64) std::atomic<int> number{0};
  const auto play = [&](int rank) {
    pin_to_core(rank);
    for (int i = rank; i < 2 * messages; i += 2) {
      while (number.load(std::memory_order_acquire) != i) {
      }
      number.store(i + 1, std::memory_order_release);
    }
  };
  double best = 1e30;
  for (int round = 0; round < 9; round++) {
    number = 0;
    const auto start = std::chrono::steady_clock::now();
    std::thread first(play, 0), second(play, 1);
    first.join();
    second.join();
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    best = std::min(best, time.count() / messages);
  }
  std::printf("handoff 2 %.1f\n", best);
}

}  // namespace gradcore::native

int main(int argc, char **argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  for (const int n : {1, threads}) {
    gradcore::native::measure<float>("float32", n);
    gradcore::native::measure<double>("float64", n);
  }
  if (threads > 1) gradcore::native::measure_handoff();
}
