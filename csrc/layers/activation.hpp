// Activation: h = act(y). Forward, which has the exponential at hand, saves the derivative in `delta`, so backward is
// one multiplication for every activation. relu and leaky_relu save nothing and read the sign of h instead.
#ifndef GRADCORE_LAYERS_ACTIVATION_HPP
#define GRADCORE_LAYERS_ACTIVATION_HPP

#include "network/workspace.hpp"

namespace gradcore {

// Called before the product that precedes activation_forward, if threads share chunks: other threads have read delta
// for weight gradients, and taking its cache lines back overlaps with the product (b32 w64: 1.01 to 1.02 times as fast;
// bench/experiments.md).
template <class T>
void activation_take_lines(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  if (layer.saves_derivative)
    kernels.fetch_to_write(tile.count, layer.spec->out, layer.delta.rows(tile), layer.delta.ld);
}

// In place on h.
template <class T>
void activation_forward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile) noexcept {
  const int kind = layer.spec->activation;
  T *h = layer.h.rows(tile);
  if (layer.saves_derivative)
    kernels.activation_forward_grad[kind](tile.count, layer.spec->out, h, layer.h.ld, h, layer.h.ld,
                                          layer.delta.rows(tile), layer.delta.ld);
  else if (kind != GRADCORE_IDENTITY)
    kernels.activation_forward[kind](tile.count, layer.spec->out, h, layer.h.ld, h, layer.h.ld);
}

// delta = grad_out * act'(y). grad_out may be delta unless the derivative is saved there.
template <class T>
void activation_backward(const KernelSet<T> &kernels, const LayerState<T> &layer, const Tile &tile, const T *grad_out,
                         index ld) noexcept {
  const LayerSpec &spec = *layer.spec;
  T *delta = layer.delta.rows(tile);
  if (layer.saves_derivative) {
    kernels.multiply(tile.count, spec.out, grad_out, ld, delta, layer.delta.ld);
    return;
  }
  if (grad_out != delta) kernels.copy(tile.count, spec.out, grad_out, ld, delta, layer.delta.ld);
  if (spec.activation != GRADCORE_IDENTITY)
    kernels.slope_backward(tile.count, spec.out, delta, layer.delta.ld, layer.h.rows(tile), layer.h.ld,
                           spec.activation == GRADCORE_RELU ? T(0) : T(kLeakySlope));
}

}  // namespace gradcore

#endif
