// The Python module gradcore._core: the library's constants and settings, and the records of its statistics. The GIL is
// released around every native call. This folder contains no arithmetic and uses nothing of the library but gradcore.h.
#include <pybind11/stl.h>

#include "bindings/arrays.hpp"

namespace gradcore::bindings {
namespace {

template <class Name>
py::tuple names(int32_t count, Name name) {
  py::tuple result(count);
  for (int32_t i = 0; i < count; ++i) result[i] = py::str(name(i));
  return result;
}

void bind_library(py::module_ &m) {
  py::register_exception<ConversionNeeded>(m, "ConversionNeeded", PyExc_TypeError);
  m.attr("ACTIVATIONS") = names(GRADCORE_NUM_ACTIVATIONS, gradcore_activation_name);
  m.attr("LOSSES") = names(GRADCORE_NUM_LOSSES, gradcore_loss_name);
  m.attr("INITIALIZERS") = names(GRADCORE_NUM_INITIALIZERS, gradcore_initializer_name);
  m.attr("DTYPES") = py::make_tuple("float32", "float64", "bfloat16");
  m.attr("NORMALIZATIONS") = py::make_tuple(py::none(), "batch", "layer", "rms");
  m.attr("OPTIMIZERS") = py::make_tuple("sgd", "rmsprop", "adam", "adamw");
  m.def("version", &gradcore_version);
  m.def("abi_version", &gradcore_abi_version);
  m.def("critical_gain_squared", &gradcore_critical_gain_squared);
  m.def("targets", [] { return names(gradcore_num_targets(), gradcore_target_name); });
  m.def("has_bfloat16_products", [] { return gradcore_has_bfloat16_products() != 0; });
  m.def("target_supported", [](int32_t index) { return gradcore_target_supported(index) != 0; });
  m.def("target", &gradcore_target);
  m.def("set_target", [](const char *name) { check(gradcore_set_target(name)); });
  m.def("get_num_threads", &gradcore_get_num_threads);
  m.def("num_threads_source", &gradcore_num_threads_source);
  m.def("set_num_threads", [](int32_t count) { check(gradcore_set_num_threads(count)); });
  m.def("exponent_bins", &exponent_bins);
}

void bind_statistics(py::module_ &m) {
  using Stats = gradcore_array_stats;
  const auto formats = [](const int64_t(&counts)[4]) { return std::vector<int64_t>(counts, counts + 4); };
  py::class_<Stats>(m, "ArrayStats")
      .def_readonly("count", &Stats::count)
      .def_readonly("zeros", &Stats::zeros)
      .def_readonly("subnormals", &Stats::subnormals)
      .def_readonly("nonfinite", &Stats::nonfinite)
      .def_readonly("mean", &Stats::mean)
      .def_readonly("variance", &Stats::variance)
      .def_readonly("norm", &Stats::norm)
      .def_readonly("max_abs", &Stats::max_abs)
      .def_property_readonly("flushed", [formats](const Stats &stats) { return formats(stats.flushed); })
      .def_property_readonly("overflowed", [formats](const Stats &stats) { return formats(stats.overflowed); });
  using Flow = gradcore_layer_flow;
  py::class_<Flow>(m, "LayerFlow")
      .def_readonly("activation", &Flow::activation)
      .def_readonly("delta", &Flow::delta)
      .def_readonly("weight_grad", &Flow::weight_grad)
      .def_readonly("grad_output_norm", &Flow::grad_output_norm)
      .def_readonly("grad_preact_norm", &Flow::grad_preact_norm)
      .def_readonly("weight_norm", &Flow::weight_norm)
      .def_readonly("bias_grad_norm", &Flow::bias_grad_norm)
      .def_readonly("mean_squared_derivative", &Flow::mean_squared_derivative)
      .def_readonly("act_zeros", &Flow::act_zeros)
      .def_readonly("saturated", &Flow::saturated)
      .def_readonly("dead_units", &Flow::dead_units)
      .def_readonly("update_norm", &Flow::update_norm);
}

}  // namespace
}  // namespace gradcore::bindings

// Before Python 3.12, a thread that enters a subinterpreter keeps the thread state of the interpreter it came from.
// pybind11 requests that state while loading, and would wait forever for a lock that this thread holds itself.
#if PY_VERSION_HEX < 0x030C0000 && !defined(PYPY_VERSION)
extern "C" PyObject *gradcore_core_init();
extern "C" PYBIND11_EXPORT PyObject *PyInit__core() {
  if (PyGILState_GetThisThreadState() == PyThreadState_Get()) return gradcore_core_init();
  PyErr_SetString(PyExc_ImportError, "gradcore cannot be loaded in a subinterpreter");
  return nullptr;
}
#define PyInit__core gradcore_core_init  // the function that PYBIND11_MODULE defines
#endif

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace gradcore::bindings;
  m.doc() = "Bindings of libgradcore; use the functions of the package gradcore instead.";
  bind_library(m);
  bind_statistics(m);
  bind_net(m);
  bind_ops(m);
}
