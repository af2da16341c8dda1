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

// The rows of x_columns or delta_columns that belong to a tile; a tile begins with an element (plan.cpp: row_unit).
template <class T>
T *columns_of(const KernelSet<T> &kernels, const Matrix<T> &matrix, Tile tile) noexcept {
  tile.first >>= kernels.pairs;
  return matrix.rows(tile);
}

// If products round their operands: rounds a tile of x or delta that is now final.
template <class T>
void round_operand(const KernelSet<T> &kernels, const Tile &tile, index cols, const InputView<T> &from,
                   const Matrix<T> &by_rows, const Matrix<T> &by_columns) noexcept {
  if (!kernels.round) return;
  const bool serves_both = by_rows.data == by_columns.data;
  kernels.round(tile.count, cols, from.data, from.stride, serves_both ? nullptr : by_rows.rows(tile), by_rows.ld,
                by_columns.data ? columns_of(kernels, by_columns, tile) : nullptr, by_columns.ld);
}
template <class T>
void round_x(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile,
             const InputView<T> &x) noexcept {
  round_operand(kernels, tile, layer.spec->in, x, layer.x_rows, layer.x_columns);
}
template <class T>
void round_delta(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  round_operand(kernels, tile, layer.spec->out, layer.delta.view(tile), layer.delta_rows, layer.delta_columns);
}

// x: the rows of the span, rounded if products round. next_panels: the panels of the next product.
template <class T>
void dense_forward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &span, const InputView<T> &x,
                   const T *next_panels) noexcept {
  gemm(kernels, span.count, kernels.elements(layer.spec->in), layer.spec->out, x.data, x.stride,
       RightMatrix<T>{layer.forward_panels}, layer.z.rows(span), layer.z.ld,
       layer.bias ? TileInit::bias : TileInit::zero, layer.bias, {next_panels});
}

// grad_input = delta W, combined as `init` says, from W's panels or from W itself.
template <class T>
void dense_backward_input(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &span, bool from_panels,
                          T *grad_input, index ld, TileInit init, const Following<T> &following = {}) noexcept {
  const RightMatrix<T> panels{layer.backward_panels}, weight{layer.weight, layer.spec->in};
  gemm(kernels, span.count, kernels.elements(layer.spec->out), layer.spec->in, layer.delta_rows.rows(span),
       layer.delta_rows.ld, from_panels ? panels : weight, grad_input, ld, init, static_cast<const T *>(nullptr),
       following);
}

// Rows [out_begin, out_end) of dW, over the rows of a chunk. grad_weight is the whole gradient.
template <class T>
void dense_backward_weight(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &chunk, index out_begin,
                           index out_end, T *grad_weight, bool accumulate, const Pieces &pieces,
                           const T *next_x) noexcept {
  const Matrix<T> &delta = layer.delta_columns, &x = layer.x_columns;
  gemm_params(kernels, kernels.elements(chunk.count), layer.spec->in, out_begin, out_end,
              columns_of(kernels, delta, chunk), delta.ld, columns_of(kernels, x, chunk), x.ld, grad_weight, accumulate,
              pieces, next_x, layer.packed_delta.data ? layer.packed_delta.rows(chunk) : nullptr);
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
