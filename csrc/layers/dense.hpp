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

// Where products take rounded operands, `rows` of a span are rounded to the thread's own copy first.
template <class T>
struct Operand {
  const T *data;
  index ld;

  Operand(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &span, const Matrix<T> &rows,
          index cols) noexcept
      : data(rows.rows(span)), ld(rows.ld) {
    if (!kernels.round_rows) return;
    T *copy = layer.operand.rows(span);
    kernels.round_rows(span.count, cols, data, ld, copy, layer.operand.ld);
    data = copy, ld = layer.operand.ld;
  }
};

// The rows of x_terms or delta_terms that are a tile's, which begins with the first of an element's terms (plan.cpp).
template <class T>
T *terms_of(const KernelSet<T> &kernels, const Matrix<T> &matrix, Tile tile) noexcept {
  tile.first /= kernels.terms;
  return matrix.rows(tile);
}

// A span's rows of x or delta as the weight gradient takes them.
template <class T>
void round_terms(const KernelSet<T> &kernels, const Tile &span, index cols, const Matrix<T> &rows,
                 const Matrix<T> &terms) noexcept {
  if (kernels.round_columns)
    kernels.round_columns(span.count, cols, rows.rows(span), rows.ld, terms_of(kernels, terms, span), terms.ld);
}

// next_panels: those of the product that follows.
template <class T>
void dense_forward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &span,
                   const T *next_panels) noexcept {
  const Operand<T> x(kernels, layer, span, layer.x, layer.spec->in);
  gemm(kernels, span.count, kernels.elements(layer.spec->in), layer.spec->out, x.data, x.ld,
       RightMatrix<T>{layer.forward_panels}, layer.z.rows(span), layer.z.ld,
       layer.bias ? TileInit::bias : TileInit::zero, layer.bias, {next_panels});
}

// grad_input = what `init` makes of delta W, from W's panels or from W itself.
template <class T>
void dense_backward_input(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &span, bool from_panels,
                          T *grad_input, index ld, TileInit init, const Following<T> &following = {}) noexcept {
  const RightMatrix<T> panels{layer.backward_panels}, weight{layer.weight, layer.spec->in};
  const Operand<T> delta(kernels, layer, span, layer.delta, layer.spec->out);
  gemm(kernels, span.count, kernels.elements(layer.spec->out), layer.spec->in, delta.data, delta.ld,
       from_panels ? panels : weight, grad_input, ld, init, static_cast<const T *>(nullptr), following);
}

// Rows [out_begin, out_end) of dW, over the rows of a chunk. grad_weight is the whole gradient.
template <class T>
void dense_backward_weight(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &chunk, index out_begin,
                           index out_end, T *grad_weight, bool accumulate, const Pieces &pieces,
                           const T *next_x) noexcept {
  const Matrix<T> &delta = layer.delta_terms, &x = layer.x_terms;
  gemm_params(kernels, kernels.elements(chunk.count), layer.spec->in, out_begin, out_end,
              terms_of(kernels, delta, chunk), delta.ld, terms_of(kernels, x, chunk), x.ld, grad_weight, accumulate,
              pieces, next_x);
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
