// The C interface of clipping and of the single ops on plain arrays: checks, then ops and kernels.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <vector>

#include "error.hpp"
#include "layers/batch_norm.hpp"
#include "network/loss.hpp"
#include "network/workspace.hpp"
#include "ops/clip.hpp"
#include "ops/gemm.hpp"
#include "ops/parallel.hpp"

using namespace gradcore;

namespace {

// Rows per task, fixed so that sums over rows do not depend on the number of threads.
constexpr int64_t kTileRows = 64;

struct Argument {
  const char *name;
  const void *pointer;
};

gradcore_status check_pointers(std::initializer_list<Argument> arguments) noexcept {
  for (const Argument &argument : arguments)
    if (!argument.pointer) return null_argument(argument.name);
  return GRADCORE_OK;
}

gradcore_status check_matrix(const char *name, const gradcore_matrix *m) noexcept {
  if (!m || !m->data) return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a matrix, got NULL", name);
  if (m->rows < 1 || m->cols < 1)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected at least one row and column, got %lld x %lld", name,
                (long long)m->rows, (long long)m->cols);
  if (m->rows > 1 && m->stride < m->cols)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a row stride of at least %lld, got %lld", name,
                (long long)m->cols, (long long)m->stride);
  const int64_t most = kMostElements / std::max(m->cols, m->rows > 1 ? m->stride : 0);
  if (m->rows > most)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected at most %lld rows of this size, got %lld", name,
                (long long)most, (long long)m->rows);
  return GRADCORE_OK;
}

gradcore_status check_shape(const char *name, const gradcore_matrix *m, int64_t rows, int64_t cols) noexcept {
  GRADCORE_TRY(check_matrix(name, m));
  if (m->rows != rows || m->cols != cols)
    return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected %lld x %lld, got %lld x %lld", name, (long long)rows,
                (long long)cols, (long long)m->rows, (long long)m->cols);
  return GRADCORE_OK;
}

// A copy of a caller's matrix, which `matrix` points to from here on. The stride of a single row, which may be any
// number, is that of contiguous rows.
struct Checked : gradcore_matrix {
  __attribute__((noinline)) explicit Checked(const gradcore_matrix *&matrix) noexcept : gradcore_matrix(*matrix) {
    stride = stride_of(*matrix);
    matrix = this;
  }
};

// Calls body(kernels) with the kernel set of a dtype; body may throw std::bad_alloc.
template <class F>
gradcore_status with_kernels(int32_t dtype, F &&body) noexcept {
  return guarded([&] {
    if (dtype == GRADCORE_FLOAT32) return body(current_target().f32);
    if (dtype == GRADCORE_FLOAT64) return body(current_target().f64);
    return fail(GRADCORE_INVALID_ARGUMENT, "dtype: expected 0 (float32) or 1 (float64), got %d", dtype);
  });
}

template <class K>
using ElementOf = typename std::decay_t<K>::Element;

int64_t num_tiles(int64_t n) noexcept { return (n + kTileRows - 1) / kTileRows; }

// Calls task(first row, rows) for all tiles of n rows.
template <class F>
void for_tiles(int64_t n, double flops, F &&task) noexcept {
  parallel_for(num_tiles(n), flops, [&](int64_t t) {
    const int64_t first = t * kTileRows;
    task(first, n - first < kTileRows ? n - first : kTileRows);
  });
}

// One row of `width` numbers per tile of n rows, filled by rows_of(first row, rows, partial). May throw bad_alloc.
template <class T, class F>
std::vector<T> partials_of_tiles(int64_t n, int64_t width, F &&rows_of) {
  std::vector<T> partials(std::size_t(num_tiles(n) * width));
  for_tiles(n, 8.0 * double(n) * double(width),
            [&](int64_t first, int64_t rows) { rows_of(first, rows, partials.data() + first / kTileRows * width); });
  return partials;
}

// Sums of these rows, in double: sums over millions of rows in T would lose digits.
template <class T, class F>
std::vector<double> sums_of_tiles(int64_t n, int64_t width, F &&rows_of) {
  const std::vector<T> partials = partials_of_tiles<T>(n, width, rows_of);
  std::vector<double> sums(std::size_t(width), 0.0);
  for (const T *partial = partials.data(), *end = partial + partials.size(); partial < end; partial += width)
    for (int64_t i = 0; i < width; i++) sums[std::size_t(i)] += double(partial[i]);
  return sums;
}

// A copy of a caller's matrix whose rows may be read in full vectors, beyond their ends.
template <class T>
struct PaddedCopy {
  PaddedCopy(const KernelSet<T> &kernels, const gradcore_matrix &m) : ld((m.cols + 15) / 16 * 16) {
    buffer.reserve(std::size_t(m.rows * ld) * sizeof(T));
    kernels.copy(m.rows, m.cols, static_cast<const T *>(m.data), m.stride, data(), ld);
  }
  T *data() const noexcept { return static_cast<T *>(buffer.data()); }
  AlignedBuffer buffer;
  int64_t ld;
};

// Packs a weight [out, in] into panels, for the forward or the backward_input product.
template <class T>
void pack_weight(const KernelSet<T> &kernels, const gradcore_matrix &weight, bool forward, AlignedBuffer &packed) {
  const int64_t out = weight.rows, in = weight.cols;
  packed.reserve(std::size_t(packed_size(kernels, forward ? in : out, forward ? out : in)) * sizeof(T));
  const T *w = static_cast<const T *>(weight.data);
  T *panels = static_cast<T *>(packed.data());
  (forward ? pack_forward<T> : pack_backward<T>)(kernels, in, out, w, weight.stride, 0, out, panels, false);
}

template <class T>
ArrayList<T> as_list(void *const *arrays, const int64_t *sizes, int32_t count) noexcept {
  return {reinterpret_cast<T *const *>(arrays), sizes, count};
}

gradcore_status check_arrays(void *const *arrays, const int64_t *sizes, int32_t count) noexcept {
  if (count < 0) return fail(GRADCORE_INVALID_ARGUMENT, "num_arrays: expected at least 0, got %d", count);
  if (count > 0 && (!arrays || !sizes)) return null_argument(arrays ? "sizes" : "arrays");
  for (int32_t i = 0; i < count; i++) {
    if (sizes[i] < 0 || sizes[i] > kMostElements)
      return fail(GRADCORE_INVALID_ARGUMENT, "sizes[%d]: expected 0 to 2^56 elements, got %lld", i,
                  (long long)sizes[i]);
    if (sizes[i] > 0 && !arrays[i])
      return fail(GRADCORE_INVALID_ARGUMENT, "arrays[%d]: expected %lld elements, got NULL", i, (long long)sizes[i]);
  }
  return GRADCORE_OK;
}

gradcore_status check_activation(int32_t activation, int64_t count, std::initializer_list<Argument> arrays) noexcept {
  if (activation < 0 || activation >= GRADCORE_NUM_ACTIVATIONS)
    return fail(GRADCORE_INVALID_ARGUMENT, "activation: expected 0 to %d, got %d", GRADCORE_NUM_ACTIVATIONS - 1,
                activation);
  GRADCORE_TRY(check_count("count", count));
  return count > 0 ? check_pointers(arrays) : GRADCORE_OK;
}

// Elementwise work is cut into pieces of this many elements.
constexpr int64_t kPiece = 8192;
constexpr double kFlopsPerTranscendental = 16;

template <class F>
void for_elements(int64_t count, F &&task) noexcept {
  parallel_for((count + kPiece - 1) / kPiece, kFlopsPerTranscendental * double(count), [&](int64_t p) {
    const int64_t first = p * kPiece;
    task(first, count - first < kPiece ? count - first : kPiece);
  });
}

// dz = dy * act'(z), through a buffer on the stack, because dz may be dy or z.
template <class T>
void activation_backward(const KernelSet<T> &kernels, int32_t activation, int64_t count, const T *dy, const T *z,
                         T *dz) noexcept {
  constexpr int64_t kMost = 512;
  alignas(64) T act[kMost], slope[kMost];
  for (int64_t i = 0; i < count; i += kMost) {
    const int64_t n = count - i < kMost ? count - i : kMost;
    kernels.activation_forward_grad[activation](1, n, z + i, n, act, n, slope, n);
    kernels.multiply(1, n, dy + i, n, slope, n);
    kernels.copy(1, n, slope, n, dz + i, n);
  }
}

}  // namespace

// gradcore.h declares these extern "C".

gradcore_status gradcore_clip_grad_norm(int32_t dtype, void *const *arrays, const int64_t *sizes, int32_t num_arrays,
                                        double max_norm, double norm_type, int32_t error_if_nonfinite, double *total) {
  GRADCORE_TRY(check_arrays(arrays, sizes, num_arrays));
  return with_kernels(dtype, [&](const auto &kernels) -> gradcore_status {
    if (!(max_norm >= 0)) return fail(GRADCORE_INVALID_ARGUMENT, "max_norm: expected a number >= 0, got %g", max_norm);
    if (!(norm_type > 0)) return fail(GRADCORE_INVALID_ARGUMENT, "norm_type: expected a number > 0, got %g", norm_type);
    using T = ElementOf<decltype(kernels)>;
    const ArrayList<T> list = as_list<T>(arrays, sizes, num_arrays);
    const double norm = total_norm(kernels, list, norm_type);
    if (total) *total = norm;
    if (error_if_nonfinite && !std::isfinite(norm))
      return fail(GRADCORE_NON_FINITE, "total_norm: expected a finite norm to clip by, got %g; nothing was touched",
                  norm);
    scale_arrays(kernels, list, clip_coefficient(max_norm, norm));
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_clip_grad_value(int32_t dtype, void *const *arrays, const int64_t *sizes, int32_t num_arrays,
                                         double clip_value) {
  GRADCORE_TRY(check_arrays(arrays, sizes, num_arrays));
  return with_kernels(dtype, [&](const auto &kernels) {
    if (!(clip_value >= 0))
      return fail(GRADCORE_INVALID_ARGUMENT, "clip_value: expected a number >= 0, got %g", clip_value);
    clip_arrays(kernels, as_list<ElementOf<decltype(kernels)>>(arrays, sizes, num_arrays), clip_value);
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_dense(int32_t dtype, const gradcore_matrix *input, const gradcore_matrix *weight,
                                  const void *bias, void *output) {
  GRADCORE_TRY(check_matrix("input", input));
  GRADCORE_TRY(check_matrix("weight", weight));
  if (weight->cols != input->cols)
    return fail(GRADCORE_INVALID_ARGUMENT, "weight: expected %lld columns as in the input, got %lld",
                (long long)input->cols, (long long)weight->cols);
  if (!output) return null_argument("output");
  const Checked own_input(input), own_weight(weight);
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    const int64_t in = weight->cols, out = weight->rows;
    AlignedBuffer packed, start;
    pack_weight(kernels, *weight, true, packed);
    if (bias) {  // copied, because tiles read it in full vectors
      start.reserve(std::size_t(out + 16) * sizeof(T));
      kernels.copy(1, out, static_cast<const T *>(bias), out, static_cast<T *>(start.data()), out);
    }
    for_tiles(input->rows, 2.0 * double(input->rows) * double(in) * double(out), [&](int64_t first, int64_t rows) {
      gemm(kernels, rows, in, out, static_cast<const T *>(input->data) + first * input->stride, input->stride,
           RightMatrix<T>{static_cast<const T *>(packed.data())}, static_cast<T *>(output) + first * out, out,
           bias ? TileInit::bias : TileInit::zero, static_cast<const T *>(start.data()));
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_dense_backward(int32_t dtype, const gradcore_matrix *grad_output,
                                           const gradcore_matrix *input, const gradcore_matrix *weight,
                                           void *grad_input, void *grad_weight, void *grad_bias) {
  GRADCORE_TRY(check_matrix("input", input));
  GRADCORE_TRY(check_matrix("weight", weight));
  GRADCORE_TRY(check_shape("weight", weight, weight->rows, input->cols));
  GRADCORE_TRY(check_shape("grad_output", grad_output, input->rows, weight->rows));
  const Checked own_grad_output(grad_output), own_input(input), own_weight(weight);
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    const int64_t n = input->rows, in = weight->cols, out = weight->rows;
    const double flops = 2.0 * double(n) * double(in) * double(out);
    const T *dy = static_cast<const T *>(grad_output->data);
    AlignedBuffer packed;  // all memory is allocated first, so that a failure leaves the outputs unchanged
    if (grad_input) pack_weight(kernels, *weight, false, packed);
    std::optional<PaddedCopy<T>> x;
    if (grad_weight) x.emplace(kernels, *input);
    if (grad_bias) {
      const std::vector<double> sums = sums_of_tiles<T>(n, out, [&](int64_t first, int64_t rows, T *partial) {
        kernels.column_sum(rows, out, dy + first * grad_output->stride, grad_output->stride, false, partial);
      });
      std::copy(sums.begin(), sums.end(), static_cast<T *>(grad_bias));
    }
    if (grad_input)
      for_tiles(n, flops, [&](int64_t first, int64_t rows) {
        gemm(kernels, rows, out, in, dy + first * grad_output->stride, grad_output->stride,
             RightMatrix<T>{static_cast<const T *>(packed.data())}, static_cast<T *>(grad_input) + first * in, in,
             TileInit::zero, static_cast<const T *>(nullptr));
      });
    if (grad_weight)
      for_tiles(out, flops, [&](int64_t first, int64_t rows) {
        gemm_params(kernels, n, in, first, first + rows, dy, grad_output->stride, x->data(), x->ld,
                    static_cast<T *>(grad_weight), false);
      });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_activation(int32_t dtype, int32_t activation, const void *input, int64_t count,
                                       void *output) {
  GRADCORE_TRY(check_activation(activation, count, {{"input", input}, {"output", output}}));
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    for_elements(count, [&](int64_t first, int64_t n) {
      kernels.activation_forward[activation](1, n, static_cast<const T *>(input) + first, n,
                                             static_cast<T *>(output) + first, n);
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_activation_backward(int32_t dtype, int32_t activation, const void *grad_output,
                                                const void *input, int64_t count, void *grad_input) {
  GRADCORE_TRY(check_activation(activation, count,
                                {{"grad_output", grad_output}, {"input", input}, {"grad_input", grad_input}}));
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    for_elements(count, [&](int64_t first, int64_t n) {
      activation_backward(kernels, activation, n, static_cast<const T *>(grad_output) + first,
                          static_cast<const T *>(input) + first, static_cast<T *>(grad_input) + first);
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_batch_norm(int32_t dtype, const gradcore_matrix *input, const void *weight,
                                       const void *bias, double eps, void *output, void *save_mean, void *save_invstd) {
  GRADCORE_TRY(check_matrix("input", input));
  if (input->rows < 2)
    return fail(GRADCORE_INVALID_ARGUMENT, "input: expected at least 2 rows for batch norm, got %lld",
                (long long)input->rows);
  GRADCORE_TRY(check_pointers({{"weight", weight},
                               {"bias", bias},
                               {"output", output},
                               {"save_mean", save_mean},
                               {"save_invstd", save_invstd}}));
  return with_kernels(dtype, [&](const auto &kernels) {
    GRADCORE_TRY(check_eps(dtype, eps));
    using T = ElementOf<decltype(kernels)>;
    const int64_t n = input->rows, c = input->cols, stride = input->stride;
    const T *x = static_cast<const T *>(input->data), *gamma = static_cast<const T *>(weight);
    T *mean = static_cast<T *>(save_mean), *inv_std = static_cast<T *>(save_invstd), *y = static_cast<T *>(output);
    const std::vector<T> partials = partials_of_tiles<T>(n, 3 * c, [&](int64_t first, int64_t rows, T *partial) {
      kernels.column_moments(rows, c, x + first * stride, stride, partial, partial + c, partial + 2 * c);
    });
    std::vector<T> columns(std::size_t(2 * c));
    T *scale = columns.data(), *shift = scale + c;
    for_column_groups({0, c}, [&](int64_t begin, int64_t count) {
      double means[kMergeColumns], m2[kMergeColumns];
      merge_moments<T>(
          num_tiles(n), [&](int64_t t) { return partials.data() + t * 3 * c + begin; }, c,
          [&](int64_t t) { return std::min(kTileRows, n - t * kTileRows); }, n, count, means, m2);
      for (int64_t i = begin; i < begin + count; i++) {
        const double inverse = 1.0 / std::sqrt(m2[i - begin] / double(n) + eps);
        mean[i] = T(means[i - begin]);
        inv_std[i] = T(inverse);
        scale[i] = T(double(gamma[i]) * inverse);
        shift[i] = T(double(static_cast<const T *>(bias)[i]) -
                     double(gamma[i]) * inverse * (means[i - begin] - double(mean[i])));
      }
    });
    for_tiles(n, 8.0 * double(n) * double(c), [&](int64_t first, int64_t rows) {
      kernels.batch_norm_forward(rows, c, x + first * stride, stride, mean, scale, shift, y + first * c, c);
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_batch_norm_backward(int32_t dtype, const gradcore_matrix *grad_output,
                                                const gradcore_matrix *input, const void *weight, const void *save_mean,
                                                const void *save_invstd, void *grad_input, void *grad_weight,
                                                void *grad_bias) {
  GRADCORE_TRY(check_matrix("input", input));
  GRADCORE_TRY(check_shape("grad_output", grad_output, input->rows, input->cols));
  GRADCORE_TRY(check_pointers({{"weight", weight},
                               {"save_mean", save_mean},
                               {"save_invstd", save_invstd},
                               {"grad_input", grad_input},
                               {"grad_weight", grad_weight},
                               {"grad_bias", grad_bias}}));
  const Checked own_grad_output(grad_output), own_input(input);
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    const int64_t n = input->rows, c = input->cols;
    std::vector<T> factors(std::size_t(3 * c));
    T *a = factors.data(), *s1 = a + c, *s2 = s1 + c;
    const T *x = static_cast<const T *>(input->data), *dy = static_cast<const T *>(grad_output->data);
    const T *mean = static_cast<const T *>(save_mean), *inv_std = static_cast<const T *>(save_invstd);
    T *dgamma = static_cast<T *>(grad_weight), *dbeta = static_cast<T *>(grad_bias);
    const std::vector<double> sums = sums_of_tiles<T>(n, 2 * c, [&](int64_t first, int64_t rows, T *partial) {
      kernels.batch_norm_sums(rows, c, dy + first * grad_output->stride, grad_output->stride, x + first * input->stride,
                              input->stride, mean, inv_std, partial, partial + c);
    });
    for (int64_t i = 0; i < c; i++) {
      dbeta[i] = T(sums[std::size_t(i)]);
      dgamma[i] = T(sums[std::size_t(c + i)]);
      a[i] = static_cast<const T *>(weight)[i] * inv_std[i];
      s1[i] = T(sums[std::size_t(i)] / double(n));
      s2[i] = T(sums[std::size_t(c + i)] / double(n));
    }
    for_tiles(n, 8.0 * double(n) * double(c), [&](int64_t first, int64_t rows) {
      kernels.batch_norm_backward(rows, c, dy + first * grad_output->stride, grad_output->stride,
                                  x + first * input->stride, input->stride, mean, inv_std, a, s1, s2,
                                  static_cast<T *>(grad_input) + first * c, c);
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_layer_norm(int32_t dtype, const gradcore_matrix *input, const void *weight,
                                       const void *bias, int32_t rms, double eps, void *output, void *save_mean,
                                       void *save_invstd) {
  GRADCORE_TRY(check_matrix("input", input));
  GRADCORE_TRY(
      check_pointers({{"weight", weight}, {"output", output}, {"save_mean", save_mean}, {"save_invstd", save_invstd}}));
  if (!rms && !bias) return null_argument("bias");
  const Checked own_input(input);
  return with_kernels(dtype, [&](const auto &kernels) {
    GRADCORE_TRY(check_eps(dtype, eps));
    using T = ElementOf<decltype(kernels)>;
    const int64_t c = input->cols;
    for_tiles(input->rows, 8.0 * double(input->rows) * double(c), [&](int64_t first, int64_t rows) {
      kernels.layer_norm_forward(rows, c, static_cast<const T *>(input->data) + first * input->stride, input->stride,
                                 static_cast<const T *>(weight), static_cast<const T *>(bias), rms != 0, T(eps),
                                 static_cast<T *>(output) + first * c, c, static_cast<T *>(save_mean) + first,
                                 static_cast<T *>(save_invstd) + first);
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_layer_norm_backward(int32_t dtype, const gradcore_matrix *grad_output,
                                                const gradcore_matrix *input, const void *weight, const void *save_mean,
                                                const void *save_invstd, int32_t rms, void *grad_input,
                                                void *grad_weight, void *grad_bias) {
  GRADCORE_TRY(check_matrix("input", input));
  GRADCORE_TRY(check_shape("grad_output", grad_output, input->rows, input->cols));
  GRADCORE_TRY(check_pointers({{"weight", weight},
                               {"save_mean", save_mean},
                               {"save_invstd", save_invstd},
                               {"grad_input", grad_input},
                               {"grad_weight", grad_weight}}));
  if (!rms && !grad_bias) return null_argument("grad_bias");
  const Checked own_grad_output(grad_output), own_input(input);
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    const int64_t n = input->rows, c = input->cols;
    const T *x = static_cast<const T *>(input->data), *dy = static_cast<const T *>(grad_output->data);
    const T *mean = static_cast<const T *>(save_mean), *inv_std = static_cast<const T *>(save_invstd);
    const std::vector<double> sums = sums_of_tiles<T>(n, 2 * c, [&](int64_t first, int64_t rows, T *partial) {
      kernels.layer_norm_param_grads(rows, c, dy + first * grad_output->stride, grad_output->stride,
                                     x + first * input->stride, input->stride, mean + first, inv_std + first, partial,
                                     rms ? nullptr : partial + c);
    });
    std::copy_n(sums.begin(), c, static_cast<T *>(grad_weight));
    if (!rms) std::copy_n(sums.begin() + c, c, static_cast<T *>(grad_bias));
    for_tiles(n, 8.0 * double(n) * double(c), [&](int64_t first, int64_t rows) {
      kernels.layer_norm_backward(rows, c, dy + first * grad_output->stride, grad_output->stride,
                                  x + first * input->stride, input->stride, static_cast<const T *>(weight),
                                  mean + first, inv_std + first, rms != 0, static_cast<T *>(grad_input) + first * c, c);
    });
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_loss(int32_t dtype, int32_t loss, const gradcore_matrix *output,
                                 const gradcore_target_data *target, double *loss_value, void *grad_output) {
  GRADCORE_TRY(check_matrix("output", output));
  GRADCORE_TRY(check_pointers({{"target", target}, {"loss_value", loss_value}}));
  GRADCORE_TRY(check_loss(loss));
  const int64_t n = output->rows, c = output->cols;
  if (!target->labels) {
    GRADCORE_TRY(check_shape("target", &target->values, n, c));
  } else {
    if (loss != GRADCORE_CROSS_ENTROPY)
      return fail(GRADCORE_INVALID_ARGUMENT, "target: expected values for %s, got labels", gradcore_loss_name(loss));
    if (target->num_labels != n)
      return fail(GRADCORE_INVALID_ARGUMENT, "target: expected %lld labels, got %lld", (long long)n,
                  (long long)target->num_labels);
    GRADCORE_TRY(check_labels(target->labels, n, c));
  }
  const Checked own_output(output);
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    const TargetView<T> targets = view<T>(*target);
    const double scale = loss_scale(loss, n, c);
    std::vector<double> sums(std::size_t(num_tiles(n)));
    for_tiles(n, kFlopsPerTranscendental * double(n) * double(c), [&](int64_t first, int64_t rows) {
      sums[std::size_t(first / kTileRows)] = loss_rows(
          kernels, loss, rows, c, static_cast<const T *>(output->data) + first * output->stride, output->stride,
          targets.from_row(first), T(scale), grad_output ? static_cast<T *>(grad_output) + first * c : nullptr, c);
    });
    double sum = 0;
    for (const double part : sums) sum += part;
    *loss_value = sum * scale;
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_op_array_stats(int32_t dtype, const void *array, int64_t count, gradcore_array_stats *stats,
                                        int64_t *histogram) {
  GRADCORE_TRY(check_count("count", count));
  if (count > 0 && !array) return null_argument("array");
  if (!stats) return null_argument("stats");
  return with_kernels(dtype, [&](const auto &kernels) {
    using T = ElementOf<decltype(kernels)>;
    StatsSums sums{};
    Histogram<T> counts{};
    kernels.block_stats(1, count, static_cast<const T *>(array), count, &sums, histogram ? &counts : nullptr);
    if (histogram) std::copy(std::begin(counts.bins), std::end(counts.bins), histogram);
    *stats = finish_stats(sums);
    return GRADCORE_OK;
  });
}
