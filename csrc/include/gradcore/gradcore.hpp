// gradcore for C++17: the functions of gradcore.h with owners, views and exceptions. Header-only; it adds no symbol to
// libgradcore and no arithmetic to a step.
//
// Conventions
//   - Failures throw gradcore::Error with the text of gradcore_last_error().
//   - Views (Span, Matrix, Target) own nothing; they refer to the caller's memory.
//   - gradcore.h documents each operation; comments here describe only what C++ adds.
//   - After the first call with a shape, forward, backward, loss_and_gradients and train_step allocate nothing and take
//     no lock.
#ifndef GRADCORE_GRADCORE_HPP
#define GRADCORE_GRADCORE_HPP

#include <gradcore/gradcore.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace gradcore {

// Inline, so that it appears only in symbol names: a static libgradcore has its own templates called
// gradcore::Optimizer<float> and the like, and the linker would merge the two.
inline namespace face {

// ---- errors ------------------------------------------------------------------------------------

class Error : public std::runtime_error {
 public:
  Error(gradcore_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
  gradcore_status status() const noexcept { return status_; }

 private:
  gradcore_status status_;
};

namespace detail {

inline void check(gradcore_status status) {
  if (status != GRADCORE_OK) throw Error(status, gradcore_last_error());
}

// By division: a product of wrong sizes may overflow to one that looks right. Negative sizes are refused by the call.
inline void expect(const char *name, std::int64_t rows, std::int64_t cols, std::size_t got) {
  const std::size_t r = static_cast<std::size_t>(rows), c = static_cast<std::size_t>(cols);
  if (rows >= 0 && cols >= 0 && (r == 0 || c == 0 ? got != 0 : got / c != r || got % c != 0))
    throw Error(GRADCORE_INVALID_ARGUMENT, std::string(name) + ": expected " + std::to_string(rows) +
                                               (cols == 1 ? "" : " x " + std::to_string(cols)) + " elements, got " +
                                               std::to_string(got));
}
inline void expect(const char *name, std::int64_t expected, std::size_t got) { expect(name, expected, 1, got); }

// A non-deduced parameter type: the argument is converted to the type that other parameters deduce.
template <class T>
struct Exactly {
  using Type = T;
};
template <class T>
using exactly = typename Exactly<T>::Type;

template <class T>
inline constexpr std::int32_t dtype = [] {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "gradcore: expected elements of float or double");
  return std::is_same_v<T, float> ? GRADCORE_FLOAT32 : GRADCORE_FLOAT64;
}();

}  // namespace detail

// ---- views -------------------------------------------------------------------------------------

// Contiguous elements: from a pointer and a size, a std::vector, std::array, std::span or C array.
template <class T>
class Span {
  template <class Container>
  using element_of = std::remove_pointer_t<decltype(std::data(std::declval<Container &>()))>;
  template <class Container>
  using if_shows_elements = std::enable_if_t<std::is_convertible_v<element_of<Container> (*)[], T (*)[]>>;

 public:
  constexpr Span() noexcept = default;
  constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <class Container, class = if_shows_elements<Container>>
  constexpr Span(Container &container) noexcept : Span(std::data(container), std::size(container)) {}
  template <class Container, class = if_shows_elements<const Container>>
  constexpr Span(const Container &container) noexcept : Span(std::data(container), std::size(container)) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T *begin() const noexcept { return data_; }
  constexpr T *end() const noexcept { return data_ + size_; }
  constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
};

// Rows of `cols` elements, `stride` elements apart.
template <class T>
struct Matrix {
  T *data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  constexpr Matrix() noexcept = default;
  constexpr Matrix(T *first, std::int64_t num_rows, std::int64_t num_cols) noexcept
      : Matrix(first, num_rows, num_cols, num_cols) {}
  constexpr Matrix(T *first, std::int64_t num_rows, std::int64_t num_cols, std::int64_t row_stride) noexcept
      : data(first), rows(num_rows), cols(num_cols), stride(row_stride) {}
  constexpr operator Matrix<const T>() const noexcept { return {data, rows, cols, stride}; }
  constexpr gradcore_matrix c() const noexcept { return {data, rows, cols, stride}; }
  constexpr gradcore_output_matrix c_output() const noexcept { return {data, rows, cols, stride}; }
};

// Labels [rows], each in [0, out_features), or values [rows, out_features].
template <class T>
class Target {
 public:
  template <class Labels, class = std::enable_if_t<std::is_constructible_v<Span<const std::int64_t>, const Labels &>>>
  Target(const Labels &labels) noexcept {
    const Span<const std::int64_t> span(labels);
    c_.labels = span.data();
    c_.num_labels = static_cast<std::int64_t>(span.size());
  }
  Target(Matrix<const T> values) noexcept { c_.values = values.c(); }
  Target(Matrix<T> values) noexcept { c_.values = values.c(); }
  const gradcore_target_data &c() const noexcept { return c_; }

 private:
  gradcore_target_data c_{};
};

// A named part of a flat buffer; `name` lives as long as the net.
template <class T>
struct Tensor {
  std::string_view name;
  Span<T> values;
  std::int64_t rows, cols;  // 1 and the length for a vector
  int rank;
};

// ---- configuration -----------------------------------------------------------------------------

enum class Activation : std::int32_t {
  identity = GRADCORE_IDENTITY,
  relu = GRADCORE_RELU,
  leaky_relu = GRADCORE_LEAKY_RELU,
  elu = GRADCORE_ELU,
  selu = GRADCORE_SELU,
  gelu = GRADCORE_GELU,
  gelu_tanh = GRADCORE_GELU_TANH,
  silu = GRADCORE_SILU,
  mish = GRADCORE_MISH,
  softplus = GRADCORE_SOFTPLUS,
  tanh = GRADCORE_TANH,
  hard_tanh = GRADCORE_HARD_TANH,
  sigmoid = GRADCORE_SIGMOID
};

enum class Normalization : std::int32_t {
  none = GRADCORE_NORM_NONE,
  batch = GRADCORE_NORM_BATCH,
  layer = GRADCORE_NORM_LAYER,
  rms = GRADCORE_NORM_RMS
};

enum class Loss : std::int32_t {
  cross_entropy = GRADCORE_CROSS_ENTROPY,
  binary_cross_entropy = GRADCORE_BINARY_CROSS_ENTROPY,
  mse = GRADCORE_MSE,
  mae = GRADCORE_MAE,
  huber = GRADCORE_HUBER
};

struct NetConfig {
  std::vector<std::int64_t> widths;                          // in, hidden..., out
  std::vector<Activation> activations = {Activation::relu};  // one for all hidden layers, or one per layer
  Normalization normalization = Normalization::none;
  bool residual = false;
  bool bias = true;
  bool bfloat16 = false;  // Net<float> only: dense products round their operands to bfloat16
};

inline gradcore_optimizer_config sgd(double lr, double momentum = 0, bool nesterov = false, double weight_decay = 0) {
  return {
      sizeof(gradcore_optimizer_config), GRADCORE_SGD, nesterov, lr, momentum, weight_decay, 0.99, 0.9, 0.999, 1e-8};
}
inline gradcore_optimizer_config rmsprop(double lr, double alpha = 0.99, double eps = 1e-8, double momentum = 0,
                                         double weight_decay = 0) {
  return {sizeof(gradcore_optimizer_config), GRADCORE_RMSPROP, 0, lr, momentum, weight_decay, alpha, 0.9, 0.999, eps};
}
inline gradcore_optimizer_config adam(double lr, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8,
                                      double weight_decay = 0) {
  return {sizeof(gradcore_optimizer_config), GRADCORE_ADAM, 0, lr, 0, weight_decay, 0.99, beta1, beta2, eps};
}
inline gradcore_optimizer_config adamw(double lr, double beta1 = 0.9, double beta2 = 0.999, double eps = 1e-8,
                                       double weight_decay = 0.01) {
  return {sizeof(gradcore_optimizer_config), GRADCORE_ADAMW, 0, lr, 0, weight_decay, 0.99, beta1, beta2, eps};
}

// Clipping of an update; 0 means none.
struct Clip {
  double norm = 0, value = 0;
};

using Step = gradcore_step;
using LayerFlow = gradcore_layer_flow;

// ---- clipping of any gradients, in place ---------------------------------------------------------

template <class T>
double clip_grad_norm(Span<T> gradients, double max_norm, double norm_type = 2, bool error_if_nonfinite = false) {
  void *const array = gradients.data();
  const std::int64_t size = static_cast<std::int64_t>(gradients.size());
  double total_norm = 0;
  detail::check(gradcore_clip_grad_norm(detail::dtype<T>, &array, &size, 1, max_norm, norm_type, error_if_nonfinite,
                                        &total_norm));
  return total_norm;
}
// Clips several arrays together.
template <class T>
double clip_grad_norm(const std::vector<Span<T>> &gradients, double max_norm, double norm_type = 2,
                      bool error_if_nonfinite = false) {
  std::vector<void *> arrays;
  std::vector<std::int64_t> sizes;
  for (Span<T> gradient : gradients) {
    arrays.push_back(gradient.data());
    sizes.push_back(static_cast<std::int64_t>(gradient.size()));
  }
  double total_norm = 0;
  detail::check(gradcore_clip_grad_norm(detail::dtype<T>, arrays.data(), sizes.data(),
                                        static_cast<std::int32_t>(arrays.size()), max_norm, norm_type,
                                        error_if_nonfinite, &total_norm));
  return total_norm;
}
template <class T>
void clip_grad_value(Span<T> gradients, double clip_value) {
  void *const array = gradients.data();
  const std::int64_t size = static_cast<std::int64_t>(gradients.size());
  detail::check(gradcore_clip_grad_value(detail::dtype<T>, &array, &size, 1, clip_value));
}

// ---- net ---------------------------------------------------------------------------------------

template <class T>
class Optimizer;
template <class T>
class Diagnosis;

// Owns a gradcore_net; movable, not copyable. T is float or double.
template <class T>
class Net {
 public:
  explicit Net(const NetConfig &config) {
    const std::size_t hidden = config.widths.size() < 2 ? 0 : config.widths.size() - 2;
    std::vector<std::int32_t> activations;
    for (Activation activation : config.activations) activations.push_back(static_cast<std::int32_t>(activation));
    if (activations.size() == 1) activations.assign(hidden, activations[0]);
    detail::expect("activations", static_cast<std::int64_t>(hidden), activations.size());
    gradcore_net_config c{};
    c.size = sizeof c;
    c.widths = config.widths.data();
    c.num_widths = static_cast<std::int32_t>(config.widths.size());
    c.activations = activations.data();
    c.normalization = static_cast<std::int32_t>(config.normalization);
    c.residual = config.residual;
    c.bias = config.bias;
    if (config.bfloat16 && detail::dtype<T> != GRADCORE_FLOAT32)
      throw Error(GRADCORE_INVALID_ARGUMENT, "bfloat16: expected false for a net of double, got true");
    c.dtype = config.bfloat16 ? GRADCORE_BFLOAT16 : detail::dtype<T>;
    gradcore_net *net = nullptr;
    detail::check(gradcore_net_create(&c, &net));
    own(net, config.widths.front(), config.widths.back());
  }

  // The net of a file, or of its bytes; it must have been saved with elements of type T.
  static Net load(const std::string &path) {
    gradcore_net *net = nullptr;
    detail::check(gradcore_net_load(path.c_str(), &net));
    return Net(net);
  }
  static Net load_from_memory(Span<const char> bytes) {
    gradcore_net *net = nullptr;
    detail::check(gradcore_net_load_from_memory(bytes.data(), static_cast<std::int64_t>(bytes.size()), &net));
    return Net(net);
  }
  void save(const std::string &path) const { detail::check(gradcore_net_save(c(), path.c_str())); }
  std::string save_to_memory() const {
    std::int64_t size = 0;
    detail::check(gradcore_net_save_to_memory(c(), nullptr, 0, &size));
    std::string bytes(static_cast<std::size_t>(size), '\0');
    detail::check(gradcore_net_save_to_memory(c(), bytes.data(), size, &size));
    return bytes;
  }

  std::int64_t in_features() const noexcept { return in_features_; }
  std::int64_t out_features() const noexcept { return out_features_; }

  // The flat buffers. After writing parameters, call parameters_changed().
  Span<T> flat_parameters() noexcept { return flat(gradcore_net_parameters(c()), gradcore_net_flat_size(c())); }
  Span<T> flat_gradients() noexcept { return flat(gradcore_net_gradients(c()), gradcore_net_flat_size(c())); }
  Span<T> flat_buffers() noexcept { return flat(gradcore_net_buffers(c()), gradcore_net_flat_buffer_size(c())); }
  void parameters_changed() noexcept { gradcore_net_parameters_changed(c()); }

  // Tensors in the flat buffers, by number or by name ("dense0.weight"). An unknown number or name throws.
  int num_parameters() const noexcept { return gradcore_net_num_parameters(c()); }
  int num_buffers() const noexcept { return gradcore_net_num_buffers(c()); }
  Tensor<T> parameter(int i) { return tensor(gradcore_net_parameter, i, flat_parameters()); }
  Tensor<T> gradient(int i) { return tensor(gradcore_net_parameter, i, flat_gradients()); }
  Tensor<T> buffer(int i) { return tensor(gradcore_net_buffer, i, flat_buffers()); }
  Tensor<T> parameter(std::string_view name) { return parameter(find(gradcore_net_parameter, num_parameters(), name)); }
  Tensor<T> gradient(std::string_view name) { return gradient(find(gradcore_net_parameter, num_parameters(), name)); }
  Tensor<T> buffer(std::string_view name) { return buffer(find(gradcore_net_buffer, num_buffers(), name)); }

  // Initial weights, by scheme and seed; zero biases.
  void initialize(gradcore_initializer initializer = GRADCORE_INIT_AUTO, std::uint64_t seed = 0) {
    detail::check(gradcore_net_initialize(c(), initializer, seed));
  }
  // Sets the threads that calls of this net run on: at most num_threads (0: gradcore_get_num_threads()), from the
  // library or from the caller's parallel_for, which must not throw.
  void set_threads(int num_threads, gradcore_parallel_for parallel_for = nullptr, void *context = nullptr) {
    detail::check(gradcore_net_set_threads(c(), parallel_for, context, num_threads));
  }

  // output: [input.rows * out_features].
  void forward(Matrix<const T> input, Span<T> output, bool training = false) {
    detail::expect("output", input.rows, out_features_, output.size());
    const gradcore_matrix x = input.c();
    detail::check(gradcore_net_forward(c(), &x, training, output.data()));
  }
  // grad_input: [grad_output.rows * in_features], or empty.
  void backward(Matrix<const T> grad_output, Span<T> grad_input = {}) {
    if (!grad_input.empty()) detail::expect("grad_input", grad_output.rows, in_features_, grad_input.size());
    const gradcore_matrix dy = grad_output.c();
    detail::check(gradcore_net_backward(c(), &dy, grad_input.data()));
  }
  // Into rows with a stride: output [input.rows, out_features], grad_input [grad_output.rows, in_features].
  void forward(Matrix<const T> input, Matrix<T> output, bool training = false) {
    const gradcore_matrix x = input.c();
    const gradcore_output_matrix y = output.c_output();
    detail::check(gradcore_net_forward_into(c(), &x, training, &y));
  }
  void backward(Matrix<const T> grad_output, Matrix<T> grad_input) {
    const gradcore_matrix dy = grad_output.c();
    const gradcore_output_matrix dx = grad_input.c_output();
    detail::check(gradcore_net_backward_into(c(), &dy, &dx));
  }
  double loss(Matrix<const T> input, const Target<T> &target, Loss loss) {
    const gradcore_matrix x = input.c();
    double value = 0;
    detail::check(gradcore_net_loss(c(), &x, &target.c(), static_cast<std::int32_t>(loss), &value));
    return value;
  }
  double loss_and_gradients(Matrix<const T> input, const Target<T> &target, Loss loss, bool record = false) {
    const gradcore_matrix x = input.c();
    double value = 0;
    detail::check(
        gradcore_net_loss_and_gradients(c(), &x, &target.c(), static_cast<std::int32_t>(loss), record, &value));
    return value;
  }
  Step train_step(Matrix<const T> input, const Target<T> &target, Loss loss, Optimizer<T> &optimizer, Clip clip = {},
                  bool record = false) {
    const gradcore_matrix x = input.c();
    Step step{};
    detail::check(gradcore_net_train_step(c(), &x, &target.c(), static_cast<std::int32_t>(loss), optimizer.c(),
                                          clip.norm, clip.value, record, &step));
    return step;
  }

  // Clips the current gradients in place; returns the total norm before clipping.
  double clip_grad_norm(double max_norm, double norm_type = 2, bool error_if_nonfinite = false) {
    return face::clip_grad_norm(flat_gradients(), max_norm, norm_type, error_if_nonfinite);
  }
  void clip_grad_value(double clip_value) { face::clip_grad_value(flat_gradients(), clip_value); }
  void clip_grad_adaptive(double clipping = 0.01, double eps = 1e-3) {
    detail::check(gradcore_clip_grad_adaptive(c(), clipping, eps));
  }

  // Measurements of the last recorded pass, one entry per dense layer.
  int num_flow_layers() const noexcept { return gradcore_net_num_flow_layers(c()); }
  LayerFlow flow(int layer) const {
    LayerFlow flow{};
    detail::check(gradcore_net_flow(c(), layer, &flow));
    return flow;
  }
  static constexpr int num_bins = sizeof(T) == 4 ? GRADCORE_NUM_BINS_F32 : GRADCORE_NUM_BINS_F64;
  void delta_histogram(int layer, Span<std::int64_t> bins) const { histogram(layer, 0, bins); }
  void weight_grad_histogram(int layer, Span<std::int64_t> bins) const { histogram(layer, 1, bins); }

  std::int64_t workspace_bytes() const noexcept { return gradcore_net_workspace_bytes(c()); }
  // The handle, for functions of gradcore.h.
  gradcore_net *c() const noexcept { return net_.get(); }

 private:
  friend class Optimizer<T>;
  friend class Diagnosis<T>;
  using TensorFunction = gradcore_status (*)(const gradcore_net *, std::int32_t, gradcore_tensor *);

  explicit Net(gradcore_net *net) {
    gradcore_net_config c{};
    c.size = sizeof c;
    detail::check(gradcore_net_get_config(net, &c));
    own(net, c.widths[0], c.widths[c.num_widths - 1]);
    if ((c.dtype == GRADCORE_FLOAT64) != (detail::dtype<T> == GRADCORE_FLOAT64))
      throw Error(GRADCORE_INVALID_ARGUMENT, c.dtype == GRADCORE_FLOAT64
                                                 ? "dtype: expected a net of float, got double"
                                                 : "dtype: expected a net of double, got float");
  }
  void own(gradcore_net *net, std::int64_t in_features, std::int64_t out_features) {
    net_.reset(net, gradcore_net_destroy);
    in_features_ = in_features;
    out_features_ = out_features;
  }
  Span<T> flat(void *data, std::int64_t size) noexcept {
    return {static_cast<T *>(data), static_cast<std::size_t>(size)};
  }
  Tensor<T> tensor(TensorFunction function, int i, Span<T> flat) {
    gradcore_tensor t{};
    detail::check(function(c(), i, &t));
    return {t.name, {flat.data() + t.offset, static_cast<std::size_t>(t.rows * t.cols)}, t.rows, t.cols, t.rank};
  }
  int find(TensorFunction function, int count, std::string_view name) const {
    gradcore_tensor t{};
    for (int i = 0; i < count; i++)
      if (function(c(), i, &t) == GRADCORE_OK && name == t.name) return i;
    throw Error(GRADCORE_INVALID_ARGUMENT, "name: expected a tensor of this net, got " + std::string(name));
  }
  void histogram(int layer, int which, Span<std::int64_t> bins) const {
    detail::expect("bins", num_bins, bins.size());
    detail::check(gradcore_net_flow_histogram(c(), layer, which, bins.data()));
  }

  std::shared_ptr<gradcore_net> net_;  // shared only with its optimizers, which keep it alive
  std::int64_t in_features_ = 0, out_features_ = 0;
};

// Owns a gradcore_optimizer and keeps its net alive; movable, not copyable.
template <class T>
class Optimizer {
 public:
  Optimizer(Net<T> &net, const gradcore_optimizer_config &config) : optimizer_(nullptr, {net.net_}) {
    gradcore_optimizer *optimizer = nullptr;
    detail::check(gradcore_optimizer_create(net.c(), &config, &optimizer));
    optimizer_.reset(optimizer);
  }

  // One update from the net's gradients.
  Step step(Clip clip = {}, bool record = false) {
    Step step{};
    detail::check(gradcore_optimizer_step(c(), clip.norm, clip.value, record, &step));
    return step;
  }
  // Saves or loads step count and state vectors; load needs an optimizer of the same kind.
  void save(const std::string &path) const { detail::check(gradcore_optimizer_save(c(), path.c_str())); }
  void load(const std::string &path) { detail::check(gradcore_optimizer_load(c(), path.c_str())); }
  void set_lr(double lr) { detail::check(gradcore_optimizer_set_lr(c(), lr)); }
  std::int64_t step_count() const noexcept { return gradcore_optimizer_get_step(c()); }
  void set_step_count(std::int64_t step) noexcept { gradcore_optimizer_set_step(c(), step); }
  int num_states() const noexcept { return gradcore_optimizer_num_states(c()); }
  Span<T> state(int i) {
    T *data = static_cast<T *>(gradcore_optimizer_state(c(), i));
    return {data, data ? static_cast<std::size_t>(gradcore_net_flat_size(optimizer_.get_deleter().net.get())) : 0};
  }
  // The handle, for functions of gradcore.h.
  gradcore_optimizer *c() const noexcept { return optimizer_.get(); }

 private:
  struct Destroy {
    std::shared_ptr<gradcore_net> net;  // outlives the optimizer, also if another one is moved over it
    void operator()(gradcore_optimizer *optimizer) const noexcept { gradcore_optimizer_destroy(optimizer); }
  };
  std::unique_ptr<gradcore_optimizer, Destroy> optimizer_;
};

// ---- library -----------------------------------------------------------------------------------

inline std::string version() { return gradcore_version(); }
inline int num_threads() noexcept { return gradcore_get_num_threads(); }
inline std::string num_threads_source() { return gradcore_num_threads_source(); }
inline void set_num_threads(int count) { detail::check(gradcore_set_num_threads(count)); }
inline std::string target() { return gradcore_target(); }
inline bool has_bfloat16_products() { return gradcore_has_bfloat16_products() != 0; }
inline void set_target(const std::string &name) { detail::check(gradcore_set_target(name.c_str())); }

}  // namespace face
}  // namespace gradcore

#ifdef __cpp_lib_ranges  // std::span<float> parameters = net.flat_parameters();
template <class T>
inline constexpr bool std::ranges::enable_borrowed_range<gradcore::Span<T>> = true;
#endif

#endif
