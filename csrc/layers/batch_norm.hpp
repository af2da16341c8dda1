// Batch norm over the rows of a batch (Ioffe & Szegedy 2015, arXiv:1502.03167).
//
//   y = (z - mean) * inv_std * gamma + beta                                            (BN.5)
//   dbeta = sum_r dy,  dgamma = sum_r dy * zhat,  zhat = (z - mean) * inv_std          (BN.6)
//   dz = gamma * inv_std * (dy - dbeta / N - zhat * dgamma / N)                        (BN.7)
//
// Each tile computes its mean and M2 = sum (z - mean_tile)^2; all threads meet; the partials are merged in tile order
// without cancellation (Chan, Golub & LeVeque 1983). With E[z^2] - E[z]^2, a column of mean 1000 and deviation 0.1
// would lose all digits of a float. The kernels subtract the mean rounded to T; mean_rest is its rounding error, in
// deviations, and every merged equation is corrected by it.
#ifndef GRADCORE_LAYERS_BATCH_NORM_HPP
#define GRADCORE_LAYERS_BATCH_NORM_HPP

#include <algorithm>
#include <cmath>

#include "network/workspace.hpp"
#include "ops/parallel.hpp"

namespace gradcore {

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

// Partial sums of tiles are added for this many columns at once, so that the compiler can use vectors.
inline constexpr index kMergeColumns = 64;

// f(first, count) for groups of columns.
template <class F>
void for_column_groups(Share columns, F &&f) noexcept {
  for (index c = columns.begin; c < columns.end; c += kMergeColumns)
    f(c, columns.end - c < kMergeColumns ? columns.end - c : kMergeColumns);
}

// mean and m2 of `count` columns over n rows, from the moments of tiles: tile t has tile_rows(t) rows, and the kernel
// has written its mean, rest and m2 at tile(t), each `ld` after the previous one.
template <class T, class Tile, class TileRows>
void merge_moments(index tiles, Tile &&tile, index ld, TileRows &&tile_rows, index n, index count, double *mean,
                   double *m2) noexcept {
  std::fill_n(mean, count, 0.0);
  std::fill_n(m2, count, 0.0);
  for (index t = 0; t < tiles; t++) {
    const T *tile_mean = tile(t), *rest = tile_mean + ld;
    const double rows = double(tile_rows(t));
    for (index c = 0; c < count; c++) mean[c] += rows * (double(tile_mean[c]) + double(rest[c]));
  }
  for (index c = 0; c < count; c++) mean[c] /= double(n);
  for (index t = 0; t < tiles; t++) {
    const T *tile_mean = tile(t), *rest = tile_mean + ld, *tile_m2 = rest + ld;
    const double rows = double(tile_rows(t));
    for (index c = 0; c < count; c++) {
      const double shift = double(tile_mean[c]) + double(rest[c]) - mean[c];
      m2[c] += double(tile_m2[c]) + rows * shift * shift;
    }
  }
}

// Merges the tiles' moments into mean, inv_std, scale, shift and the running statistics.
template <class T>
void batch_norm_merge_moments(const LayerState<T> &layer, const RowPlan &plan, Share columns) noexcept {
  const double n = double(plan.rows);
  for_column_groups(columns, [&](index first, index count) {
    double mean[kMergeColumns], m2[kMergeColumns];
    merge_moments<T>(
        plan.max_tiles(), [&](index t) { return layer.partial(t) + first; }, layer.partial_ld,
        [&](index t) { return plan.tile_count(t); }, plan.rows, count, mean, m2);
    T *running_mean = layer.running_mean + first, *running_var = layer.running_var + first;
    for (index c = 0; c < count; c++) {
      batch_norm_set_scale(layer, first + c, mean[c], m2[c] / n);
      running_mean[c] = T((1 - kNormMomentum) * double(running_mean[c]) + kNormMomentum * mean[c]);
      running_var[c] = T((1 - kNormMomentum) * double(running_var[c]) + kNormMomentum * m2[c] / (n - 1));
    }
  });
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
void batch_norm_merge_sums(const LayerState<T> &layer, const RowPlan &plan, Share columns) noexcept {
  const double n = double(plan.rows);
  for_column_groups(columns, [&](index first, index count) {
    double dy[kMergeColumns] = {}, dy_zhat[kMergeColumns] = {};
    for (index t = 0; t < plan.max_tiles(); t++) {
      const T *tile_dy = layer.partial(t) + first, *tile_dy_zhat = tile_dy + layer.partial_ld;
      for (index c = 0; c < count; c++) {
        dy[c] += double(tile_dy[c]);
        dy_zhat[c] += double(tile_dy_zhat[c]);
      }
    }
    for (index c = 0; c < count; c++) {
      const double rest = double(layer.mean_rest[first + c]);
      dy_zhat[c] -= rest * dy[c];
      layer.sum_dy[first + c] = T(dy[c]);
      layer.sum_dy_xhat[first + c] = T(dy_zhat[c]);
      layer.mean_dy[first + c] = T((dy[c] - rest * dy_zhat[c]) / n);
      layer.mean_dy_xhat[first + c] = T(dy_zhat[c] / n);
    }
  });
}

// delta: dy -> dz (BN.7).
template <class T>
void batch_norm_backward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  T *delta = layer.delta.rows(tile);
  kernels.batch_norm_backward(tile.count, layer.spec->out, delta, layer.delta.ld, layer.z.rows(tile), layer.z.ld,
                              layer.mean, layer.inv_std, layer.scale, layer.mean_dy, layer.mean_dy_xhat, delta,
                              layer.delta.ld);
}

}  // namespace gradcore

#endif
