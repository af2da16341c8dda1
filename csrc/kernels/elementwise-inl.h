// Elementwise kernels on blocks, the optimizer updates, and the drivers that handle the ends of rows for all kernels
// except products.
//
// A driver cuts a row into full vectors and at most one partial vector, and passes each to an operation as (index of
// its first element, lanes). `lanes` loads and stores, so an operation is written once and need not know the end of a
// row. Operations are structs, not lambdas, because Clang does not give lambdas the features of a target region.

namespace gradcore::GRADCORE_TARGET {

// ---- ends of rows ----

#define GRADCORE_INLINE_MEMBER inline __attribute__((always_inline))

template <class T>
struct AllLanes {
  GRADCORE_INLINE_MEMBER Vec<T> get(const T *p) const { return load(p); }
  GRADCORE_INLINE_MEMBER void put(T *p, Vec<T> v) const { store(p, v); }
  GRADCORE_INLINE_MEMBER Vec<T> keep(Vec<T> v) const { return v; }
};

// The first `count` lanes, 0 < count < kLanes<T>; the others read as zero.
template <class T>
struct FirstLanes {
  int count;
  GRADCORE_INLINE_MEMBER Vec<T> get(const T *p) const { return load_partial(p, count); }
  GRADCORE_INLINE_MEMBER void put(T *p, Vec<T> v) const { store_partial(p, v, count); }
  // v with zeros in the other lanes, which then add nothing to a sum.
  GRADCORE_INLINE_MEMBER Vec<T> keep(Vec<T> v) const {
    T lanes[kLanes<T>];
    store(lanes, v);
    return load_partial(lanes, count);
  }
};

template <class T, class Op>
GRADCORE_INLINE void for_vectors(index n, Op &op) {
  constexpr int W = kLanes<T>;
  index i = 0;
  for (; i + W <= n; i += W) op(i, AllLanes<T>{});
  if (i < n) op(i, FirstLanes<T>{int(n - i)});
}

// ---- y = f(x, y) on a block ----

struct Add {
  template <class V>
  static GRADCORE_INLINE_MEMBER V apply(V x, V y) {
    return y + x;
  }
};
struct Multiply {
  template <class V>
  static GRADCORE_INLINE_MEMBER V apply(V x, V y) {
    return y * x;
  }
};

template <class T, class F>
struct CombineRow {
  const T *x;
  T *y;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    lanes.put(y + i, F::apply(lanes.get(x + i), lanes.get(y + i)));
  }
};

template <class T>
struct CopyRow {
  const T *x;
  T *y;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    lanes.put(y + i, lanes.get(x + i));
  }
};

template <class T, class Row>
void map_block(index rows, index cols, const T *x, index ldx, T *y, index ldy) {
  if (ldx == cols && ldy == cols) {  // one long row has a single end
    cols *= rows;
    rows = 1;
  }
  for (index r = 0; r < rows; r++) {
    Row row{x + r * ldx, y + r * ldy};
    for_vectors<T>(cols, row);
  }
}

template <class T>
void fetch_to_write(index rows, index cols, const T *x, index ldx) {
  for (index r = 0; r < rows; r++)
    for (index c = 0; c < cols; c += index(kCacheLine / sizeof(T))) prefetch_to_write(x + r * ldx + c);
}

// ---- x = f(x) on an array ----

template <class T>
struct ScaleArray {
  Vec<T> factor;
  T *x;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    lanes.put(x + i, lanes.get(x + i) * factor);
  }
};

template <class T>
void scale_array(index n, T factor, T *x) {
  const ScaleArray<T> op{splat<T>(factor), x};
  for_vectors<T>(n, op);
}

// Clamps to [-bound, bound]. min and max return their second operand if either is NaN, so NaN stays NaN.
template <class T>
GRADCORE_INLINE Vec<T> clamp_magnitude(Vec<T> x, Vec<T> bound) {
  return max(-bound, min(bound, x));
}

template <class T>
struct ClampArray {
  Vec<T> bound;
  T *x;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    lanes.put(x + i, clamp_magnitude<T>(lanes.get(x + i), bound));
  }
};

template <class T>
void clamp_array(index n, T bound, T *x) {
  const ClampArray<T> op{splat<T>(bound), x};
  for_vectors<T>(n, op);
}

// ---- optimizer updates ----
//
// One element's step, as torch.optim computes it (dampening 0, RMSprop not centered, no amsgrad):
//   g = clamp(grad * clip_coef, clip_value)                                              (U.1)
//   g = g + weight_decay * p            sgd, rmsprop, adam                               (U.2)
//   sgd      m = first ? g : momentum * m + g;  d = nesterov ? g + momentum * m : m
//            without momentum           d = g                                            (U.3)
//   rmsprop  v = alpha * v + (1 - alpha) * g^2;  d = g / (sqrt(v) + eps)
//            with momentum              m = momentum * m + d;  d = m                     (U.4)
//   adam     m = m + (1 - beta1) * (g - m); if beta1 <= 0.5, g + beta1 * (m - g): a large m leaves g its digits
//            v = beta2 * v + (1 - beta2) * g^2
//            d = m / (sqrt(v) / sqrt(bias2) + eps)                                       (U.5)
//   p' = p - rate * d,  rate = lr; adam and adamw: lr / bias1; adamw: p * (1 - lr * weight_decay) for p
//   *update_sumsq += (p' - p)^2 in double, with p' as rounded                            (U.6)
// m is state0 and v is state1; rmsprop without momentum keeps its only state, v, in state0.
// A zero weight_decay or momentum is skipped, because 0 * inf is NaN.
//
// Recording does not change a bit of the parameters.
// Cost  one pass: every array is loaded and stored once (adam moves 7 elements per parameter).

GRADCORE_INLINE double square_root(double x) { return __builtin_sqrt(x); }

template <class T>
struct SgdRule {
  const UpdateArgs<T> &args;
  Vec<T> minus_rate = splat<T>(T(-args.lr)), momentum = splat<T>(T(args.momentum));

  template <class Lanes>
  GRADCORE_INLINE_MEMBER Vec<T> direction(index i, Lanes lanes, Vec<T> g) const {
    if (args.momentum == 0) return g;
    const Vec<T> m = args.first ? g : fma(momentum, lanes.get(args.state0 + i), g);
    lanes.put(args.state0 + i, m);
    return args.nesterov ? fma(momentum, m, g) : m;
  }
};

template <class T>
struct RmspropRule {
  const UpdateArgs<T> &args;
  Vec<T> minus_rate = splat<T>(T(-args.lr)), momentum = splat<T>(T(args.momentum)), eps = splat<T>(T(args.eps));
  Vec<T> alpha = splat<T>(T(args.alpha)), rest = splat<T>(T(1 - args.alpha));

  template <class Lanes>
  GRADCORE_INLINE_MEMBER Vec<T> direction(index i, Lanes lanes, Vec<T> g) const {
    T *mean_square = args.momentum == 0 ? args.state0 : args.state1;
    const Vec<T> v = fma(alpha, lanes.get(mean_square + i), rest * g * g);
    lanes.put(mean_square + i, v);
    const Vec<T> scaled = g / (sqrt(v) + eps);
    if (args.momentum == 0) return scaled;
    const Vec<T> m = fma(momentum, lanes.get(args.state0 + i), scaled);
    lanes.put(args.state0 + i, m);
    return m;
  }
};

template <class T>
struct AdamRule {
  const UpdateArgs<T> &args;
  Vec<T> minus_rate = splat<T>(T(-args.lr / args.bias1)), inverse_root_bias2 = splat<T>(T(1 / square_root(args.bias2)));
  bool from_g = args.beta1 <= 0.5;
  Vec<T> share = splat<T>(T(from_g ? -args.beta1 : 1 - args.beta1));  // factor of g - m, added to g or to m
  IVec<T> starts_at_g = splat_int<T>(from_g ? -1 : 0);
  Vec<T> beta2 = splat<T>(T(args.beta2)), rest2 = splat<T>(T(1 - args.beta2));
  Vec<T> eps = splat<T>(T(args.eps));

  template <class Lanes>
  GRADCORE_INLINE_MEMBER Vec<T> direction(index i, Lanes lanes, Vec<T> g) const {
    const Vec<T> m0 = lanes.get(args.state0 + i);
    const Vec<T> m = fma(share, g - m0, select(starts_at_g, g, m0));
    const Vec<T> v = fma(beta2, lanes.get(args.state1 + i), rest2 * g * g);
    lanes.put(args.state0 + i, m);
    lanes.put(args.state1 + i, v);
    return m / fma(sqrt(v), inverse_root_bias2, eps);  // the only division; it takes half of the time
  }
};

// acc += squares of the lanes, in double, because squares of updates of 1e-25 must not underflow.
GRADCORE_INLINE void add_squares(Vec<double> v, Vec<double> &acc) { acc = fma(v, v, acc); }
GRADCORE_INLINE void add_squares(Vec<float> v, Vec<double> &acc) {
  HalfVec<float> half[2];
  __builtin_memcpy(half, &v, sizeof v);
  add_squares(__builtin_convertvector(half[0], Vec<double>), acc);
  add_squares(__builtin_convertvector(half[1], Vec<double>), acc);
}

template <class T, class Rule, bool kDecoupledDecay, bool kRecord>
struct UpdateStep {
  const UpdateArgs<T> &args;
  Rule rule{args};
  Vec<T> clip_coef = splat<T>(T(args.clip_coef)), clip_value = splat<T>(T(args.clip_value));
  Vec<T> weight_decay = splat<T>(T(args.weight_decay)), kept = splat<T>(T(1 - args.lr * args.weight_decay));
  Vec<double> sumsq = {};

  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) {
    Vec<T> g = clamp_magnitude<T>(lanes.get(args.grad + i) * clip_coef, clip_value);
    const Vec<T> p = lanes.get(args.param + i);
    if (!kDecoupledDecay && args.weight_decay != 0) g = fma(weight_decay, p, g);
    const Vec<T> stepped = fma(rule.minus_rate, rule.direction(i, lanes, g), kDecoupledDecay ? p * kept : p);
    lanes.put(args.param + i, stepped);
    if (kRecord) add_squares(lanes.keep(stepped - p), sumsq);
  }
};

template <class T, class Rule, bool kDecoupledDecay = false>
void update_range(const UpdateArgs<T> &args) {
  if (args.update_sumsq) {
    UpdateStep<T, Rule, kDecoupledDecay, true> step{args};
    for_vectors<T>(args.n, step);
    *args.update_sumsq += reduce_add<double>(step.sumsq);
  } else {
    UpdateStep<T, Rule, kDecoupledDecay, false> step{args};
    for_vectors<T>(args.n, step);
  }
}

template <class T>
constexpr void fill_elementwise(KernelSet<T> &set) {
  set.add = map_block<T, CombineRow<T, Add>>;
  set.multiply = map_block<T, CombineRow<T, Multiply>>;
  set.copy = map_block<T, CopyRow<T>>;
  set.fetch_to_write = fetch_to_write<T>;
  set.scale = scale_array<T>;
  set.clamp = clamp_array<T>;
  set.update[GRADCORE_SGD] = update_range<T, SgdRule<T>>;
  set.update[GRADCORE_RMSPROP] = update_range<T, RmspropRule<T>>;
  set.update[GRADCORE_ADAM] = update_range<T, AdamRule<T>>;
  set.update[GRADCORE_ADAMW] = update_range<T, AdamRule<T>, true>;
}

}  // namespace gradcore::GRADCORE_TARGET
