// Elementary functions on vectors: what the activations and the losses are made of. No include
// guard: part of kernels/all-inl.h. Branch-free; every polynomial is the project's own, found by
// Remez exchange on the interval stated beside it. "2^-n" is the largest relative error of the
// unrounded fit; what the finished functions reach is stated, per activation, in activation-inl.h.

#include <type_traits>

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace gradcore::GRADCORE_TARGET {

// ---- verbs that vec.hpp lacks ----

// Mask of the first n lanes.
template <class T>
GRADCORE_INLINE IVec<T> first_lanes(int n) {
  IVec<T> lane{};
  for (int i = 0; i < kLanes<T>; i++) lane[i] = i;
  return lane < splat_int<T>(n);
}

// A number twice as precise as T: hi + lo, |lo| <= ulp(hi) / 2 or nearly so.
template <class T>
struct Pair {
  Vec<T> hi, lo;
};

// a + b without loss (Knuth's TwoSum). Stays right to second order if the compiler fuses a product
// into either sum.
template <class T>
GRADCORE_INLINE Pair<T> exact_sum(Vec<T> a, Vec<T> b) {
  const Vec<T> sum = a + b;
  const Vec<T> b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

// a * b - c, rounded once. fma() promises that only where the compiler sees a product of its own: in
// a * b - product it finds the product computed already, and returns zero.
#if defined(__aarch64__)
GRADCORE_INLINE Vec<float> fused_subtract(Vec<float> a, Vec<float> b, Vec<float> c) {
  return Vec<float>(vfmaq_f32(float32x4_t(-c), float32x4_t(a), float32x4_t(b)));
}
GRADCORE_INLINE Vec<double> fused_subtract(Vec<double> a, Vec<double> b, Vec<double> c) {
  return Vec<double>(vfmaq_f64(float64x2_t(-c), float64x2_t(a), float64x2_t(b)));
}
#elif GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE Vec<float> fused_subtract(Vec<float> a, Vec<float> b, Vec<float> c) {
  return Vec<float>(_mm512_fmsub_ps(__m512(a), __m512(b), __m512(c)));
}
GRADCORE_INLINE Vec<double> fused_subtract(Vec<double> a, Vec<double> b, Vec<double> c) {
  return Vec<double>(_mm512_fmsub_pd(__m512d(a), __m512d(b), __m512d(c)));
}
#elif GRADCORE_VECTOR_BYTES == 32
GRADCORE_INLINE Vec<float> fused_subtract(Vec<float> a, Vec<float> b, Vec<float> c) {
  return Vec<float>(_mm256_fmsub_ps(__m256(a), __m256(b), __m256(c)));
}
GRADCORE_INLINE Vec<double> fused_subtract(Vec<double> a, Vec<double> b, Vec<double> c) {
  return Vec<double>(_mm256_fmsub_pd(__m256d(a), __m256d(b), __m256d(c)));
}
#else
// Without FMA: the product in halves (Dekker). Right to the last bit in float32 when c is near
// a * b, to 2^-106 of the product in float64.
template <class V>
GRADCORE_INLINE V fused_subtract(V a, V b, V c) {
  using T = std::decay_t<decltype(a[0])>;
  constexpr auto kUpperHalf = ~((typename VecTraits<T>::Int(1) << (VecTraits<T>::kMantissaBits + 1) / 2) - 1);
  const V a_hi = from_bits(to_bits(a) & kUpperHalf), a_lo = a - a_hi;
  const V b_hi = from_bits(to_bits(b) & kUpperHalf), b_lo = b - b_hi;
  return ((a_hi * b_hi - c) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo;
}
#endif

// a * b without loss.
template <class T>
GRADCORE_INLINE Pair<T> exact_product(Vec<T> a, Vec<T> b) {
  const Vec<T> product = a * b;
  return {product, fused_subtract(a, b, product)};
}

// c[0] + c[1] x + ... + c[N-1] x^(N-1), by Horner's rule.
template <class T, int N>
GRADCORE_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  Vec<T> sum = splat<T>(c[N - 1]);
#pragma GCC unroll 32
  for (int i = N - 2; i >= 0; i--) sum = fma(sum, x, splat<T>(c[i]));
  return sum;
}

// ---- constants ----

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float kLog2E = 1.4426950216293335f;
  // ln 2 in two parts; the first has 15 bits, so that its product with an exponent is exact.
  static constexpr float kLn2Hi = 0.693145751953125f, kLn2Lo = 1.428606765330187e-06f;
  // Integers up to 2^22 added to this sit in the last bits of the sum.
  static constexpr float kRound = 0x1.8p23f;
  // exp is clamped where even |x| exp(x) is below half the smallest subnormal number.
  static constexpr float kExpMin = -120.0f;
  static constexpr int kExpShift = 64;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln2/2: 2^-31.8 of exp(r) - 1.
  static constexpr float kExp[] = {0.5f, 0.1666666716337204f, 0.041666366159915924f, 0.00833327416330576f,
                                   0.0013940377393737435f, 0.00019913741562049836f};
  // (log(1 + x) - x) / x^2 on [0, 1]: 2^-30.3 of log(1 + x).
  static constexpr float kLog1p[] = {-0.4999998211860657f, 0.33332559466362f, -0.24987271428108215f,
                                     0.19890747964382172f, -0.16105692088603973f, 0.12418437004089355f,
                                     -0.08244176208972931f, 0.0414782389998436f, -0.01340753398835659f,
                                     0.00203024223446846f};
  // Mills' ratio of the normal law, (1 - Phi(t)) exp(t^2/2) = 1 / (sqrt(2 pi) t + S(t) / P(t)), on
  // [0, 15]: 2^-29.7 with the coefficients as rounded here (their common factor is chosen for that).
  static constexpr float kMillsP[] = {0.8725274801254272f, 0.9488131403923035f, 0.4953579902648926f,
                                      0.14973466098308563f, 0.026212483644485474f, 0.0021965953055769205f};
  static constexpr float kMillsS[] = {1.7450549602508545f, 1.1028765439987183f, 0.3648911714553833f,
                                      0.06567898392677307f, 0.0055065578781068325f};
  // Beyond this Phi(-t) * t rounds to zero.
  static constexpr float kMillsMax = 15.0f;
};

template <>
struct MathConstants<double> {
  static constexpr double kLog2E = 1.4426950408889634;
  // As above; the first part has 41 bits.
  static constexpr double kLn2Hi = 0.693147180559663, kLn2Lo = 2.8235290563031577e-13;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kExpMin = -770.0;
  static constexpr int kExpShift = 256;
  // As above: 2^-61.6.
  static constexpr double kExp[] = {0.5, 0.16666666666666677, 0.0416666666666667, 0.008333333333322104,
                                    0.0013888888888867706, 0.00019841269885087671, 2.4801587359234158e-05,
                                    2.7557245131536044e-06, 2.755724366730408e-07, 2.510875044036441e-08,
                                    2.0924212028057272e-09};
  // As above: 2^-59.2.
  static constexpr double kLog1p[] = {
      -0.49999999999999856, 0.3333333333330922, -0.24999999998422937, 0.1999999994515743, -0.16666665493289806,
      0.14285697425295535, -0.12499827589826393, 0.11109804396619101, -0.09992437788395472, 0.0905673180432595,
      -0.08210573044366966, 0.0733686091433338, -0.06302992307250661, 0.05028096369143227, -0.03575837084381594,
      0.021708305994915935, -0.010744094046318804, 0.004109924419765021, -0.0011299546685884733,
      0.00019750854642777208, -1.6418508757725375e-05};
  // As above, on [0, 39]: 2^-57.0.
  static constexpr double kMillsP[] = {1.1274290556668078, 1.9100880734302386, 1.60055251186467, 0.8587955112194016,
                                       0.32397619345020334, 0.08942824230738537, 0.018276494084597354,
                                       0.0027355413870075, 0.00028828143626133, 1.9472996607512535e-05,
                                       6.495511167242419e-07};
  static constexpr double kMillsS[] = {2.2548581113336157, 2.7932470721197307, 1.7693420208525275, 0.7275668501773118,
                                       0.21093760472005119, 0.04438342601215044, 0.00675936236856492,
                                       0.0007193580306863096, 4.881156391270731e-05, 1.6281831948703782e-06};
  static constexpr double kMillsMax = 39.0;
};

// ---- exponentials of y <= 0 ----

// exp(y) for y <= 0, kept in parts so that callers can multiply before the result becomes
// subnormal and round once:
//   exp(y) = (1 + expm1_r) * scale * 2^-kExpShift,   scale normal for every y.
// y = -inf and all y below kExpMin give what kExpMin gives, which is zero once shifted down; NaN
// stays NaN. Error of `shifted`: 0.9 ULP.
template <class T>
struct Exp {
  Vec<T> expm1_r;  // exp(r) - 1 where y = k ln2 + r, |r| <= ln2/2
  Vec<T> scale;    // 2^(k + kExpShift)
  Vec<T> shifted;  // exp(y) * 2^kExpShift
};

// What brings a shifted product back, exactly or with the one rounding of a subnormal result.
template <class T>
inline constexpr T kUnshift = T(1) / T(uint64_t(1) << 32) / T(uint64_t(1) << 32);
template <>
inline constexpr double kUnshift<double> = 0x1p-256;

// exp(y + y_lo), y_lo a small correction of y.
template <class T>
GRADCORE_INLINE Exp<T> exp_parts(Vec<T> y, Vec<T> y_lo = Vec<T>{}) {
  using C = MathConstants<T>;
  // The biased exponent k + kExpShift + bias appears in the last bits of `rounded`.
  constexpr T kOffset = C::kRound + T(C::kExpShift + VecTraits<T>::kExponentBias);
  y = max(splat<T>(C::kExpMin), y);
  const Vec<T> rounded = fma(y, splat<T>(C::kLog2E), splat<T>(kOffset));
  const Vec<T> k = rounded - kOffset;
  const Vec<T> r = fma(k, splat<T>(-C::kLn2Hi), y) + fma(k, splat<T>(-C::kLn2Lo), y_lo);
  const Vec<T> scale = from_bits(to_bits(rounded) << VecTraits<T>::kMantissaBits);
  const Vec<T> expm1_r = fma(r * r, polynomial<T>(r, C::kExp), r);
  return {expm1_r, scale, fma(expm1_r, scale, scale)};
}

// exp(y) itself.
template <class T>
GRADCORE_INLINE Vec<T> value(const Exp<T> &e) {
  return e.shifted * kUnshift<T>;
}

// exp(y) - 1, in [-1, 0]: no cancellation near zero. +0 for y = -0.
template <class T>
GRADCORE_INLINE Vec<T> expm1(const Exp<T> &e) {
  const Vec<T> scale = e.scale * kUnshift<T>;
  return fma(e.expm1_r, scale, scale - T(1));
}

// ---- quotients ----

// A divisor with its inverse. The inverse serves several quotients, and each is then put right to
// 0.51 ULP by its remainder where that is worth three operations.
template <class T>
struct Divisor {
  Vec<T> value, value_lo;  // value + value_lo without loss
  Vec<T> inverse;
};

// (n + n_lo) / d to 0.51 ULP.
template <class T>
GRADCORE_INLINE Vec<T> quotient(Vec<T> n, Vec<T> n_lo, const Divisor<T> &d) {
  const Vec<T> q = n * d.inverse;
  const Vec<T> excess = fma(q, d.value_lo, fused_subtract(q, d.value, n)) - n_lo;
  return fma(-excess, d.inverse, q);
}

// 1 + e for e in [0, 1]; the inverse to 0.51 ULP.
template <class T>
GRADCORE_INLINE Divisor<T> one_plus(Vec<T> e) {
  Divisor<T> d;
  d.value = e + T(1);
  d.value_lo = e - (d.value - T(1));
  d.inverse = T(1) / d.value;
  const Vec<T> excess = fma(d.inverse, d.value_lo, fused_subtract(d.inverse, d.value, splat<T>(1)));
  d.inverse = fma(-excess, d.inverse, d.inverse);
  return d;
}

// ---- logarithms ----

// (log(1 + e) - e) / e for e in [0, 1].
template <class T>
GRADCORE_INLINE Vec<T> log1p_rest(Vec<T> e) {
  return polynomial<T>(e, MathConstants<T>::kLog1p) * e;
}

// log(x) for x >= 1; NaN for infinities and NaN.
template <class T>
GRADCORE_INLINE Vec<T> log_above_one(Vec<T> x) {
  using C = MathConstants<T>;
  constexpr int kBits = VecTraits<T>::kMantissaBits;
  constexpr auto kOne = typename VecTraits<T>::Int(VecTraits<T>::kExponentBias) << kBits;
  const Vec<T> k = to_float<T>((to_bits(x) >> kBits) - VecTraits<T>::kExponentBias);
  const Vec<T> m = from_bits((to_bits(x) & ((typename VecTraits<T>::Int(1) << kBits) - 1)) | kOne) - T(1);
  const Vec<T> log_m = fma(k, splat<T>(C::kLn2Lo), fma(m, log1p_rest<T>(m), m));
  return fma(k, splat<T>(C::kLn2Hi), log_m) + (x - x);
}

// ---- the normal law ----

// Mills' ratio: Phi(-t) = exp(-t^2/2) * mills(t), for t in [0, kMillsMax]. As
// P / (sqrt(2 pi) t P + S), where an error of P cancels all the more the larger t is. All
// coefficients are positive.
template <class T>
GRADCORE_INLINE Pair<T> mills(Vec<T> t) {
  using C = MathConstants<T>;
  const Vec<T> p = polynomial<T>(t, C::kMillsP);
  const Vec<T> q = fma(t * T(2.50662827463100050242), p, polynomial<T>(t, C::kMillsS));
  const Vec<T> inverse = T(1) / q;
  const Vec<T> ratio = p * inverse;
  return {ratio, -fused_subtract(ratio, q, p) * inverse};
}

}  // namespace gradcore::GRADCORE_TARGET
