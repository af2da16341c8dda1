// Losses with PyTorch's reduction="mean": over rows for cross_entropy, over elements for the others.
#ifndef GRADCORE_NETWORK_LOSS_HPP
#define GRADCORE_NETWORK_LOSS_HPP

#include "error.hpp"
#include "kernels/kernel_table.hpp"

namespace gradcore {

// The targets of a batch: labels, or values with a row stride.
template <class T>
struct TargetView {
  const index *labels = nullptr;
  const T *values = nullptr;
  index stride = 0;

  TargetView from_row(index row) const noexcept {
    return {labels ? labels + row : nullptr, values ? values + row * stride : nullptr, stride};
  }
};

// Reads no values beside labels: a caller may have left them uninitialized.
template <class T>
TargetView<T> view(const gradcore_target_data &target) noexcept {
  if (target.labels) return {target.labels, nullptr, 0};
  return {nullptr, static_cast<const T *>(target.values.data), stride_of(target.values)};
}

inline double loss_scale(int loss, index rows, index cols) noexcept {
  return 1.0 / (double(rows) * (loss == GRADCORE_CROSS_ENTROPY ? 1.0 : double(cols)));
}

// The sum of the losses of some rows, before the mean; grad = scale * dloss/dy (may be y, may be null).
template <class T>
double loss_rows(const KernelSet<T> &kernels, int loss, index rows, index cols, const T *y, index ldy,
                 const TargetView<T> &target, T scale, T *grad, index ldg) noexcept {
  if (target.labels) return kernels.cross_entropy_labels(rows, cols, y, ldy, target.labels, scale, grad, ldg);
  if (loss == GRADCORE_CROSS_ENTROPY)
    return kernels.cross_entropy_probs(rows, cols, y, ldy, target.values, target.stride, scale, grad, ldg);
  return kernels.elementwise_loss[loss](rows, cols, y, ldy, target.values, target.stride, scale, grad, ldg);
}

}  // namespace gradcore

#endif
