// Losses and their gradients with respect to the net's output y. No include guard: part of
// kernels/all-inl.h.
//
// Every kernel returns the sum of the losses over its block, in double, and writes grad = scale * dloss/dy if grad is
// not null. grad may be y. Terms are computed in T and added in double, in an order that depends only on rows and cols.
// Non-finite y is not an error: NaN gives NaN, infinities give the results of PyTorch's formulas (an infinite loss if
// the true class has logit -inf; NaN if the largest logit is inf).

namespace gradcore::GRADCORE_TARGET {

// v with `other` in the lanes beyond the end of a row.
template <class T>
GRADCORE_INLINE Vec<T> beyond_end(AllLanes<T>, Vec<T> v, T) {
  return v;
}
template <class T>
GRADCORE_INLINE Vec<T> beyond_end(FirstLanes<T> lanes, Vec<T> v, T other) {
  return select(first_lanes<T>(lanes.count), v, splat<T>(other));
}

GRADCORE_INLINE void add_wide(Vec<double> v, Vec<double> &sum) { sum += v; }
GRADCORE_INLINE void add_wide(Vec<float> v, Vec<double> &sum) {
  HalfVec<float> half[2];
  __builtin_memcpy(half, &v, sizeof(v));
  sum += __builtin_convertvector(half[0], Vec<double>) + __builtin_convertvector(half[1], Vec<double>);
}

// ---- cross entropy ----
//
//   loss = sum_j p[j] (log S + m - y[j]),   m = max y,  S = sum_j exp(y[j] - m)         (CE.1)
//   grad = scale (exp(y[j] - m) / S * sum(p) - p[j])                                    (CE.2)
//
// For a label l, p is 1 at l and 0 elsewhere; the gradient at l is computed as scale (exp(y[l] - m) - S) / S in double,
// so that it stays precise as the loss vanishes. Three passes over a row: m, exponentials and sums, gradient.

template <class T>
struct RowMax {
  const T *y;
  Vec<T> best;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) {
    best = max(best, beyond_end(lanes, lanes.get(y + i), -T(__builtin_inf())));
  }
};

// This may miss a NaN in y, but exp(NaN - m) propagates it.
template <class T>
GRADCORE_INLINE T row_max(index cols, const T *y) {
  RowMax<T> op{y, splat<T>(-T(__builtin_inf()))};
  for_vectors<T>(cols, op);
  return reduce_max<T>(op.best);
}

// sum += exp(y - m); the exponentials are kept in grad if it is not null.
template <class T>
struct RowExp {
  const T *y;
  T *grad;
  Vec<T> m;
  Vec<double> sum;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) {
    const Vec<T> e = value(exp_parts<T>(lanes.get(y + i) - m));
    add_wide(beyond_end(lanes, e, T(0)), sum);
    if (grad) lanes.put(grad + i, e);
  }
};

// log(sums[0]) + ... + log(sums[count - 1]).
GRADCORE_INLINE double sum_of_logs(Vec<double> sums, int count) {
  return reduce_add<double>(log_above_one<double>(select(first_lanes<double>(count), sums, splat<double>(1))));
}

template <class T>
double cross_entropy_labels(index rows, index cols, const T *y, index ldy, const index *labels, T scale, T *grad,
                            index ldg) {
  constexpr int kSums = kLanes<double>;
  double loss = 0;
  Vec<double> sums{};
  for (index r = 0; r < rows; r++, y += ldy) {
    const T m = row_max(cols, y), at_label = y[labels[r]];
    RowExp<T> exps{y, grad, splat<T>(m), {}};
    for_vectors<T>(cols, exps);
    const double sum = reduce_add<double>(exps.sum);
    loss += double(m) - double(at_label);
    // The logarithms of several rows take as long as one.
    sums[r % kSums] = sum;
    if (r % kSums == kSums - 1 || r + 1 == rows) loss += sum_of_logs(sums, int(r % kSums) + 1);
    if (!grad) continue;
    const double e_label = double(grad[labels[r]]);
    const ScaleArray<T> normalize{splat<T>(T(double(scale) / sum)), grad};
    for_vectors<T>(cols, normalize);
    grad[labels[r]] = T((e_label - sum) / sum * double(scale));
    grad += ldg;
  }
  return loss;
}

// The sums of (CE.1) of a row, for target probabilities p.
template <class T>
struct RowExpProbs {
  RowExp<T> exps;
  const T *p;
  Vec<double> p_sum, p_gap;  // sum p, sum p (m - y)
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) {
    const Vec<T> prob = lanes.get(p + i);
    const Vec<T> gap = prob * (exps.m - lanes.get(exps.y + i));  // before exps may overwrite y
    exps(i, lanes);
    add_wide(prob, p_sum);
    add_wide(beyond_end(lanes, gap, T(0)), p_gap);
  }
};

// grad = grad * factor - p * scale.
template <class T>
struct RowProbsGrad {
  Vec<T> factor, scale;
  const T *p;
  T *grad;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    lanes.put(grad + i, fma(lanes.get(grad + i), factor, lanes.get(p + i) * -scale));
  }
};

template <class T>
double cross_entropy_probs(index rows, index cols, const T *y, index ldy, const T *target, index ldt, T scale, T *grad,
                           index ldg) {
  double loss = 0;
  for (index r = 0; r < rows; r++, y += ldy, target += ldt) {
    RowExpProbs<T> row{{y, grad, splat<T>(row_max(cols, y)), {}}, target, {}, {}};
    for_vectors<T>(cols, row);
    const double sum = reduce_add<double>(row.exps.sum), p_sum = reduce_add<double>(row.p_sum);
    loss += p_sum * log_above_one<double>(splat<double>(sum))[0] + reduce_add<double>(row.p_gap);
    if (!grad) continue;
    const RowProbsGrad<T> op{splat<T>(T(p_sum / sum * double(scale))), splat<T>(scale), target, grad};
    for_vectors<T>(cols, op);
    grad += ldg;
  }
  return loss;
}

// ---- elementwise losses: both(y, t) = {loss, dloss/dy} ----

// (1 - t) y + max(-y, 0) + log(1 + exp(-|y|)); the derivative sigmoid(y) - t is computed as
// (1 - t) sigmoid(y) - t sigmoid(-y), without cancellation as the loss vanishes.
template <class T>
struct BinaryCrossEntropy {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> y, Vec<T> t) {
    const Vec<T> one = splat<T>(1), zero{};
    const Exp<T> parts = exp_parts<T>(-abs<T>(y));
    const Vec<T> e = value(parts), inverse = one_plus<T>(e).inverse, below = e * inverse;
    const auto negative = y < zero;
    const Vec<T> sigmoid = select(negative, below, inverse), sigmoid_minus = select(negative, inverse, below);
    return {fma(one - t, y, max(-y, zero) + fma(e, log1p_rest<T>(e), e)), fma(one - t, sigmoid, -t * sigmoid_minus)};
  }
};

template <class T>
struct MeanSquared {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> y, Vec<T> t) {
    const Vec<T> d = y - t;
    return {d * d, d + d};
  }
};

// The derivative is 0 where y = t.
template <class T>
struct MeanAbsolute {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> y, Vec<T> t) {
    const Vec<T> d = y - t, one = splat<T>(1), zero{};
    return {abs<T>(d), select(d > zero, one, select(d < zero, -one, d))};
  }
};

// delta = 1: d^2 / 2 where |d| <= 1, |d| - 1/2 beyond.
template <class T>
struct Huber {
  GRADCORE_INLINE ValueGrad<T> both(Vec<T> y, Vec<T> t) {
    const Vec<T> d = y - t, one = splat<T>(1), half = splat<T>(T(0.5)), size = abs<T>(d);
    return {select(size > one, size - half, d * d * half), max(-one, min(one, d))};
  }
};

template <class T, template <class> class Loss>
struct LossRow {
  const T *y, *target;
  T *grad;
  Vec<T> scale;
  Vec<double> sum;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) {
    const ValueGrad<T> loss = Loss<T>::both(lanes.get(y + i), lanes.get(target + i));
    add_wide(beyond_end(lanes, loss.value, T(0)), sum);
    if (grad) lanes.put(grad + i, scale * loss.grad);
  }
};

template <class T, template <class> class Loss>
double elementwise_loss(index rows, index cols, const T *y, index ldy, const T *target, index ldt, T scale, T *grad,
                        index ldg) {
  LossRow<T, Loss> row{y, target, grad, splat<T>(scale), {}};
  for (index r = 0; r < rows; r++) {
    for_vectors<T>(cols, row);
    row.y += ldy;
    row.target += ldt;
    if (grad) row.grad += ldg;
  }
  return reduce_add<double>(row.sum);
}

template <class T>
constexpr void fill_loss(KernelSet<T> &set) {
  set.cross_entropy_labels = cross_entropy_labels<T>;
  set.cross_entropy_probs = cross_entropy_probs<T>;
  set.elementwise_loss[GRADCORE_BINARY_CROSS_ENTROPY] = elementwise_loss<T, BinaryCrossEntropy>;
  set.elementwise_loss[GRADCORE_MSE] = elementwise_loss<T, MeanSquared>;
  set.elementwise_loss[GRADCORE_MAE] = elementwise_loss<T, MeanAbsolute>;
  set.elementwise_loss[GRADCORE_HUBER] = elementwise_loss<T, Huber>;
}

}  // namespace gradcore::GRADCORE_TARGET
