// Normalization: batch norm from column sums, layer norm and RMS norm from row sums.
//
// Column sums keep a strip of columns in registers and run over the rows in ascending order, with one accumulator per
// column. Row sums use four vector accumulators, added in a fixed tree.

namespace gradcore::GRADCORE_TARGET {

// ---- drivers ----

// Calls op.strip<vectors>(first column, lanes) for strips of kStrip vectors of columns, then for single vectors, then
// for the partial one.
template <class T, int kStrip, class Op>
GRADCORE_INLINE void for_column_strips(index cols, const Op &op) {
  constexpr int W = kLanes<T>;
  index c = 0;
  for (; c + kStrip * W <= cols; c += kStrip * W) op.template strip<kStrip>(c, AllLanes<T>{});
  for (; c + W <= cols; c += W) op.template strip<1>(c, AllLanes<T>{});
  if (c < cols) op.template strip<1>(c, FirstLanes<T>{int(cols - c)});
}

// sums[k] = sum over a row of the k-th value of term(column, lanes, values).
template <class T, int kSums, class Term>
GRADCORE_INLINE void row_sums(index cols, const Term &term, T *sums) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[4][kSums] = {}, values[kSums];
  index c = 0;
  for (; c + 4 * W <= cols; c += 4 * W) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      term(c + v * W, AllLanes<T>{}, values);
      for (int k = 0; k < kSums; k++) acc[v][k] += values[k];
    }
  }
  for (; c + W <= cols; c += W) {
    term(c, AllLanes<T>{}, values);
    for (int k = 0; k < kSums; k++) acc[0][k] += values[k];
  }
  if (c < cols) {
    const FirstLanes<T> lanes{int(cols - c)};
    term(c, lanes, values);
    for (int k = 0; k < kSums; k++) acc[1][k] += lanes.keep(values[k]);
  }
  for (int k = 0; k < kSums; k++) sums[k] = reduce_add<T>((acc[0][k] + acc[1][k]) + (acc[2][k] + acc[3][k]));
}

// ---- batch norm ----
//
//   mean[c] + rest[c] = 1/R sum_r x[r,c];   m2[c] = sum_r (x[r,c] - mean[c] - rest[c])^2 (BN.1)
//   y[r,c]  = (x[r,c] - mean[c]) * scale[c] + shift[c]                                   (BN.2)
//   x_hat[r,c] = (x[r,c] - mean[c]) * inv_std[c]
//   sum_dy[c]  = sum_r dy[r,c];   sum_dy_xhat[c] = sum_r dy[r,c] * x_hat[r,c]            (BN.3)
//   dx[r,c] = a[c] * (dy[r,c] - s1[c] - x_hat[r,c] * s2[c])                              (BN.4)
//   with a = gamma * inv_std, s1 = sum_dy / N, s2 = sum_dy_xhat / N over the whole batch of N rows.
//
// Shapes     x, y, dy, dx: [R, C] with a row stride; all others [C].
// Aliasing   y may be x, dx may be dy.
// Numerics   BN.1 takes two passes. The second, about the rounded mean of the first, finds the error of the rounding
//            (`rest`) and corrects m2 for it. The caller folds gamma * inv_std * rest into shift, so that x_hat keeps
//            its digits however large mean / std is; with x * scale + shift, a mean of 1e4 deviations causes an error
//            of 4e-3 in float32. Sums are in T over the R rows of one block; the caller merges blocks. Non-finite
//            values propagate. Bound: tests "batch_norm".
// Cost       BN.1 reads x once from memory and once from the cache; the others access each array once.
// Reference  Ioffe & Szegedy 2015, arXiv:1502.03167; Chan, Golub & LeVeque 1983 (corrected two-pass).

template <class T>
struct ColumnMoments {
  index rows;
  const T *x;
  index ldx;
  T *mean, *rest, *m2;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    const Vec<T> count = splat<T>(T(rows));
    Vec<T> sum[V] = {}, center[V], drift[V] = {}, squares[V] = {};
    for (index r = 0; r < rows; r++)
      for (int v = 0; v < V; v++) sum[v] += lanes.get(x + r * ldx + c + v * W);
    for (int v = 0; v < V; v++) center[v] = sum[v] / count;
    for (index r = 0; r < rows; r++) {
      for (int v = 0; v < V; v++) {
        const Vec<T> d = lanes.get(x + r * ldx + c + v * W) - center[v];
        drift[v] += d;
        squares[v] = fma(d, d, squares[v]);
      }
    }
    for (int v = 0; v < V; v++) {
      const Vec<T> left = drift[v] / count;
      lanes.put(mean + c + v * W, center[v]);
      lanes.put(rest + c + v * W, left);
      lanes.put(m2 + c + v * W, squares[v] - drift[v] * left);
    }
  }
};

template <class T>
void column_moments(index rows, index cols, const T *x, index ldx, T *mean, T *rest, T *m2) {
  for_column_strips<T, 4>(cols, ColumnMoments<T>{rows, x, ldx, mean, rest, m2});
}

// A strip of columns jumps from row to row, which the hardware prefetcher does not follow. Data that was last used in
// the layer's previous pass is prefetched this many rows ahead (Zen 4, gradient of b256 w256 d20 with batch norm: 1.02
// times as fast).
inline constexpr index kRowsAhead = 8;

template <class T>
struct BatchNormForward {
  index rows;
  const T *x;
  index ldx;
  const T *mean, *scale, *shift;
  T *y;
  index ldy;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    Vec<T> center[V], factor[V], offset[V];
    for (int v = 0; v < V; v++) {
      center[v] = lanes.get(mean + c + v * W);
      factor[v] = lanes.get(scale + c + v * W);
      offset[v] = lanes.get(shift + c + v * W);
    }
    for (index r = 0; r < rows; r++) {
      for (int v = 0; v < V; v++) {
        prefetch_to_write(y + (r + kRowsAhead) * ldy + c + v * W);
        lanes.put(y + r * ldy + c + v * W, fma(lanes.get(x + r * ldx + c + v * W) - center[v], factor[v], offset[v]));
      }
    }
  }
};

template <class T>
void batch_norm_forward(index rows, index cols, const T *x, index ldx, const T *mean, const T *scale, const T *shift,
                        T *y, index ldy) {
  for_column_strips<T, 4>(cols, BatchNormForward<T>{rows, x, ldx, mean, scale, shift, y, ldy});
}

template <class T>
struct BatchNormSums {
  index rows;
  const T *dy;
  index lddy;
  const T *x;
  index ldx;
  const T *mean, *inv_std;
  T *sum_dy, *sum_dy_xhat;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    Vec<T> center[V], s1[V] = {}, s2[V] = {};
    for (int v = 0; v < V; v++) center[v] = lanes.get(mean + c + v * W);
    for (index r = 0; r < rows; r++) {
      for (int v = 0; v < V; v++) {
        prefetch(x + (r + kRowsAhead) * ldx + c + v * W);
        const Vec<T> g = lanes.get(dy + r * lddy + c + v * W);
        s1[v] += g;
        s2[v] = fma(g, lanes.get(x + r * ldx + c + v * W) - center[v], s2[v]);
      }
    }
    for (int v = 0; v < V; v++) {
      lanes.put(sum_dy + c + v * W, s1[v]);
      lanes.put(sum_dy_xhat + c + v * W, s2[v] * lanes.get(inv_std + c + v * W));
    }
  }
};

template <class T>
void batch_norm_sums(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *mean,
                     const T *inv_std, T *sum_dy, T *sum_dy_xhat) {
  for_column_strips<T, 4>(cols, BatchNormSums<T>{rows, dy, lddy, x, ldx, mean, inv_std, sum_dy, sum_dy_xhat});
}

template <class T>
struct BatchNormBackward {
  index rows;
  const T *dy;
  index lddy;
  const T *x;
  index ldx;
  const T *mean, *inv_std, *a, *s1, *s2;
  T *dx;
  index lddx;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    Vec<T> center[V], slope[V], offset[V], factor[V];
    for (int v = 0; v < V; v++) {
      const index k = c + v * W;
      center[v] = lanes.get(mean + k);
      slope[v] = lanes.get(inv_std + k) * lanes.get(s2 + k);
      offset[v] = lanes.get(s1 + k);
      factor[v] = lanes.get(a + k);
    }
    for (index r = 0; r < rows; r++) {
      for (int v = 0; v < V; v++) {
        const index k = c + v * W;
        const Vec<T> d = lanes.get(x + r * ldx + k) - center[v];
        const Vec<T> g = lanes.get(dy + r * lddy + k) - offset[v];
        lanes.put(dx + r * lddx + k, factor[v] * (g - d * slope[v]));
      }
    }
  }
};

template <class T>
void batch_norm_backward(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *mean,
                         const T *inv_std, const T *a, const T *s1, const T *s2, T *dx, index lddx) {
  for_column_strips<T, 2>(cols, BatchNormBackward<T>{rows, dy, lddy, x, ldx, mean, inv_std, a, s1, s2, dx, lddx});
}

// ---- layer norm, RMS norm ----
//
//   mean[r] = 1/C sum_c x[r,c]  (rms: 0);  inv_std[r] = 1 / sqrt(1/C sum_c (x[r,c] - mean[r])^2 + eps)   (LN.1)
//   x_hat[r,c] = (x[r,c] - mean[r]) * inv_std[r];   y[r,c] = x_hat[r,c] * gamma[c] + beta[c]           (LN.2)
//   g = dy * gamma;  dx[r,c] = inv_std[r] * (g[r,c] - 1/C sum_c g - x_hat[r,c] * 1/C sum_c g * x_hat)  (LN.3)
//                                                     (rms: without the term 1/C sum g)
//   dgamma[c] = sum_r dy[r,c] * x_hat[r,c];   dbeta[c] = sum_r dy[r,c]                                 (LN.4)
//
// Shapes     x, y, dy, dx: [R, C] with a row stride; gamma, beta, dgamma, dbeta: [C]; mean, inv_std: [R].
// Aliasing   y may be x, dx may be dy. beta and dbeta may be null.
// Numerics   two passes per row, sums in T. Squares overflow a float beyond |x| = 2^63: inv_std is then 0.
//            Non-finite values propagate along their row. Bound: tests "layer_norm".
// Cost       a row is read from memory once; further passes over it read the cache.
// Reference  Ba, Kiros & Hinton 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467.

template <class T>
struct SumTerm {
  const T *x;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index c, Lanes lanes, Vec<T> *values) const {
    values[0] = lanes.get(x + c);
  }
};

template <class T>
struct SquaredDistanceTerm {
  const T *x;
  Vec<T> center;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index c, Lanes lanes, Vec<T> *values) const {
    const Vec<T> d = lanes.get(x + c) - center;
    values[0] = d * d;
  }
};

// y = (x - mean) * inv_std * gamma + beta; without beta if it is null.
template <class T>
struct NormalizeRow {
  const T *x;
  Vec<T> center, inv_std;
  const T *gamma, *beta;
  T *y;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index c, Lanes lanes) const {
    const Vec<T> scaled = (lanes.get(x + c) - center) * inv_std;
    const Vec<T> weight = lanes.get(gamma + c);
    lanes.put(y + c, beta ? fma(scaled, weight, lanes.get(beta + c)) : scaled * weight);
  }
};

template <class T>
void layer_norm_forward(index rows, index cols, const T *x, index ldx, const T *gamma, const T *beta, bool rms, T eps,
                        T *y, index ldy, T *mean, T *inv_std) {
  for (index r = 0; r < rows; r++) {
    const T *row = x + r * ldx;
    T sum = 0, squares;
    if (!rms) row_sums<T, 1>(cols, SumTerm<T>{row}, &sum);
    mean[r] = sum / T(cols);
    const Vec<T> center = splat<T>(mean[r]);
    row_sums<T, 1>(cols, SquaredDistanceTerm<T>{row, center}, &squares);
    inv_std[r] = T(1) / square_root(squares / T(cols) + eps);
    const NormalizeRow<T> normalize{row, center, splat<T>(inv_std[r]), gamma, beta, y + r * ldy};
    for_vectors<T>(cols, normalize);
  }
}

// g and g * x_hat of LN.3. g is kept in dx. If the product were computed again and fused into the subtraction, a
// rounding error would remain where LN.3 gives zero (rows of one element).
template <class T>
struct LayerNormGradTerm {
  const T *dy, *x, *gamma;
  Vec<T> center, inv_std;
  T *dx;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index c, Lanes lanes, Vec<T> *values) const {
    values[0] = lanes.get(dy + c) * lanes.get(gamma + c);
    values[1] = values[0] * ((lanes.get(x + c) - center) * inv_std);
    lanes.put(dx + c, values[0]);
  }
};

template <class T>
struct LayerNormBackwardRow {
  LayerNormGradTerm<T> term;
  Vec<T> mean_g, mean_gx;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index c, Lanes lanes) const {
    const Vec<T> x_hat = (lanes.get(term.x + c) - term.center) * term.inv_std;
    lanes.put(term.dx + c, term.inv_std * (lanes.get(term.dx + c) - mean_g - x_hat * mean_gx));
  }
};

template <class T>
void layer_norm_backward(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *gamma,
                         const T *mean, const T *inv_std, bool rms, T *dx, index lddx) {
  for (index r = 0; r < rows; r++) {
    const LayerNormGradTerm<T> term{dy + r * lddy,     x + r * ldx,          gamma,
                                    splat<T>(mean[r]), splat<T>(inv_std[r]), dx + r * lddx};
    T sums[2];
    row_sums<T, 2>(cols, term, sums);
    const Vec<T> mean_g = splat<T>(rms ? T(0) : sums[0] / T(cols)), mean_gx = splat<T>(sums[1] / T(cols));
    const LayerNormBackwardRow<T> backward{term, mean_g, mean_gx};
    for_vectors<T>(cols, backward);
  }
}

template <class T>
struct LayerNormParamGrads {
  index rows;
  const T *dy;
  index lddy;
  const T *x;
  index ldx;
  const T *mean, *inv_std;
  T *dgamma, *dbeta;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    Vec<T> sum_dy[V] = {}, sum_dy_xhat[V] = {};
    for (index r = 0; r < rows; r++) {
      const Vec<T> center = splat<T>(mean[r]), factor = splat<T>(inv_std[r]);
      for (int v = 0; v < V; v++) {
        const Vec<T> g = lanes.get(dy + r * lddy + c + v * W);
        const Vec<T> x_hat = (lanes.get(x + r * ldx + c + v * W) - center) * factor;
        sum_dy[v] += g;
        sum_dy_xhat[v] = fma(g, x_hat, sum_dy_xhat[v]);
      }
    }
    for (int v = 0; v < V; v++) {
      lanes.put(dgamma + c + v * W, sum_dy_xhat[v]);
      if (dbeta) lanes.put(dbeta + c + v * W, sum_dy[v]);
    }
  }
};

template <class T>
void layer_norm_param_grads(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *mean,
                            const T *inv_std, T *dgamma, T *dbeta) {
  for_column_strips<T, 4>(cols, LayerNormParamGrads<T>{rows, dy, lddy, x, ldx, mean, inv_std, dgamma, dbeta});
}

template <class T>
constexpr void fill_normalize(KernelSet<T> &set) {
  set.column_moments = column_moments<T>;
  set.batch_norm_forward = batch_norm_forward<T>;
  set.batch_norm_sums = batch_norm_sums<T>;
  set.batch_norm_backward = batch_norm_backward<T>;
  set.layer_norm_forward = layer_norm_forward<T>;
  set.layer_norm_backward = layer_norm_backward<T>;
  set.layer_norm_param_grads = layer_norm_param_grads<T>;
}

}  // namespace gradcore::GRADCORE_TARGET
