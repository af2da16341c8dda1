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
  // (exp(r) - 1 - r) / r^2 on |r| <= ln2/2: 2^-31.8 of exp(r) - 1.
  static constexpr float kExp[] = {0.5f,
                                   0.1666666716337204f,
                                   0.041666366159915924f,
                                   0.00833327416330576f,
                                   0.0013940377393737435f,
                                   0.00019913741562049836f};
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
  static constexpr float kMillsMax = 15.0f;
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

// Mills' ratio of the normal distribution: Phi(-t) = exp(-t^2/2) * mills(t, t^2), for t in [0, kMillsMax]. The fit
// 1 / (2 + 2 t + t U/P) is exact at 0, U is a small part of the result, and the rounding errors of P nearly cancel:
// 1.5 ULP, where a plain P/Q of these degrees has 4.
template <class T>
GRADCORE_INLINE Vec<T> mills(Vec<T> t, Vec<T> t2) {
  using C = MathConstants<T>;
  const Vec<T> p = horner_pairs<T>(t, t2, C::kMillsP);
  const Vec<T> rest = fma(t, horner_pairs<T>(t, t2, C::kMillsU), p + p);
  const Vec<T> q = fma(t + t, p, rest);
  return quotient(p, q);
}

}  // namespace gradcore::GRADCORE_TARGET
