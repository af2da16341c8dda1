// Elementary functions on vectors, for the activations and the losses, without branches. No include guard: part of
// kernels/all-inl.h. Every polynomial is our own, found by Remez exchange on the given interval. "2^-n" is the largest
// relative error of the unrounded fit; activation-inl.h gives the errors of the finished functions.

namespace gradcore::GRADCORE_TARGET {

// ---- verbs that vec.hpp lacks ----

// Mask of the first n lanes.
template <class T>
GRADCORE_INLINE IVec<T> first_lanes(int n) {
  IVec<T> lane{};
  for (int i = 0; i < kLanes<T>; i++) lane[i] = i;
  return lane < splat_int<T>(n);
}

// A number twice as precise as T: hi + lo, with |lo| at most about ulp(hi) / 2.
template <class T>
struct Pair {
  Vec<T> hi, lo;
};

// a + b without rounding (Knuth's TwoSum). Still correct to second order if the compiler fuses a product into either
// sum.
template <class T>
GRADCORE_INLINE Pair<T> exact_sum(Vec<T> a, Vec<T> b) {
  const Vec<T> sum = a + b;
  const Vec<T> b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

#if GRADCORE_VECTOR_BYTES > 16 || defined(__aarch64__)
// a * b - c with one rounding.
template <class T>
GRADCORE_INLINE Vec<T> fused_subtract(Vec<T> a, Vec<T> b, Vec<T> c) {
  return fma(a, b, -c);
}
#else
// The product in halves (Dekker). Correct where c is near a * b, as in all uses, except for the last bit of a double's
// product.
template <class T>
GRADCORE_INLINE Vec<T> fused_subtract(Vec<T> a, Vec<T> b, Vec<T> c) {
  constexpr auto kUpperHalf = ~((typename VecTraits<T>::Int(1) << (VecTraits<T>::kMantissaBits + 2) / 2) - 1);
  const Vec<T> a_hi = from_bits(to_bits(a) & kUpperHalf), a_lo = a - a_hi;
  const Vec<T> b_hi = from_bits(to_bits(b) & kUpperHalf), b_lo = b - b_hi;
  return ((a_hi * b_hi - c) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo;
}
#endif

// a * b without rounding.
template <class T>
GRADCORE_INLINE Pair<T> exact_product(Vec<T> a, Vec<T> b) {
  const Vec<T> product = a * b;
  return {product, fused_subtract<T>(a, b, product)};
}

// c[0] + c[1] x + ... + c[N-1] x^(N-1) by Horner's rule, which has the fewest significant roundings for |x| <= 1.
template <class T, int N>
GRADCORE_INLINE Vec<T> horner(Vec<T> x, const T (&c)[N]) {
  Vec<T> sum = splat<T>(c[N - 1]);
#pragma GCC unroll 32
  for (int i = N - 2; i >= 0; i--) sum = fma(sum, x, splat<T>(c[i]));
  return sum;
}

// The same in x2 = x * x over pairs of terms: half as deep, which saves 10 % of an activation's time (Zen 5, AVX2 and
// AVX-512).
template <class T, int N>
GRADCORE_INLINE Vec<T> horner_pairs(Vec<T> x, Vec<T> x2, const T (&c)[N]) {
  constexpr int kLast = (N - 1) / 2 * 2;
  Vec<T> sum = splat<T>(c[kLast]);
  if constexpr (kLast + 1 < N) sum = fma(x, splat<T>(c[kLast + 1]), sum);
#pragma GCC unroll 16
  for (int i = kLast - 2; i >= 0; i -= 2) sum = fma(sum, x2, fma(x, splat<T>(c[i + 1]), splat<T>(c[i])));
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
  // An integer up to 2^22, added to this, is in the last bits of the sum.
  static constexpr float kRound = 0x1.8p23f;
  // exp is clamped below this, where even |x| exp(x) is below half the smallest subnormal number.
  static constexpr float kExpMin = -120.0f;
  static constexpr int kExpShift = 64;
  static constexpr float kExpUnshift = 0x1p-64f;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln2/2: 2^-27.9 of exp(r), 2^-25.7 of exp(r) - 1.
  static constexpr float kExp[] = {0.5f, 0.16666534543037415f, 0.041667237877845764f, 0.00836750864982605f,
                                   0.001386375748552382f};
  // (log(1 + x) - x) / x^2 on [0, 1]: 2^-30.3 of log(1 + x).
  static constexpr float kLog1p[] = {
      -0.4999998211860657f, 0.33332559466362f,     -0.24987271428108215f, 0.19890747964382172f,  -0.16105692088603973f,
      0.12418437004089355f, -0.08244176208972931f, 0.0414782389998436f,   -0.01340753398835659f, 0.00203024223446846f};
  // U and P of mills() on [0, 15]: 2^-27.1 with these rounded coefficients, for which their common factor is chosen.
  static constexpr float kMillsP[] = {0.9793696403503418f, 0.8590593934059143f, 0.3592682480812073f,
                                      0.07969553768634796f, 0.008073899894952774f};
  static constexpr float kMillsU[] = {-0.39589086174964905f, -0.07966345548629761f, 0.04257534444332123f,
                                      0.024240441620349884f, 0.004090242087841034f};
  // Beyond this Phi(-t) * t rounds to zero.
  static constexpr float kMillsMax = 14.75f;
};

template <>
struct MathConstants<double> {
  static constexpr double kLog2E = 1.4426950408889634;
  // As above; the first part has 41 bits.
  static constexpr double kLn2Hi = 0.693147180559663, kLn2Lo = 2.8235290563031577e-13;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kExpMin = -800.0;
  static constexpr int kExpShift = 256;
  static constexpr double kExpUnshift = 0x1p-256;
  // As above: 2^-61.6.
  static constexpr double kExp[] = {0.5,
                                    0.16666666666666677,
                                    0.0416666666666667,
                                    0.008333333333322104,
                                    0.0013888888888867706,
                                    0.00019841269885087671,
                                    2.4801587359234158e-05,
                                    2.7557245131536044e-06,
                                    2.755724366730408e-07,
                                    2.510875044036441e-08,
                                    2.0924212028057272e-09};
  // As above: 2^-59.2.
  static constexpr double kLog1p[] = {-0.49999999999999856,   0.3333333333330922,     -0.24999999998422937,
                                      0.1999999994515743,     -0.16666665493289806,   0.14285697425295535,
                                      -0.12499827589826393,   0.11109804396619101,    -0.09992437788395472,
                                      0.0905673180432595,     -0.08210573044366966,   0.0733686091433338,
                                      -0.06302992307250661,   0.05028096369143227,    -0.03575837084381594,
                                      0.021708305994915935,   -0.010744094046318804,  0.004109924419765021,
                                      -0.0011299546685884733, 0.00019750854642777208, -1.6418508757725375e-05};
  // As above, on [0, 39]: 2^-58.7.
  static constexpr double kMillsP[] = {0.5395148832245096,    0.8931357150704777,   0.7329707555164181,
                                       0.38531419097586317,   0.1423468951225113,   0.03844010972621129,
                                       0.007674276398507055,  0.001119833411749141, 0.00011474094309760929,
                                       7.507181868369541e-06, 2.41113380908685e-07};
  static constexpr double kMillsU[] = {-0.21808857515262497,   -0.21361623355813023,  -0.07811802513965191,
                                       0.0014466572921423297,  0.013904110801253448,  0.006895664652465336,
                                       0.0019347427064714431,  0.0003566750976300984, 4.372102390886164e-05,
                                       3.3211238355283927e-06, 1.221548561600741e-07};
  static constexpr double kMillsMax = 39.0;
};

// ---- exponentials of y <= 0 ----

// exp(y) for y <= 0, kept in parts, so that callers can multiply before the result becomes subnormal, and round once:
//   exp(y) = (1 + expm1_r) * scale * 2^-kExpShift,   scale normal for every y            (EXP.1)
// y below kExpMin, including -inf, gives the result of kExpMin, which is zero once shifted down. NaN stays NaN.
template <class T>
struct Exp {
  Vec<T> expm1_r;  // exp(r) - 1 where y = k ln2 + r, |r| <= ln2/2
  Vec<T> scale;    // 2^(k + kExpShift)
};

// Shifts back, exactly or with the single rounding of a subnormal result.
template <class T>
inline constexpr T kUnshift = MathConstants<T>::kExpUnshift;

// y log2(e) + kExpOffset has the biased exponent k + kExpShift + bias in its last bits.
template <class T>
inline constexpr T kExpOffset = MathConstants<T>::kRound + T(MathConstants<T>::kExpShift + VecTraits<T>::kExponentBias);

template <class T>
GRADCORE_INLINE Exp<T> exp_reduced(Vec<T> r, Vec<T> y_log2e) {
  const Vec<T> r2 = r * r;
  return {fma(r2, horner_pairs<T>(r, r2, MathConstants<T>::kExp), r),
          from_bits(to_bits(y_log2e) << VecTraits<T>::kMantissaBits)};
}

template <class T>
GRADCORE_INLINE Exp<T> exp_parts(Vec<T> y) {
  using C = MathConstants<T>;
  y = max(splat<T>(C::kExpMin), y);
  const Vec<T> y_log2e = fma(y, splat<T>(C::kLog2E), splat<T>(kExpOffset<T>));
  const Vec<T> k = y_log2e - kExpOffset<T>;
  return exp_reduced<T>(fma(k, splat<T>(-C::kLn2Lo), fma(k, splat<T>(-C::kLn2Hi), y)), y_log2e);
}

// exp(y.hi + y.lo); y.hi >= kExpMin.
template <class T>
GRADCORE_INLINE Exp<T> exp_parts(Pair<T> y) {
  using C = MathConstants<T>;
  const Vec<T> y_log2e = fma(y.hi, splat<T>(C::kLog2E), splat<T>(kExpOffset<T>));
  const Vec<T> k = y_log2e - kExpOffset<T>;
  return exp_reduced<T>(fma(k, splat<T>(-C::kLn2Hi), y.hi) + fma(k, splat<T>(-C::kLn2Lo), y.lo), y_log2e);
}

// exp(y) * 2^kExpShift, to 0.9 ULP.
template <class T>
GRADCORE_INLINE Vec<T> shifted(const Exp<T> &e) {
  return fma(e.expm1_r, e.scale, e.scale);
}

// exp(y) itself, to 0.9 ULP.
template <class T>
GRADCORE_INLINE Vec<T> value(const Exp<T> &e) {
  const Vec<T> scale = e.scale * kUnshift<T>;
  return fma(e.expm1_r, scale, scale);
}

// 1 - exp(y), in [0, 1], to 0.9 ULP.
template <class T>
GRADCORE_INLINE Vec<T> one_minus(const Exp<T> &e) {
  const Vec<T> scale = e.scale * kUnshift<T>;
  return fma(-e.expm1_r, scale, T(1) - scale);
}

// ---- quotients ----

// 1 / d with a relative error of at most 2^-14, for callers that correct it by a Newton step. On Zen 4, a division of
// 16 floats occupies the multipliers for 10 cycles, the estimate for 2.
template <class V>
GRADCORE_INLINE V rough_inverse(V d) {
  return 1 / d;
}
#if GRADCORE_VECTOR_BYTES == 64
GRADCORE_INLINE Vec<float> rough_inverse(Vec<float> d) { return Vec<float>(_mm512_rcp14_ps(__m512(d))); }
#endif

// A divisor with its inverse, for several quotients: n * inverse is correct to about 1 ULP, and quotient() to 0.57 ULP
// with three more operations.
template <class T>
struct Divisor {
  Vec<T> value, value_lo;  // the divisor is value + value_lo, without rounding
  Vec<T> inverse;
};

// (n + n_lo) / d, corrected by the remainder.
template <class T>
GRADCORE_INLINE Vec<T> quotient(Vec<T> n, Vec<T> n_lo, const Divisor<T> &d) {
  const Vec<T> q = n * d.inverse;
  const Vec<T> excess = fma(q, d.value_lo, fused_subtract<T>(q, d.value, n)) - n_lo;
  return fma(-excess, d.inverse, q);
}

// n / d to 0.57 ULP.
template <class V>
GRADCORE_INLINE V quotient(V n, V d) {
  return n / d;
}
#if GRADCORE_VECTOR_BYTES == 64
// From the estimate: its relative error of 2^-14 leaves one of 2^-28.
GRADCORE_INLINE Vec<float> quotient(Vec<float> n, Vec<float> d) {
  const Vec<float> inverse = rough_inverse(d), q = n * inverse;
  return fma(-fused_subtract<float>(q, d, n), inverse, q);
}
#endif

// value + value_lo as a divisor, with its inverse to 0.57 ULP.
template <class T>
GRADCORE_INLINE Divisor<T> divisor_of(Vec<T> value, Vec<T> value_lo) {
  const Vec<T> inverse = rough_inverse(value);
  const Vec<T> excess = fma(inverse, value_lo, fused_subtract<T>(inverse, value, splat<T>(1)));
  return {value, value_lo, fma(-excess, inverse, inverse)};
}

// 1 + e for e in [0, 1].
template <class T>
GRADCORE_INLINE Divisor<T> one_plus(Vec<T> e) {
  const Vec<T> sum = e + T(1);
  return divisor_of<T>(sum, e - (sum - T(1)));
}

// ---- logarithms ----

// (log(1 + e) - e) / e for e in [0, 1].
template <class T>
GRADCORE_INLINE Vec<T> log1p_rest(Vec<T> e) {
  return horner<T>(e, MathConstants<T>::kLog1p) * e;
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

// Mills' ratio of the normal distribution: Phi(-t) = exp(-t^2/2) * mills(t), for t in [0, kMillsMax]. The fit
// 1 / (2 + 2 t + t U/P) is exact at 0, U is a small part of the result, and the rounding errors of P nearly cancel:
// 1.5 ULP, where a plain P/Q of these degrees has 4.
template <class T>
GRADCORE_INLINE Vec<T> mills(Vec<T> t) {
  using C = MathConstants<T>;
  const Vec<T> t2 = t * t, p = horner_pairs<T>(t, t2, C::kMillsP);
  const Vec<T> rest = fma(t, horner_pairs<T>(t, t2, C::kMillsU), p + p);
  const Vec<T> q = fma(t + t, p, rest);
  return quotient(p, q);
}

#if GRADCORE_VECTOR_BYTES == 64
// AVX-512 looks up 16 floats at a time, beside the multiplications, which bound every activation. mills() is then one
// of 16 polynomials, 6 multiplications instead of 15 (bench_kernels: GELU with its derivative 1.2 times as fast), to
// 2^-27.0. They are chosen by the last four bits of (1 + t) >> 21, two of the exponent and two of the mantissa, and
// expanded around points near the middle of their intervals where kMills[0] has no rounding error (2^-31). The first
// interval, at index 12, is expanded around 0, where it is exact.
inline constexpr float kMillsAt[] = {1.2500103f, 1.750042f,  2.2500257f,  2.7500734f, 3.5000546f, 4.500178f,
                                     5.500189f,  6.500113f,  8.000131f,   10.000067f, 12.000008f, 14.000026f,
                                     0,          0.3750021f, 0.62500024f, 0.87501925f};
inline constexpr float kMills[][16] = {
    {0.23075919f, 0.18522853f, 0.15365057f, 0.13072184f, 0.106343694f, 0.08480031f, 0.07034042f, 0.060014676f,
     0.049121767f, 0.039506435f, 0.03301895f, 0.028352609f, 0.5f, 0.3796039f, 0.32335612f, 0.2797676f},
    {-0.11049093f, -0.074784584f, -0.05322455f, -0.039447628f, -0.02673355f, -0.017325802f, -0.012056704f,
     -0.008840103f, -0.005961726f, -0.0038752893f, -0.0027146242f, -0.0020050257f, -0.39894226f, -0.25659004f,
     -0.19684462f, -0.15414025f},
    {0.046322197f, 0.027176177f, 0.01694698f, 0.011118981f, 0.0063874135f, 0.0034155624f, 0.002013137f, 0.0012765067f,
     0.0007135974f, 0.00037664289f, 0.00022172024f, 0.00014109834f, 0.24999954f, 0.14169106f, 0.10016409f, 0.07244597f},
    {-0.017528648f, -0.009074865f, -0.0050310637f, -0.0029565087f, -0.0014589311f, -0.0006516849f, -0.00032801315f,
     -0.00018088486f, -8.427137e-05f, -3.627597e-05f, -1.7992441e-05f, -9.8815035e-06f, -0.1329688f, -0.06781832f,
     -0.044747222f, -0.030249504f},
    {0.0061025196f, 0.0028236923f, 0.001406714f, 0.000747059f, 0.00032011364f, 0.00012067109f, 5.2237378e-05f,
     2.5177762e-05f, 9.8266155e-06f, 3.4636323e-06f, 1.4509723e-06f, 6.887971e-07f, 0.062356237f, 0.029064223f,
     0.018049056f, 0.011493276f},
    {-0.001999256f, -0.0008330395f, -0.00037563482f, -0.00018140349f, -6.893382e-05f, -2.2019136e-05f, -8.221253e-06f,
     -3.4722482e-06f, -1.1576187e-06f, -3.3297064e-07f, -1.1752952e-07f, -4.814173e-08f, -0.025710398f, -0.011417952f,
     -0.0067123384f, -0.004046899f},
    {0.00060899765f, 0.00023009755f, 9.480927e-05f, 4.2072796e-05f, 1.4066767e-05f, 3.8583785e-06f, 1.2526538e-06f,
     4.6740897e-07f, 1.3160475e-07f, 3.1251197e-08f, 9.336245e-09f, 3.3042706e-09f, 0.0076457513f, 0.004155853f,
     0.0023207765f, 0.0013633692f}};
GRADCORE_INLINE Vec<float> look_up(const float (&table)[16], IVec<float> i) {
  return Vec<float>(_mm512_permutexvar_ps(__m512i(i), __m512(load(table))));
}
template <>
inline __attribute__((always_inline)) Vec<float> mills<float>(Vec<float> t) {
  const IVec<float> i = shift_right_logical<float>(to_bits(t + 1.0f), 21);
  const Vec<float> r = t - look_up(kMillsAt, i);
  Vec<float> sum = look_up(kMills[6], i);
#pragma GCC unroll 6
  for (int k = 5; k >= 0; k--) sum = fma(sum, r, look_up(kMills[k], i));
  return sum;
}
#endif

}  // namespace gradcore::GRADCORE_TARGET
