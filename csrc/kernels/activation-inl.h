// Activations h = act(z), their derivatives, and the kernels that apply them to blocks. No include guard: part of
// kernels/all-inl.h.
//
// An activation is a struct that computes {act(x), act'(x)} together: the derivative shares the exponential, and the
// compiler drops the half that a kernel does not use. Formulas use e = exp(-|x|) or similar, so that derivatives stay
// precise in the tails, where gradients vanish (tanh' as 1 - tanh^2 has an error of 28 % at x = 8.5 and is zero above
// 9), and a subnormal result is rounded only once.
//
// Conventions at kinks are those of PyTorch: relu'(0) = 0, leaky_relu'(0) = slope, elu'(0) = 1,
// selu'(0) = scale * alpha, hard_tanh'(-1) = hard_tanh'(1) = 0.
//
// Special values, act(x) | act'(x). NaN gives NaN in both (identity': 1). At -inf, gelu, silu and mish have their
// limit, zero of either sign; PyTorch returns NaN.
//                     -inf           -0             +0          +inf
//   identity        -inf | 1       -0 | 1          0 | 1      inf | 1
//   relu               0 | 0        0 | 0          0 | 0      inf | 1
//   leaky_relu      -inf | 0.01    -0 | 0.01       0 | 0.01   inf | 1
//   elu               -1 | 0       -0 | 1          0 | 1      inf | 1
//   selu         -1.7581 | 0       -0 | 1.7581     0 | 1.7581 inf | 1.0507
//   gelu, gelu_tanh, silu
//                      0 | 0       -0 | 0.5        0 | 0.5    inf | 1
//   mish               0 | 0       -0 | 0.6        0 | 0.6    inf | 1
//   softplus           0 | 0     ln 2 | 0.5     ln 2 | 0.5    inf | 1
//   tanh              -1 | 0       -0 | 1          0 | 1        1 | 0
//   hard_tanh         -1 | 0       -0 | 1          0 | 1        1 | 0
//   sigmoid            0 | 0      0.5 | 0.25     0.5 | 0.25     1 | 0
//
// Numerics  largest errors found on any target, in ULP, act | act'. float32: sweeps over at least every 512th bit
//   pattern; float64: 200 000 points; bounds: tests/tolerances.py "ACTIVATION_ULP".
//               float32        float64                    float32        float64
//   leaky_relu  0.9 | 0.2      0.7 | 0.2      gelu        3.8 | 3.7      3.5 | 3.3
//   elu         1.0 | 1.1      1.2 | 1.0      gelu_tanh   1.8 | 3.9      1.7 | 3.1
//   selu        2.0 | 1.8      1.6 | 1.6      silu        1.7 | 3.1      1.7 | 2.9
//   softplus    2.0 | 1.9      2.2 | 1.9      mish        3.5 | 4.4      2.9 | 3.8
//   tanh        2.0 | 3.3      2.2 | 3.4      sigmoid     1.9 | 3.1      1.9 | 3.0
//   identity, relu and hard_tanh are exact. gelu', gelu_tanh', silu' and mish' cross zero between floating-point
//   numbers (near -0.75, -0.75, -1.28, -1.19); within 1 of the crossing, these errors are in ULPs of 1/4, not of the
//   result. mish' has 4.4 on the x86 baseline only, elsewhere 3.9.

namespace gradcore::GRADCORE_TARGET {

// d, or NaN where x is NaN.
template <class T>
GRADCORE_INLINE Vec<T> unless_nan(Vec<T> x, Vec<T> d) {
  return select(x == x, d, x);
}

template <class T>
struct ValueGrad {
  Vec<T> value, grad;
};

// Every activation has two steps, parts = begin(x) and both(x, parts). Each is run on several vectors before the next
// one begins: too few whole functions fit into a CPU's out-of-order window to hide their latencies (bench/README.md,
// Activations).
template <class T>
struct InOneStep {
  struct Parts {};
  GRADCORE_INLINE Parts begin(Vec<T>) { return {}; }
};

// ---- piecewise linear ----

template <class T>
struct Identity : InOneStep<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, typename InOneStep<T>::Parts) { return {x, splat<T>(1)}; }
};

template <class T>
struct Relu : InOneStep<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, typename InOneStep<T>::Parts) {
    const Vec<T> zero{};
    return {select(x <= zero, zero, x), unless_nan<T>(x, select(x > zero, splat<T>(1), zero))};
  }
};

template <class T>
struct LeakyRelu : InOneStep<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, typename InOneStep<T>::Parts) {
    const Vec<T> slope = splat<T>(T(0.01)), zero{};
    return {select(x > zero, x, x * slope), unless_nan<T>(x, select(x > zero, splat<T>(1), slope))};
  }
};

template <class T>
struct HardTanh : InOneStep<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, typename InOneStep<T>::Parts) {
    const Vec<T> one = splat<T>(1), zero{};
    return {max(-one, min(one, x)), unless_nan<T>(x, select(abs<T>(x) < one, one, zero))};
  }
};

// ---- one exponential: e = exp(-|x|), or exp(x) where only x < 0 needs it ----

template <class T>
struct ExpOfMinusAbs {
  using Parts = Exp<T>;
  GRADCORE_INLINE Parts begin(Vec<T> x) { return exp_parts<T>(-abs<T>(x)); }
};
template <class T>
struct ExpBelowZero {
  using Parts = Exp<T>;
  GRADCORE_INLINE Parts begin(Vec<T> x) { return exp_parts<T>(min(x, Vec<T>{})); }
};

// Elu: x > 0 ? x : exp(x) - 1.
template <class T>
struct Elu : ExpBelowZero<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &e) {
    return {select(x < Vec<T>{}, -one_minus(e), x), unless_nan<T>(x, value(e))};
  }
};

// scale * (x > 0 ? x : alpha * (exp(x) - 1)); constants of Klambauer et al. 2017, arXiv:1706.02515.
template <class T>
struct Selu : ExpBelowZero<T> {
  static constexpr double kScale = 1.0507009873554804934193349852946;
  static constexpr double kScaleAlpha = 1.7580993408473768599402175208123;
  // Rounding error of T for the exact product of the two constants.
  static constexpr double kScaleAlphaLo = sizeof(T) == 4 ? kScaleAlpha - double(T(kScaleAlpha)) : 1.4153519380084e-17;

  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &e) {
    const Vec<T> zero{}, below = -one_minus(e);
    const Vec<T> value = fma(below, splat<T>(T(kScaleAlpha)), below * T(kScaleAlphaLo));
    const Vec<T> grad = shifted(e) * T(kScaleAlpha) * kUnshift<T>;
    return {select(x < zero, value, fma(x, splat<T>(T(kScale - 1)), x)),
            unless_nan<T>(x, select(x > zero, splat<T>(T(kScale)), grad))};
  }
};

// With e = exp(-2|x|): h = tanh|x| = (1 - e) / (1 + e), tanh' = 4 e / (1 + e)^2 = e (1 + h)^2.
template <class T>
struct Tanh {
  using Parts = Exp<T>;
  GRADCORE_INLINE Parts begin(Vec<T> x) { return exp_parts<T>(-(abs<T>(x) + abs<T>(x))); }
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &parts) {
    const Vec<T> e = value(parts), n = one_minus(parts), inverse = rough_inverse(e + T(1)), q = n * inverse;
    const Vec<T> excess = fma(q, e, q - n);  // q (1 + e) - n; q is about n / 2 to n, so q - n is exact
    const Vec<T> h = fma(-excess, inverse, q);
    return {copy_sign<T>(h, x), e * fma(h, h + T(2), splat<T>(1))};
  }
};

// With e = exp(-|x|): sigmoid = x < 0 ? e / (1 + e) : 1 / (1 + e), sigmoid' = e / (1 + e)^2.
template <class T>
struct Sigmoid : ExpOfMinusAbs<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &parts) {
    const Vec<T> e = value(parts), inverse = one_plus<T>(e).inverse, below = e * inverse;
    return {select(x < Vec<T>{}, below, inverse), below * inverse};
  }
};

// log(1 + exp(x)) = max(x, 0) + log(1 + e), derivative sigmoid.
template <class T>
struct Softplus : ExpOfMinusAbs<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &parts) {
    const Vec<T> e = value(parts), shifted_e = shifted(parts);
    const Vec<T> rest = shifted_e * log1p_rest<T>(e);
    const Vec<T> log1p = shifted_e + rest;
    const Vec<T> log1p_lo = rest - (log1p - shifted_e);
    const Vec<T> inverse = one_plus<T>(e).inverse, unshift = splat<T>(kUnshift<T>), zero{};
    return {fma(log1p, unshift, fma(log1p_lo, unshift, max(zero, x))), select(x < zero, e * inverse, inverse)};
  }
};

// ---- gated: x times a distribution function F(x) = 1 - F(-x) ----

// With t = |x|, x F(x) = max(x, 0) - t F(-t), and the derivative is x < 0 ? s : 1 - s with
// s = F(-t) - t F'(t). Takes t F(-t) and s, both shifted as Exp is.
template <class T>
GRADCORE_INLINE ValueGrad<T> gate(Vec<T> x, Vec<T> below, Vec<T> slope) {
  const Vec<T> zero{}, s = slope * kUnshift<T>;
  return {fma(below, splat<T>(-kUnshift<T>), max(zero, x)), select(x < zero, s, T(1) - s)};
}

// F(x) = 1 / (1 + exp(-s(x))), given e = exp(-s(t)) and t s'(t) as a pair:
//   F(-t) = e / (1 + e)      F(-t) - t F'(t) = (1 + e - t s') e / (1 + e)^2
template <class T>
GRADCORE_INLINE ValueGrad<T> sigmoid_gate(Vec<T> x, Vec<T> t, const Exp<T> &e, Pair<T> t_ds) {
  const Vec<T> unshifted = value(e), shifted_e = shifted(e);
  const Divisor<T> d = one_plus<T>(unshifted);
  const Pair<T> below = exact_product<T>(t, shifted_e);
  const Vec<T> factor = (splat<T>(1) - t_ds.hi) + (unshifted - t_ds.lo);
  const Pair<T> slope = exact_product<T>(factor, shifted_e);
  return gate<T>(x, quotient<T>(below.hi, below.lo, d), quotient<T>(slope.hi, slope.lo, d) * d.inverse);
}

// x sigmoid(x): s = x.
template <class T>
struct Silu : ExpOfMinusAbs<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &e) {
    const Vec<T> t = min(splat<T>(-MathConstants<T>::kExpMin), abs<T>(x));
    return sigmoid_gate<T>(x, t, e, {t, Vec<T>{}});
  }
};

// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(s), s = a x + b x^3. exp(-s) needs s with a small
// absolute error, so s is kept as a pair; rounding it would cost 2^7 ULP at x = -10.
template <class T>
struct GeluTanh {
  static constexpr double kA = 1.5957691216057307117597842397375;    // 2 sqrt(2/pi)
  static constexpr double kB = 0.071354816272600248776348732302363;  // 0.044715 a
  // Their rounding errors in T.
  static constexpr double kALo = sizeof(T) == 4 ? kA - double(T(kA)) : -9.96930880911092e-17;
  static constexpr double kBLo = sizeof(T) == 4 ? kB - double(T(kB)) : -6.175149918155315e-19;
  static constexpr T kMax = sizeof(T) == 4 ? T(11.2) : T(22);  // beyond this, x exp(-s) rounds to zero

  struct Parts {
    Exp<T> e;
    Pair<T> t_ds;
  };
  GRADCORE_INLINE Parts begin(Vec<T> x) {
    const Vec<T> t = min(splat<T>(kMax), abs<T>(x)), b = splat<T>(T(kB));
    const Pair<T> t2 = exact_product<T>(t, t);
    const Pair<T> b_t2 = exact_product<T>(t2.hi, b);
    const Pair<T> sum = exact_sum<T>(b_t2.hi, splat<T>(T(kA)));
    const Vec<T> constants_lo = fma(t2.hi, splat<T>(T(kBLo)), splat<T>(T(kALo)));
    const Vec<T> sum_lo = sum.lo + (b_t2.lo + fma(t2.lo, b, constants_lo));
    const Pair<T> product = exact_product<T>(t, sum.hi);
    const Pair<T> s = {product.hi, fma(t, sum_lo, product.lo)};
    return {exp_parts<T>(Pair<T>{-s.hi, -s.lo}), {s.hi, fma(t + t, b_t2.hi, s.lo)}};  // t s' = s + 2 b t^3
  }
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Parts &parts) {
    return sigmoid_gate<T>(x, min(splat<T>(kMax), abs<T>(x)), parts.e, parts.t_ds);
  }
};

// x Phi(x): F is the normal distribution, Phi(-t) = exp(-t^2/2) M(t), Phi'(t) = exp(-t^2/2) / sqrt(2 pi). In one step,
// because exp and M are independent chains.
template <class T>
struct Gelu : InOneStep<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, typename InOneStep<T>::Parts) {
    const Vec<T> t = min(splat<T>(MathConstants<T>::kMillsMax), abs<T>(x));
    const Vec<T> e = shifted(exp_parts<T>(exact_product<T>(t, t * T(-0.5))));
    const Vec<T> m = mills<T>(t);
    const Pair<T> te = exact_product<T>(t, e);
    const Vec<T> slope = e * fma(t, splat<T>(T(-0.39894228040143267794)), m);
    return gate<T>(x, fma(te.hi, m, te.lo * m), slope);
  }
};

// x tanh(log(1 + exp(x))) = x n / d, with e = exp(-|x|) and
//   x < 0    n = e (2 + e)   d = n + 2       derivative e (4 (1 + e) (1 + x) + e (2 + 4 e + e^2)) / d^2
//   x >= 0   n = 1 + 2 e     d = n + 2 e^2   derivative (4 (1 + e) x e^2 / d + n) / d
// For x < 0, the factor e of n is applied only at the end, because it may be subnormal.
template <class T>
struct Mish : ExpOfMinusAbs<T> {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> x, const Exp<T> &parts) {
    const Vec<T> one = splat<T>(1), two = splat<T>(2), four = splat<T>(4);
    const Vec<T> t = min(splat<T>(-MathConstants<T>::kExpMin), abs<T>(x));
    const Vec<T> e = value(parts), shifted_e = shifted(parts);
    const auto negative = x < Vec<T>{};
    const Vec<T> n = select(negative, e + two, fma(e, two, one));
    // d = p q + c
    const Vec<T> p = select(negative, e, e + e), q = select(negative, n, e), c = select(negative, two, n);
    const Vec<T> d_hi = fma(p, q, c);
    const Divisor<T> d = divisor_of<T>(d_hi, fused_subtract<T>(p, q, d_hi - c));
    const Vec<T> cubic = fma(e, e + four, two) * e * d.inverse;
    const Vec<T> factor = select(negative, one - t, t * e * e);
    const Vec<T> inner = fma(fma(e, factor, factor) * four, d.inverse, select(negative, cubic, n));
    const Pair<T> slope = exact_product<T>(inner, select(negative, shifted_e, one));
    const Vec<T> ratio = n * d.inverse, unshift = select(negative, splat<T>(kUnshift<T>), one);
    return {select(negative, -t * (shifted_e * ratio), x * ratio) * unshift,
            quotient<T>(slope.hi, slope.lo, d) * unshift};
  }
};

// ---- blocks ----

template <class T>
struct ForwardRow {
  const T *z;
  T *h;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void put(index i, Lanes lanes, const ValueGrad<T> &act) const {
    lanes.put(h + i, act.value);
  }
};

template <class T>
struct ForwardGradRow {
  const T *z;
  T *h, *d;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void put(index i, Lanes lanes, const ValueGrad<T> &act) const {
    prefetch_to_write(d + i + 8 * kLanes<T>);
    lanes.put(h + i, act.value);
    lanes.put(d + i, act.grad);
  }
};

// Loads a vector of a row, `left` elements before its end; with kEnds, it may be a partial one.
template <bool kEnds, class T>
GRADCORE_INLINE Vec<T> load_before_end(const T *p, index left) {
  return !kEnds || left >= kLanes<T> ? load(p) : load_partial(p, int(left));
}
template <bool kEnds, class T, class Row>
GRADCORE_INLINE void put_before_end(const Row &row, index i, index left, const ValueGrad<T> &act) {
  if (!kEnds || left >= kLanes<T>)
    row.put(i, AllLanes<T>{}, act);
  else
    row.put(i, FirstLanes<T>{int(left)}, act);
}

template <class T, class Act, class Row>
GRADCORE_INLINE void activate(index cols, const Row &row) {
  constexpr int W = kLanes<T>, kAtOnce = 8;
  // Without AVX2 an activation is so long that its code exists only once, also for ends of rows (25 kB less).
  constexpr bool kEnds = GRADCORE_VECTOR_BYTES == 16;
  index c = 0;
  while (kEnds ? c < cols : c + W <= cols) {
    const index left = (cols - c + (kEnds ? W - 1 : 0)) / W, count = left < kAtOnce ? left : kAtOnce;
    typename Act::Parts parts[kAtOnce];
#pragma GCC unroll 1
    for (index v = 0; v < count; v++)
      parts[v] = Act::begin(load_before_end<kEnds>(row.z + c + v * W, cols - c - v * W));
#pragma GCC unroll 1
    for (index v = 0; v < count; v++, c += W) {
      const Vec<T> x = load_before_end<kEnds>(row.z + c, cols - c);
      put_before_end<kEnds>(row, c, cols - c, Act::both(x, parts[v]));
    }
  }
  if constexpr (kEnds) return;
  if (c == cols) return;
  const FirstLanes<T> lanes{int(cols - c)};
  const Vec<T> x = lanes.get(row.z + c);
  row.put(c, lanes, Act::both(x, Act::begin(x)));
}

// Makes one long row, with a single end, if no operand has gaps between its rows.
GRADCORE_INLINE void merge_rows(index &rows, index &cols, bool contiguous) {
  if (!contiguous) return;
  cols *= rows;
  rows = 1;
}

template <class T, template <class> class Act>
void activation_forward(index rows, index cols, const T *z, index ldz, T *h, index ldh) {
  merge_rows(rows, cols, ldz == cols && ldh == cols);
  for (index r = 0; r < rows; r++) {
    activate<T, Act<T>>(cols, ForwardRow<T>{z + r * ldz, h + r * ldh});
  }
}

template <class T, template <class> class Act>
void activation_forward_grad(index rows, index cols, const T *z, index ldz, T *h, index ldh, T *d, index ldd) {
  merge_rows(rows, cols, ldz == cols && ldh == cols && ldd == cols);
  for (index r = 0; r < rows; r++) {
    activate<T, Act<T>>(cols, ForwardGradRow<T>{z + r * ldz, h + r * ldh, d + r * ldd});
  }
}

template <class T>
struct SlopeRow {
  T *dy;
  const T *h;
  Vec<T> slope;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    const Vec<T> grad = lanes.get(dy + i);
    lanes.put(dy + i, select(lanes.get(h + i) > Vec<T>{}, grad, slope * grad));
  }
};

template <class T>
void slope_backward(index rows, index cols, T *dy, index lddy, const T *h, index ldh, T slope) {
  merge_rows(rows, cols, lddy == cols && ldh == cols);
  for (index r = 0; r < rows; r++) {
    const SlopeRow<T> row{dy + r * lddy, h + r * ldh, splat<T>(slope)};
    for_vectors<T>(cols, row);
  }
}

template <class T, template <class> class Act>
constexpr void fill_one_activation(KernelSet<T> &set, gradcore_activation i) {
  set.activation_forward[i] = activation_forward<T, Act>;
  set.activation_forward_grad[i] = activation_forward_grad<T, Act>;
}

template <class T>
constexpr void fill_activation(KernelSet<T> &set) {
  fill_one_activation<T, Identity>(set, GRADCORE_IDENTITY);
  fill_one_activation<T, Relu>(set, GRADCORE_RELU);
  fill_one_activation<T, LeakyRelu>(set, GRADCORE_LEAKY_RELU);
  fill_one_activation<T, Elu>(set, GRADCORE_ELU);
  fill_one_activation<T, Selu>(set, GRADCORE_SELU);
  fill_one_activation<T, Gelu>(set, GRADCORE_GELU);
  fill_one_activation<T, GeluTanh>(set, GRADCORE_GELU_TANH);
  fill_one_activation<T, Silu>(set, GRADCORE_SILU);
  fill_one_activation<T, Mish>(set, GRADCORE_MISH);
  fill_one_activation<T, Softplus>(set, GRADCORE_SOFTPLUS);
  fill_one_activation<T, Tanh>(set, GRADCORE_TANH);
  fill_one_activation<T, HardTanh>(set, GRADCORE_HARD_TANH);
  fill_one_activation<T, Sigmoid>(set, GRADCORE_SIGMOID);
  set.slope_backward = slope_backward<T>;
}

}  // namespace gradcore::GRADCORE_TARGET
