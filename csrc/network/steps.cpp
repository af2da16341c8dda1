#include "network/steps.hpp"

#include <algorithm>

#include "layers/activation.hpp"
#include "layers/batch_norm.hpp"
#include "layers/dense.hpp"
#include "layers/layer_norm.hpp"

namespace gradcore {

template <class T>
void Steps<T>::run(const Step &step, const Tile &span) const noexcept {
  switch (step.kind) {
    case Step::load_input:
      return load_input(span);
    case Step::dense:
      return forward_dense(step.layer, span);
    case Step::finish:
      return finish_hidden(step.layer, span);
    case Step::store_output:
      return store_output(span);
    case Step::loss:
      return compute_loss(span);
    case Step::load_grad_output:
      return load_grad_output(span);
    case Step::backward_hidden:
      return backward_hidden(step.layer, span);
    case Step::backward_norm:
      return backward_norm(step.layer, span);
    case Step::store_grad_input:
      return store_grad_input(span);
  }
}

// Calls f(tile) for each tile of a span. Sums over rows are kept per tile, and the next step finds a tile's data in the
// first-level cache.
template <class T>
template <class F>
void Steps<T>::for_tiles(const Tile &span, F &&f) const noexcept {
  for (index row = 0; row < span.count; row += plan().tile_rows)
    f(Tile{span.id + row / plan().tile_rows, span.first + row, span.piece, span.batch_row + row,
           std::min(plan().tile_rows, span.count - row), span.rank, row});
}

// The input of a layer. Inference, which needs that of the net once, reads it where it is (wide inputs: 1.05 to 1.2
// times as fast; bench/experiments.md, Products). Training keeps a copy, with rows that vectors may read to their end.
template <class T>
InputView<T> Steps<T>::x_of(int l, const Tile &rows) const noexcept {
  if (l > 0 || is_training(request_->kind)) return workspace_.layers[l].x.view(rows);
  return request_->input.from_row(rows.batch_row);
}

template <class T>
void Steps<T>::load_input(const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[0];
  if (is_training(request_->kind)) {
    const InputView<T> from = request_->input.from_row(span.batch_row);
    kernels_.copy(span.count, net_.in_features(), from.data, from.stride, layer.x.rows(span), layer.x.ld);
  }
  round_x(kernels_, layer, span, x_of(0, span));
}

template <class T>
void Steps<T>::forward_dense(int l, const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[l];
  const bool training = is_training(request_->kind), shared = plan().shares_chunks() && workspace_.shape().team > 1;
  if (training && shared) activation_take_lines(kernels_, layer, span);
  dense_forward(kernels_, layer, span, kernels_.round ? layer.x_rows.view(span) : x_of(l, span),
                l + 1 < net_.depth() ? workspace_.layers[l + 1].forward_panels : nullptr);
  if (training && layer.spec->batch_norm())
    for_tiles(span, [&](const Tile &tile) { batch_norm_moments(kernels_, layer, tile); });
}

template <class T>
void Steps<T>::finish_hidden(int l, const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[l];
  const LayerSpec &spec = *layer.spec;
  const bool record = recorder_ && is_training(request_->kind);
  for_tiles(span, [&](const Tile &tile) {
    if (spec.batch_norm()) batch_norm_forward(kernels_, layer, tile);
    if (spec.row_norm()) layer_norm_forward(kernels_, layer, tile);
    activation_forward(kernels_, layer, tile);
    if (record) recorder_->activation(l, layer, tile);
    if (spec.residual) {
      const InputView<T> x = x_of(l, tile);
      kernels_.add(tile.count, spec.out, x.data, x.stride, layer.h.rows(tile), layer.h.ld);
    }
    if (record) recorder_->output(l, layer, tile);
    round_x(kernels_, workspace_.layers[l + 1], tile, x_of(l + 1, tile));
  });
}

template <class T>
void Steps<T>::store_output(const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[net_.depth() - 1];
  const OutputView<T> &to = request_->output;
  kernels_.copy(span.count, layer.spec->out, layer.z.rows(span), layer.z.ld, to.data + span.batch_row * to.stride,
                to.stride);
}

template <class T>
void Steps<T>::compute_loss(const Tile &span) const noexcept {
  const int last = net_.depth() - 1;
  const LayerState<T> &layer = workspace_.layers[last];
  const T scale = T(loss_scale(request_->loss, request_->rows, layer.spec->out));
  for_tiles(span, [&](const Tile &tile) {
    if (recorder_) recorder_->output(last, layer, tile);
    T *y = layer.z.rows(tile);
    workspace_.tile_loss[tile.id] += loss_rows(kernels_, request_->loss, tile.count, layer.spec->out, y, layer.z.ld,
                                               request_->target.from_row(tile.batch_row), scale,
                                               request_->kind == PassKind::gradient ? y : nullptr, layer.z.ld);
    if (request_->kind == PassKind::gradient) finish_delta(last, tile);
  });
}

template <class T>
void Steps<T>::load_grad_output(const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[net_.depth() - 1];
  const InputView<T> from = request_->grad_output.from_row(span.batch_row);
  kernels_.copy(span.count, layer.spec->out, from.data, from.stride, layer.delta.rows(span), layer.delta.ld);
  round_delta(kernels_, layer, span);
}

// dL/dh = delta W of the layer above, plus that layer's own dL/dh if it has a skip connection; then dL/dy and, unless
// sums of batch norm must be merged first, dL/dz.
template <class T>
void Steps<T>::backward_hidden(int l, const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[l], &above = workspace_.layers[l + 1];
  const LayerSpec &spec = *layer.spec;
  const bool skips = spec.residual || above.spec->residual;
  // The product itself multiplies by the derivative saved in `delta`, unless dL/dh is needed (1.01 times as fast).
  const bool multiplies = layer.saves_derivative && !skips && !recorder_ && above.spec->out <= kDepthBlock;
  const bool apart = skips || (layer.saves_derivative && !multiplies);
  const Matrix<T> &grad = apart ? layer.grad_out : layer.delta;
  const TileInit init = multiplies ? TileInit::multiply : above.spec->residual ? TileInit::accumulate : TileInit::zero;
  const Following<T> following{l > 0 && backward_from_panels_ ? layer.backward_panels : nullptr,
                               apart ? layer.delta.rows(span) : nullptr, layer.delta.ld};  // scratch is in the cache
  dense_backward_input(kernels_, above, span, backward_from_panels_, grad.rows(span), grad.ld, init, following);
  for_tiles(span, [&](const Tile &tile) {
    if (recorder_) recorder_->grad_output(l, tile, grad.rows(tile), grad.ld);
    if (!multiplies) activation_backward(kernels_, layer, tile, grad.rows(tile), grad.ld);
    if (recorder_ && spec.normalization) recorder_->grad_preact(l, layer, tile);
    if (spec.batch_norm()) return batch_norm_sums(kernels_, layer, tile);
    if (spec.row_norm()) layer_norm_backward(kernels_, layer, tile);
    finish_delta(l, tile);
  });
}

template <class T>
void Steps<T>::backward_norm(int l, const Tile &span) const noexcept {
  batch_norm_backward(kernels_, workspace_.layers[l], span);
  for_tiles(span, [&](const Tile &tile) { finish_delta(l, tile); });
}

template <class T>
void Steps<T>::finish_delta(int l, const Tile &tile) const noexcept {
  if (recorder_) recorder_->delta(l, workspace_.layers[l], tile);
  round_delta(kernels_, workspace_.layers[l], tile);
}

template <class T>
void Steps<T>::store_grad_input(const Tile &span) const noexcept {
  const LayerState<T> &layer = workspace_.layers[0];
  const index stride = request_->grad_input.stride;
  T *const to = request_->grad_input.data + span.batch_row * stride;
  dense_backward_input(kernels_, layer, span, backward_from_panels_, to, stride, TileInit::zero);
  if (layer.spec->residual)
    kernels_.add(span.count, net_.in_features(), layer.grad_out.rows(span), layer.grad_out.ld, to, stride);
}

template class Steps<float>;
template class Steps<double>;

}  // namespace gradcore
