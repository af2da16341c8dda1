// One call of the schedule: what it is to do, and what came of it.
#ifndef GRADCORE_NETWORK_PASS_HPP
#define GRADCORE_NETWORK_PASS_HPP

#include "network/loss.hpp"
#include "network/optimizer.hpp"
#include "network/plan.hpp"
#include "network/workspace.hpp"

namespace gradcore {

inline bool is_training(PassKind kind) noexcept {
  return kind != PassKind::inference && kind != PassKind::inference_loss;
}
inline bool has_forward(PassKind kind) noexcept {
  return kind != PassKind::backward && kind != PassKind::backward_to_input;
}
inline bool has_backward(PassKind kind) noexcept { return kind == PassKind::gradient || !has_forward(kind); }

// A matrix of the caller, to write.
template <class T>
struct OutputView {
  T *data = nullptr;
  index stride = 0;
};

// The request of one call. Unused members stay empty.
template <class T>
struct PassRequest {
  PassKind kind;
  index rows;
  InputView<T> input;        // [rows, in]
  InputView<T> grad_output;  // [rows, out]
  OutputView<T> output;      // [rows, out]
  OutputView<T> grad_input;  // [rows, in]
  TargetView<T> target;
  int loss = 0;
  bool record = false;
  Optimizer<T> *optimizer = nullptr;  // update after the gradients
  double clip_norm = 0, clip_value = 0;
};

struct PassResult {
  bool input_finite = true;  // false: nothing was done
  bool norm_finite = true;   // false: clip_norm was given and no update was made
  double loss = 0;
  double total_norm = 0;  // with an optimizer
};

}  // namespace gradcore

#endif
