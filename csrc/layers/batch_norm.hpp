// Batch norm over the rows of a batch (Ioffe & Szegedy 2015, arXiv:1502.03167).
//
//   y = (z - mean) * inv_std * gamma + beta                                            (BN.0)
//   dbeta = sum_r dy,  dgamma = sum_r dy * zhat,  zhat = (z - mean) * inv_std          (BN.1)
//   dz = gamma * inv_std * (dy - dbeta / N - zhat * dgamma / N)                        (BN.2)
//
// Each tile gives its mean and M2 = sum (z - mean_tile)^2; all threads meet; the partials are merged
// in tile order without cancellation (Chan, Golub & LeVeque 1983): with E[z^2] - E[z]^2 a column of
// mean 1000 and deviation 0.1 would lose all digits of a float. The kernels subtract the mean as a T;
// what its rounding left out, in deviations, is mean_rest: every equation is corrected by it when merged.
#ifndef GRADCORE_LAYERS_BATCH_NORM_HPP
#define GRADCORE_LAYERS_BATCH_NORM_HPP

#include <cmath>

#include "network/workspace.hpp"

namespace gradcore {

// Columns [begin, end) are merged by one thread.
struct ColumnRange {
  index begin, end;
};

template <class T>
void batch_norm_moments(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  T *partial = layer.partial(tile.id);
  kernels.column_moments(tile.count, layer.spec->out, layer.z.rows(tile), layer.z.ld, partial,
                         partial + layer.partial_ld, partial + 2 * layer.partial_ld);
}

template <class T>
void batch_norm_set_scale(const LayerState<T> &layer, index c, double mean, double variance) noexcept {
  const double inv_std = 1.0 / std::sqrt(variance + kNormEps);
  const double rest = (mean - double(T(mean))) * inv_std;
  layer.mean[c] = T(mean);
  layer.mean_rest[c] = T(rest);
  layer.inv_std[c] = T(inv_std);
  layer.scale[c] = T(double(layer.gamma[c]) * inv_std);
  layer.shift[c] = T(double(layer.beta[c]) - double(layer.gamma[c]) * rest);
}

// Merges the tiles' moments into mean, inv_std, scale, shift and the running statistics.
template <class T>
void batch_norm_merge_moments(const LayerState<T> &layer, const RowPlan &plan, ColumnRange columns) noexcept {
  const double n = double(plan.rows);
  for (index c = columns.begin; c < columns.end; c++) {
    const auto tile_mean = [&](index t) {
      const T *partial = layer.partial(t) + c;
      return double(partial[0]) + double(partial[layer.partial_ld]);
    };
    double sum = 0, m2 = 0;
    for (index t = 0; t < plan.max_tiles(); t++) sum += double(plan.tile_count(t)) * tile_mean(t);
    const double mean = sum / n;
    for (index t = 0; t < plan.max_tiles(); t++) {
      const double shift = tile_mean(t) - mean;
      m2 += double(layer.partial(t)[2 * layer.partial_ld + c]) + double(plan.tile_count(t)) * shift * shift;
    }
    batch_norm_set_scale(layer, c, mean, m2 / n);
    layer.running_mean[c] = T((1 - kNormMomentum) * double(layer.running_mean[c]) + kNormMomentum * mean);
    layer.running_var[c] = T((1 - kNormMomentum) * double(layer.running_var[c]) + kNormMomentum * m2 / (n - 1));
  }
}

// Inference: from the running statistics.
template <class T>
void batch_norm_from_running(const LayerState<T> &layer) noexcept {
  for (index c = 0; c < layer.spec->out; c++)
    batch_norm_set_scale(layer, c, double(layer.running_mean[c]), double(layer.running_var[c]));
}

template <class T>
void batch_norm_forward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  kernels.batch_norm_forward(tile.count, layer.spec->out, layer.z.rows(tile), layer.z.ld, layer.mean, layer.scale,
                             layer.shift, layer.h.rows(tile), layer.h.ld);
}

// delta holds dy.
template <class T>
void batch_norm_sums(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  T *partial = layer.partial(tile.id);
  kernels.batch_norm_sums(tile.count, layer.spec->out, layer.delta.rows(tile), layer.delta.ld, layer.z.rows(tile),
                          layer.z.ld, layer.mean, layer.inv_std, partial, partial + layer.partial_ld);
}

template <class T>
void batch_norm_merge_sums(const LayerState<T> &layer, const RowPlan &plan, ColumnRange columns) noexcept {
  for (index c = columns.begin; c < columns.end; c++) {
    double dy = 0, dy_zhat = 0;
    for (index t = 0; t < plan.max_tiles(); t++) {
      dy += double(layer.partial(t)[c]);
      dy_zhat += double(layer.partial(t)[layer.partial_ld + c]);
    }
    const double rest = double(layer.mean_rest[c]), n = double(plan.rows);
    dy_zhat -= rest * dy;
    layer.sum_dy[c] = T(dy);
    layer.sum_dy_xhat[c] = T(dy_zhat);
    layer.mean_dy[c] = T((dy - rest * dy_zhat) / n);
    layer.mean_dy_xhat[c] = T(dy_zhat / n);
  }
}

// delta: dy -> dz (BN.2).
template <class T>
void batch_norm_backward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  T *delta = layer.delta.rows(tile);
  kernels.batch_norm_backward(tile.count, layer.spec->out, delta, layer.delta.ld, layer.z.rows(tile), layer.z.ld,
                              layer.mean, layer.inv_std, layer.scale, layer.mean_dy, layer.mean_dy_xhat, delta,
                              layer.delta.ld);
}

}  // namespace gradcore

#endif
