// Layer norm (Ba, Kiros & Hinton 2016, arXiv:1607.06450) and RMS norm (Zhang & Sennrich 2019,
// arXiv:1910.07467) over the features of one row. RMS norm does not subtract the mean and has no bias.
#ifndef GRADCORE_LAYERS_LAYER_NORM_HPP
#define GRADCORE_LAYERS_LAYER_NORM_HPP

#include "network/workspace.hpp"

namespace gradcore {

template <class T>
void layer_norm_forward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  const bool rms = layer.spec->normalization == GRADCORE_NORM_RMS;
  kernels.layer_norm_forward(tile.count, layer.spec->out, layer.z.rows(tile), layer.z.ld, layer.gamma, layer.beta, rms,
                             T(kNormEps), layer.h.rows(tile), layer.h.ld, layer.row_mean.rows(tile),
                             layer.row_inv_std.rows(tile));
}

// delta: dy -> dz. The tile's share of dgamma and dbeta goes to its partials.
template <class T>
void layer_norm_backward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  const bool rms = layer.spec->normalization == GRADCORE_NORM_RMS;
  T *delta = layer.delta.rows(tile), *partial = layer.partial(tile.id);
  const T *z = layer.z.rows(tile);
  kernels.layer_norm_param_grads(tile.count, layer.spec->out, delta, layer.delta.ld, z, layer.z.ld,
                                 layer.row_mean.rows(tile), layer.row_inv_std.rows(tile), partial,
                                 rms ? nullptr : partial + layer.partial_ld);
  kernels.layer_norm_backward(tile.count, layer.spec->out, delta, layer.delta.ld, z, layer.z.ld, layer.gamma,
                              layer.row_mean.rows(tile), layer.row_inv_std.rows(tile), rms, delta, layer.delta.ld);
}

}  // namespace gradcore

#endif
