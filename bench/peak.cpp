// The machine's FMA peak: independent multiply-adds in registers, on 1 and on N threads. Prints one
// line a precision and thread count: "float32 1 260.1" (GFLOP/s). Built by bench/peers.py with
// -march=native, so that it is the peak of this CPU and not of a compiler's default.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef float FloatVec __attribute__((vector_size(kBytes)));
typedef double DoubleVec __attribute__((vector_size(kBytes)));

// 12 chains: latency 4 on 2 units needs 8.
template <class V>
double run(long steps) {
  V a0{}, a1{}, a2{}, a3{}, a4{}, a5{}, a6{}, a7{}, a8{}, a9{}, a10{}, a11{};
  V x = V{} + 0.999f, y = V{} + 1e-3f;
  // The compiler must not see that the chains are equal.
  for (V *value : {&a0, &a1, &a2, &a3, &a4, &a5, &a6, &a7, &a8, &a9, &a10, &a11, &x, &y})
    asm volatile("" : "+x"(*value));
  for (long i = 0; i < steps; i++) {
    a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y;
    a4 = a4 * x + y, a5 = a5 * x + y, a6 = a6 * x + y, a7 = a7 * x + y;
    a8 = a8 * x + y, a9 = a9 * x + y, a10 = a10 * x + y, a11 = a11 * x + y;
  }
  const V sum = ((a0 + a1) + (a2 + a3)) + ((a4 + a5) + (a6 + a7)) + ((a8 + a9) + (a10 + a11));
  return double(sum[0]);
}

template <class V>
void measure(const char *name, int threads) {
  const long steps = 4000000;
  double best = 0;
  for (int round = 0; round < 5; round++) {
    std::vector<double> sink(threads);
    std::vector<std::thread> team;
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < threads; t++) team.emplace_back([&, t] { sink[t] = run<V>(steps); });
    for (std::thread &thread : team) thread.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (sink[0] < 0) std::abort();  // keeps the sums alive
    const double lanes = kBytes / sizeof(std::declval<V &>()[0]);
    best = std::max(best, 1e-9 * 2 * 12 * lanes * steps * threads / seconds.count());
  }
  std::printf("%s %d %.1f\n", name, threads, best);
}

int main(int argc, char **argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  for (const int n : {1, threads}) {
    measure<FloatVec>("float32", n);
    measure<DoubleVec>("float64", n);
  }
}
