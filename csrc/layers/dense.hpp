// Dense layer: z = x W^T + b.
//
//   dx = dz W                       (D.1)  backward_input: dL/dh of the layer below
//   dW = dz^T x,  db = sum_r dz[r]  (D.2)  backward_params
#ifndef GRADCORE_LAYERS_DENSE_HPP
#define GRADCORE_LAYERS_DENSE_HPP

#include <algorithm>

#include "network/workspace.hpp"
#include "ops/gemm.hpp"

namespace gradcore {

// next_panels: those of the product that follows.
template <class T>
void dense_forward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile,
                   const T *next_panels) noexcept {
  gemm(kernels, tile.count, layer.spec->in, layer.spec->out, layer.x.rows(tile), layer.x.ld,
       RightMatrix<T>{layer.forward_panels}, layer.z.rows(tile), layer.z.ld,
       layer.bias ? TileInit::bias : TileInit::zero, layer.bias, {next_panels});
}

// grad_input = what `init` makes of delta W, from W's panels or from W itself.
template <class T>
void dense_backward_input(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile, bool from_panels,
                          T *grad_input, index ld, TileInit init, const Following<T> &following = {}) noexcept {
  const RightMatrix<T> panels{layer.backward_panels}, weight{layer.weight, layer.spec->in};
  gemm(kernels, tile.count, layer.spec->out, layer.spec->in, layer.delta.rows(tile), layer.delta.ld,
       from_panels ? panels : weight, grad_input, ld, init, static_cast<const T *>(nullptr), following);
}

// Rows [out_begin, out_end) of dW, over the rows of a chunk. grad_weight is the whole gradient.
template <class T>
void dense_backward_weight(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &chunk, index out_begin,
                           index out_end, T *grad_weight, bool accumulate, const Pieces &pieces,
                           const T *next_x) noexcept {
  gemm_params(kernels, chunk.count, layer.spec->in, out_begin, out_end, layer.delta.rows(chunk), layer.delta.ld,
              layer.x.rows(chunk), layer.x.ld, grad_weight, accumulate, pieces, next_x);
}

template <class T>
void dense_backward_bias(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &chunk, T *grad_bias,
                         bool accumulate, const Pieces &pieces) noexcept {
  for (index r = 0; r < chunk.count; r += pieces.rows)
    kernels.column_sum(std::min(pieces.rows, chunk.count - r), layer.spec->out,
                       pieces.row(layer.delta.rows(chunk), layer.delta.ld, r), layer.delta.ld, accumulate || r > 0,
                       grad_bias);
}

}  // namespace gradcore

#endif
