// The net and its optimizer in Python: gradcore._core.Net and Optimizer.
#include <pthread.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <tuple>

#include "bindings/arrays.hpp"

namespace gradcore::bindings {
namespace {

using Tensor = std::tuple<std::string, int64_t, std::vector<int64_t>>;  // name, offset, shape

// The `input` of C is called `x` in Python.
std::string python_terms(const std::string &text) {
  return text.compare(0, 6, "input:") == 0 ? "x" + text.substr(5) : text;
}

gradcore_net_config config_of(const gradcore_net *handle) {
  gradcore_net_config config{};
  config.size = sizeof config;
  check(gradcore_net_get_config(handle, &config));
  return config;
}

std::atomic<unsigned> forks{0};  // number of forks between the process that loaded the module and this one

class Net : public std::enable_shared_from_this<Net> {
 public:
  const int32_t dtype;
  const py::ssize_t in_features, out_features;

  explicit Net(gradcore_net *handle) : Net(handle, config_of(handle)) {}
  ~Net() { gradcore_net_destroy(handle_); }
  Net(const Net &) = delete;
  Net &operator=(const Net &) = delete;

  gradcore_net *handle() const { return handle_; }

  // A net has one workspace, so only one thread may use it. This never waits, so it cannot deadlock with the GIL.
  std::unique_lock<std::mutex> lock() const {
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock())
      throw py::value_error(locked_in_ == forks ? "net is in use by another thread"
                                                : "net was in use when this process was forked, and may be half "
                                                  "changed: make or load another");
    locked_in_ = forks.load();
    return lock;
  }

  template <class Call>
  void run(Call call) {
    const auto locked = lock();
    const bool written = parameters_written_.exchange(false);
    if (written || live_views_.load() > 0) gradcore_net_parameters_changed(handle_);
    const gradcore_status status = released(call);
    if (status != GRADCORE_OK) throw_status(status, python_terms(gradcore_last_error()));
  }

  // A view of the flat buffer that keeps the net alive. While a view of the parameters lives, they may be written at
  // any time, so every call assumes that they changed; so does the first call after the view is gone.
  py::array parameters() {
    struct View {
      std::shared_ptr<Net> net;
      explicit View(std::shared_ptr<Net> owner) : net(std::move(owner)) { net->live_views_.fetch_add(1); }
      ~View() {
        net->parameters_written_.store(true);
        net->live_views_.fetch_sub(1);
      }
    };
    auto view = std::make_unique<View>(shared_from_this());
    py::capsule base(view.get(), [](void *pointer) { delete static_cast<View *>(pointer); });
    view.release();
    return flat(gradcore_net_parameters(handle_), gradcore_net_flat_size(handle_), base);
  }
  py::array gradients() { return flat(gradcore_net_gradients(handle_), gradcore_net_flat_size(handle_), keep_alive()); }
  py::array buffers() {
    return flat(gradcore_net_buffers(handle_), gradcore_net_flat_buffer_size(handle_), keep_alive());
  }
  py::array flat(void *data, int64_t size, py::handle base) const {
    return {numpy_dtype(dtype), {static_cast<py::ssize_t>(size)}, data, base};
  }
  py::object keep_alive() { return py::cast(shared_from_this()); }

  template <class Get>
  std::vector<Tensor> table(int32_t count, Get get) const {
    std::vector<Tensor> tensors;
    for (int32_t i = 0; i < count; ++i) {
      gradcore_tensor tensor{};
      check(get(handle_, i, &tensor));
      auto shape =
          tensor.rank == 2 ? std::vector<int64_t>{tensor.rows, tensor.cols} : std::vector<int64_t>{tensor.cols};
      tensors.emplace_back(tensor.name, tensor.offset, std::move(shape));
    }
    return tensors;
  }

 private:
  Net(gradcore_net *handle, const gradcore_net_config &config)
      : dtype(config.dtype),
        in_features(config.widths[0]),
        out_features(config.widths[config.num_widths - 1]),
        handle_(handle) {}

  gradcore_net *const handle_;
  mutable std::mutex mutex_;
  mutable std::atomic<unsigned> locked_in_{0};  // `forks` of the process that holds the lock
  std::atomic<int> live_views_{0};
  std::atomic<bool> parameters_written_{false};
};

std::shared_ptr<Net> new_net(const std::vector<int64_t> &widths, const std::vector<int32_t> &activations,
                             int32_t normalization, bool residual, bool bias, int32_t dtype) {
  if (widths.size() < 2 || activations.size() + 2 != widths.size()) {
    throw py::value_error("widths: expected at least two, and one activation for each hidden layer");
  }
  const gradcore_net_config config{sizeof(gradcore_net_config),
                                   widths.data(),
                                   static_cast<int32_t>(widths.size()),
                                   activations.data(),
                                   normalization,
                                   residual,
                                   bias,
                                   dtype};
  gradcore_net *handle = nullptr;
  check(gradcore_net_create(&config, &handle));
  return std::make_shared<Net>(handle);
}

// ---- files -----------------------------------------------------------------------------------------

// `path` is in the encoding of the file system. Errors become OSError with the system's text; pipes and devices, which
// only the library refuses (EINVAL), get a text of their own.
template <class Call>
void run_on_file(const py::bytes &path, Call call) {
  const std::string name = path;
  if (name.find('\0') != std::string::npos) throw py::value_error("embedded null byte");
  int reason = 0;
  const gradcore_status status = released([&] {
    const gradcore_status result = call(name.c_str());
    reason = errno;
    return result;
  });
  if (status != GRADCORE_IO_ERROR) return check(status);
  const auto shown = py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(name.c_str()));
  const char *text = reason == EINVAL ? "not a regular file" : std::strerror(reason);
  const py::object error = py::handle(PyExc_OSError)(reason, text, shown);
  PyErr_SetObject(reinterpret_cast<PyObject *>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

void save(const Net &net, const py::bytes &path) {
  const auto locked = net.lock();
  run_on_file(path, [&](const char *name) { return gradcore_net_save(net.handle(), name); });
}

std::shared_ptr<Net> load(const py::bytes &path) {
  gradcore_net *handle = nullptr;
  run_on_file(path, [&](const char *name) { return gradcore_net_load(name, &handle); });
  return std::make_shared<Net>(handle);
}

py::bytes to_bytes(const Net &net) {
  const auto locked = net.lock();
  int64_t size = 0;
  check(gradcore_net_save_to_memory(net.handle(), nullptr, 0, &size));
  auto bytes = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<py::ssize_t>(size)));
  if (!bytes) throw py::error_already_set();
  char *data = PyBytes_AS_STRING(bytes.ptr());
  run_released([&] { return gradcore_net_save_to_memory(net.handle(), data, size, &size); });
  return bytes;
}

std::shared_ptr<Net> from_bytes(const py::bytes &bytes) {
  gradcore_net *handle = nullptr;
  const std::string_view data = bytes;
  run_released([&] { return gradcore_net_load_from_memory(data.data(), static_cast<int64_t>(data.size()), &handle); });
  return std::make_shared<Net>(handle);
}

// The arguments of new_net, followed by the name of the initializer and the digits of the seed or None.
py::tuple config_tuple(const Net &net) {
  const gradcore_net_config config = config_of(net.handle());
  const char *seed = gradcore_net_seed(net.handle());
  return py::make_tuple(std::vector<int64_t>(config.widths, config.widths + config.num_widths),
                        std::vector<int32_t>(config.activations, config.activations + (config.num_widths - 2)),
                        config.normalization, config.residual != 0, config.bias != 0, config.dtype,
                        gradcore_net_init(net.handle()), seed ? py::object(py::str(seed)) : py::none());
}

// ---- passes ----------------------------------------------------------------------------------------

py::array forward(Net &net, py::handle x, bool training) {
  Batch batch;
  const gradcore_matrix input = batch.input(x, net.dtype, net.in_features);
  py::array output = new_array(net.dtype, {static_cast<py::ssize_t>(input.rows), net.out_features});
  net.run([&, data = output.mutable_data()] { return gradcore_net_forward(net.handle(), &input, training, data); });
  return output;
}

py::array backward(Net &net, py::handle grad_output) {
  const gradcore_matrix matrix = matrix_of(grad_output, net.dtype, "grad_output");
  expect_shape(matrix, matrix.rows, net.out_features, "grad_output");
  py::array grad_input = new_array(net.dtype, {static_cast<py::ssize_t>(matrix.rows), net.in_features});
  net.run([&, data = grad_input.mutable_data()] { return gradcore_net_backward(net.handle(), &matrix, data); });
  return grad_input;
}

double loss_of(Net &net, py::handle x, py::handle y, int32_t loss) {
  Batch batch;
  const gradcore_matrix input = batch.input(x, net.dtype, net.in_features);
  const gradcore_target_data target = batch.target(y, net.dtype, loss, input.rows, net.out_features);
  double value = 0;
  net.run([&] { return gradcore_net_loss(net.handle(), &input, &target, loss, &value); });
  return value;
}

double loss_and_gradients(Net &net, py::handle x, py::handle y, int32_t loss, bool record) {
  Batch batch;
  const gradcore_matrix input = batch.input(x, net.dtype, net.in_features);
  const gradcore_target_data target = batch.target(y, net.dtype, loss, input.rows, net.out_features);
  double value = 0;
  net.run([&] { return gradcore_net_loss_and_gradients(net.handle(), &input, &target, loss, record, &value); });
  return value;
}

std::vector<gradcore_layer_flow> flow(const Net &net) {
  const auto locked = net.lock();
  std::vector<gradcore_layer_flow> layers(gradcore_net_num_flow_layers(net.handle()));
  for (size_t l = 0; l < layers.size(); ++l)
    check(gradcore_net_flow(net.handle(), static_cast<int32_t>(l), &layers[l]));
  return layers;
}

py::array_t<int64_t> flow_histogram(const Net &net, int32_t layer, int32_t which) {
  const auto locked = net.lock();
  py::array_t<int64_t> histogram(exponent_bins(net.dtype).second);
  check(gradcore_net_flow_histogram(net.handle(), layer, which, histogram.mutable_data()));
  return histogram;
}

// ---- optimizer -----------------------------------------------------------------------------------

class Optimizer {
 public:
  Optimizer(std::shared_ptr<Net> net, const gradcore_optimizer_config &config) : net_(std::move(net)) {
    net_->run([&] { return gradcore_optimizer_create(net_->handle(), &config, &handle_); });
  }
  ~Optimizer() { gradcore_optimizer_destroy(handle_); }
  Optimizer(const Optimizer &) = delete;
  Optimizer &operator=(const Optimizer &) = delete;

  gradcore_optimizer *handle() const { return handle_; }
  Net &net() const { return *net_; }

  void set_lr(double lr) {
    net_->run([&] { return gradcore_optimizer_set_lr(handle_, lr); });
  }
  std::pair<double, double> step(double clip_norm, double clip_value, bool record) {
    gradcore_step result{};
    net_->run([&] { return gradcore_optimizer_step(handle_, clip_norm, clip_value, record, &result); });
    return {result.loss, result.total_norm};
  }
  void save(const py::bytes &path) const {
    const auto locked = net_->lock();
    run_on_file(path, [&](const char *name) { return gradcore_optimizer_save(handle_, name); });
  }
  void load(const py::bytes &path) {
    const auto locked = net_->lock();
    run_on_file(path, [&](const char *name) { return gradcore_optimizer_load(handle_, name); });
  }
  py::list states(const py::object &self) const {
    py::list views;
    for (int32_t i = 0; i < gradcore_optimizer_num_states(handle_); ++i) {
      views.append(net_->flat(gradcore_optimizer_state(handle_, i), gradcore_net_flat_size(net_->handle()), self));
    }
    return views;
  }

 private:
  std::shared_ptr<Net> net_;
  gradcore_optimizer *handle_ = nullptr;
};

std::unique_ptr<Optimizer> new_optimizer(std::shared_ptr<Net> net, int32_t kind, double lr, double momentum,
                                         bool nesterov, double weight_decay, double alpha, double beta1, double beta2,
                                         double eps) {
  if (!net) throw py::type_error("net: expected a Net, got None");
  gradcore_optimizer_config config{};
  config.size = sizeof config;
  config.kind = kind;
  config.nesterov = nesterov;
  config.lr = lr;
  config.momentum = momentum;
  config.weight_decay = weight_decay;
  config.alpha = alpha;
  config.beta1 = beta1;
  config.beta2 = beta2;
  config.eps = eps;
  return std::make_unique<Optimizer>(std::move(net), config);
}

std::pair<double, double> train_step(Net &net, py::handle x, py::handle y, int32_t loss, Optimizer &optimizer,
                                     double clip_norm, double clip_value, bool record) {
  Batch batch;
  const gradcore_matrix input = batch.input(x, net.dtype, net.in_features);
  const gradcore_target_data target = batch.target(y, net.dtype, loss, input.rows, net.out_features);
  gradcore_step step{};
  net.run([&] {
    return gradcore_net_train_step(net.handle(), &input, &target, loss, optimizer.handle(), clip_norm, clip_value,
                                   record, &step);
  });
  return {step.loss, step.total_norm};
}

}  // namespace
}  // namespace gradcore::bindings

namespace pybind11::detail {

template <>
struct type_caster<gradcore::bindings::Net> : initialized_caster<gradcore::bindings::Net> {};
template <>
struct type_caster<gradcore::bindings::Optimizer> : initialized_caster<gradcore::bindings::Optimizer> {};

}  // namespace pybind11::detail

namespace gradcore::bindings {

void bind_net(py::module_ &m) {
  pthread_atfork(nullptr, nullptr, [] { forks++; });
  py::class_<Net, std::shared_ptr<Net>>(m, "Net")
      .def(py::init(&new_net))
      .def_static("load", &load)
      .def_static("from_bytes", &from_bytes)
      .def("save", &save)
      .def("to_bytes", &to_bytes)
      .def_property_readonly("config", &config_tuple)
      .def("initialize",
           [](Net &net, int32_t initializer, const std::vector<uint32_t> &seed) {
             net.run([&] {
               return gradcore_net_initialize_words(net.handle(), initializer, seed.data(),
                                                    static_cast<int32_t>(seed.size()));
             });
           })
      .def("set_origin",
           [](Net &net, const char *init, const std::optional<std::string> &seed) {
             const auto locked = net.lock();
             check(gradcore_net_set_origin(net.handle(), init, seed ? seed->c_str() : nullptr));
           })
      .def_property_readonly(
          "parameter_table",
          [](const Net &net) { return net.table(gradcore_net_num_parameters(net.handle()), gradcore_net_parameter); })
      .def_property_readonly(
          "buffer_table",
          [](const Net &net) { return net.table(gradcore_net_num_buffers(net.handle()), gradcore_net_buffer); })
      .def("parameters", &Net::parameters)
      .def("gradients", &Net::gradients)
      .def("buffers", &Net::buffers)
      .def("set_num_threads",
           [](Net &net, int32_t count) { check(gradcore_net_set_threads(net.handle(), nullptr, nullptr, count)); })
      .def("workspace_bytes", [](const Net &net) { return gradcore_net_workspace_bytes(net.handle()); })
      .def("forward", &forward)
      .def("backward", &backward)
      .def("loss", &loss_of)
      .def("loss_and_gradients", &loss_and_gradients)
      .def("train_step", &train_step)
      .def("flow", &flow)
      .def("flow_histogram", &flow_histogram)
      .def("clip_grad_adaptive", [](Net &net, double clipping, double eps) {
        net.run([&] { return gradcore_clip_grad_adaptive(net.handle(), clipping, eps); });
      });
  py::class_<Optimizer>(m, "Optimizer")
      .def(py::init(&new_optimizer))
      .def("set_lr", &Optimizer::set_lr)
      .def("save", &Optimizer::save)
      .def("load", &Optimizer::load)
      .def("step", &Optimizer::step)
      .def("states", [](const py::object &self) { return self.cast<const Optimizer &>().states(self); })
      .def_property(
          "step_count", [](const Optimizer &optimizer) { return gradcore_optimizer_get_step(optimizer.handle()); },
          [](Optimizer &optimizer, int64_t step) {
            const auto locked = optimizer.net().lock();
            gradcore_optimizer_set_step(optimizer.handle(), step);
          });
}

}  // namespace gradcore::bindings
