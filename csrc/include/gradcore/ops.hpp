// The single ops of gradcore.h on plain arrays, for C++17. Outputs come first and fix the element type. Outputs are
// contiguous; inputs may have a row stride. An empty Span stands for NULL in gradcore.h. Wrong sizes throw
// gradcore::Error before anything is written.
#ifndef GRADCORE_OPS_HPP
#define GRADCORE_OPS_HPP

#include <gradcore/gradcore.hpp>

namespace gradcore {
inline namespace face {
namespace ops {

template <class T>
using In = detail::exactly<Matrix<const T>>;
template <class T>
using InSpan = detail::exactly<Span<const T>>;
template <class T>
using OutSpan = detail::exactly<Span<T>>;

namespace detail {

using face::detail::check;
using face::detail::dtype;
using face::detail::expect;

template <class T, class... Sizes>
void expect_or_empty(const char *name, Span<T> span, Sizes... expected) {
  if (!span.empty()) expect(name, expected..., span.size());
}

}  // namespace detail

// output [n, out] = input [n, in] weight^T [out, in] + bias [out]; bias may be empty.
template <class T>
void dense(Span<T> output, In<T> input, In<T> weight, InSpan<T> bias = {}) {
  const gradcore_matrix x = input.c(), w = weight.c();
  detail::expect("output", x.rows, w.rows, output.size());
  detail::expect_or_empty("bias", bias, w.rows);
  detail::check(gradcore_op_dense(detail::dtype<T>, &x, &w, bias.data(), output.data()));
}
// Any of the three results may be empty.
template <class T>
void dense_backward(Span<T> grad_input, OutSpan<T> grad_weight, OutSpan<T> grad_bias, In<T> grad_output, In<T> input,
                    In<T> weight) {
  const gradcore_matrix dy = grad_output.c(), x = input.c(), w = weight.c();
  detail::expect_or_empty("grad_input", grad_input, x.rows, x.cols);
  detail::expect_or_empty("grad_weight", grad_weight, w.rows, w.cols);
  detail::expect_or_empty("grad_bias", grad_bias, w.rows);
  detail::check(gradcore_op_dense_backward(detail::dtype<T>, &dy, &x, &w, grad_input.data(), grad_weight.data(),
                                           grad_bias.data()));
}

// output = act(input); output may be input.
template <class T>
void activation(Span<T> output, Activation activation, InSpan<T> input) {
  detail::expect("output", static_cast<std::int64_t>(input.size()), output.size());
  detail::check(gradcore_op_activation(detail::dtype<T>, static_cast<std::int32_t>(activation), input.data(),
                                       static_cast<std::int64_t>(input.size()), output.data()));
}
// grad_input = grad_output * act'(input)
template <class T>
void activation_backward(Span<T> grad_input, Activation activation, InSpan<T> grad_output, InSpan<T> input) {
  const std::int64_t count = static_cast<std::int64_t>(input.size());
  detail::expect("grad_input", count, grad_input.size());
  detail::expect("grad_output", count, grad_output.size());
  detail::check(gradcore_op_activation_backward(detail::dtype<T>, static_cast<std::int32_t>(activation),
                                                grad_output.data(), input.data(), count, grad_input.data()));
}

// Batch norm of input [n, c] in training mode; weight, bias, save_mean and save_invstd are [c].
template <class T>
void batch_norm(Span<T> output, OutSpan<T> save_mean, OutSpan<T> save_invstd, In<T> input, InSpan<T> weight,
                InSpan<T> bias, double eps = 1e-5) {
  const gradcore_matrix x = input.c();
  detail::expect("output", x.rows, x.cols, output.size());
  detail::expect("save_mean", x.cols, save_mean.size());
  detail::expect("save_invstd", x.cols, save_invstd.size());
  detail::expect("weight", x.cols, weight.size());
  detail::expect("bias", x.cols, bias.size());
  detail::check(gradcore_op_batch_norm(detail::dtype<T>, &x, weight.data(), bias.data(), eps, output.data(),
                                       save_mean.data(), save_invstd.data()));
}
template <class T>
void batch_norm_backward(Span<T> grad_input, OutSpan<T> grad_weight, OutSpan<T> grad_bias, In<T> grad_output,
                         In<T> input, InSpan<T> weight, InSpan<T> save_mean, InSpan<T> save_invstd) {
  const gradcore_matrix dy = grad_output.c(), x = input.c();
  detail::expect("grad_input", x.rows, x.cols, grad_input.size());
  detail::expect("grad_weight", x.cols, grad_weight.size());
  detail::expect("grad_bias", x.cols, grad_bias.size());
  detail::expect("weight", x.cols, weight.size());
  detail::expect("save_mean", x.cols, save_mean.size());
  detail::expect("save_invstd", x.cols, save_invstd.size());
  detail::check(gradcore_op_batch_norm_backward(detail::dtype<T>, &dy, &x, weight.data(), save_mean.data(),
                                                save_invstd.data(), grad_input.data(), grad_weight.data(),
                                                grad_bias.data()));
}

// Layer norm of input [n, c] over its columns; with rms, RMS norm, whose bias is empty. weight and bias are
// [c], save_mean and save_invstd [n].
template <class T>
void layer_norm(Span<T> output, OutSpan<T> save_mean, OutSpan<T> save_invstd, In<T> input, InSpan<T> weight,
                InSpan<T> bias, bool rms = false, double eps = 1e-5) {
  const gradcore_matrix x = input.c();
  detail::expect("output", x.rows, x.cols, output.size());
  detail::expect("save_mean", x.rows, save_mean.size());
  detail::expect("save_invstd", x.rows, save_invstd.size());
  detail::expect("weight", x.cols, weight.size());
  detail::expect_or_empty("bias", bias, x.cols);
  detail::check(gradcore_op_layer_norm(detail::dtype<T>, &x, weight.data(), bias.data(), rms, eps, output.data(),
                                       save_mean.data(), save_invstd.data()));
}
template <class T>
void layer_norm_backward(Span<T> grad_input, OutSpan<T> grad_weight, OutSpan<T> grad_bias, In<T> grad_output,
                         In<T> input, InSpan<T> weight, InSpan<T> save_mean, InSpan<T> save_invstd, bool rms = false) {
  const gradcore_matrix dy = grad_output.c(), x = input.c();
  detail::expect("grad_input", x.rows, x.cols, grad_input.size());
  detail::expect("grad_weight", x.cols, grad_weight.size());
  detail::expect_or_empty("grad_bias", grad_bias, x.cols);
  detail::expect("weight", x.cols, weight.size());
  detail::expect("save_mean", x.rows, save_mean.size());
  detail::expect("save_invstd", x.rows, save_invstd.size());
  detail::check(gradcore_op_layer_norm_backward(detail::dtype<T>, &dy, &x, weight.data(), save_mean.data(),
                                                save_invstd.data(), rms, grad_input.data(), grad_weight.data(),
                                                grad_bias.data()));
}

// The mean-reduced loss of output [n, out]; its gradient is written to grad_output unless that is empty.
template <class T>
double loss(Span<T> grad_output, Loss loss, In<T> output, const face::detail::exactly<Target<T>> &target) {
  const gradcore_matrix y = output.c();
  detail::expect_or_empty("grad_output", grad_output, y.rows, y.cols);
  double value = 0;
  detail::check(
      gradcore_op_loss(detail::dtype<T>, static_cast<std::int32_t>(loss), &y, &target.c(), &value, grad_output.data()));
  return value;
}

template <class T>
gradcore_array_stats array_stats(Span<T> array) {
  gradcore_array_stats stats{};
  detail::check(gradcore_op_array_stats(detail::dtype<std::remove_const_t<T>>, array.data(),
                                        static_cast<std::int64_t>(array.size()), &stats, nullptr));
  return stats;
}

}  // namespace ops
}  // namespace face
}  // namespace gradcore

#endif
