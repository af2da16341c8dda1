// Loops that reach the limits of one core, with which kernels and networks are compared. No include guard: each file
// includes it once per target, inside the target's region, after defining the macros that kernels/vec.hpp needs.
#include "kernels/vec.hpp"

namespace gradcore::GRADCORE_TARGET {

#if defined(__x86_64__)
#define GRADCORE_OPAQUE(v) asm volatile("" : "+x"(v))
inline constexpr int kChains = 12;  // latency 4 on 2 units needs 8; 16 registers hold no more
#else
#define GRADCORE_OPAQUE(v) asm volatile("" : "+w"(v))
inline constexpr int kChains = 24;  // latency 4 on 4 units needs 16
#endif

// acc * x + y; of pairs of bfloat16, acc + x_1 y_1 + x_2 y_2.
struct MultiplyAdd {
  static constexpr int kTerms = 1;
  template <class V>
  GRADCORE_INLINE V of(V acc, V x, V y) {
    return fma(acc, x, y);
  }
};
#if defined(__AVX512BF16__)
struct MultiplyAddPairs {
  static constexpr int kTerms = 2;
  GRADCORE_INLINE Vec<float> of(Vec<float> acc, Vec<float> x, Vec<float> y) {
    return Vec<float>(_mm512_dpbf16_ps(__m512(acc), (__m512bh)(x), (__m512bh)(y)));
  }
};
#else
using MultiplyAddPairs = MultiplyAdd;
#endif

// steps * kChains independent multiply-adds in registers.
template <class T, class Op = MultiplyAdd>
double fma_chains(std::int64_t steps) {
  Vec<T> acc[kChains], x = splat<T>(T(0.999)), y = splat<T>(T(1e-3)), sum{};
  // Hides from the compiler that the chains are equal.
#pragma GCC unroll 24
  for (int c = 0; c < kChains; c++) {
    acc[c] = Vec<T>{};
    GRADCORE_OPAQUE(acc[c]);
  }
  GRADCORE_OPAQUE(x);
  GRADCORE_OPAQUE(y);
  for (std::int64_t i = 0; i < steps; i++) {
#pragma GCC unroll 24
    for (int c = 0; c < kChains; c++) acc[c] = Op::of(acc[c], x, y);
  }
#pragma GCC unroll 24
  for (int c = 0; c < kChains; c++) sum += acc[c];
  return double(sum[0]);
}

// n is a multiple of eight vectors.
template <class T>
double read_all(std::int64_t n, const T *p) {
  Vec<T> acc[8] = {};
  for (std::int64_t i = 0; i < n; i += 8 * kLanes<T>) {
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++) acc[v] += load(p + i + v * kLanes<T>);
  }
  Vec<T> sum{};
  for (int v = 0; v < 8; v++) sum += acc[v];
  return double(sum[0]);
}

// Reads and writes each element.
template <class T>
void negate_all(std::int64_t n, T *p) {
  for (std::int64_t i = 0; i < n; i += 4 * kLanes<T>) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) store(p + i + v * kLanes<T>, -load(p + i + v * kLanes<T>));
  }
}

#undef GRADCORE_OPAQUE

}  // namespace gradcore::GRADCORE_TARGET
