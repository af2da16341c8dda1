// Optimizer files: whatever the bytes, loading puts their state into the optimizer, or gives a status with a
// sentence and leaves the optimizer as it was. What was loaded is saved and loaded again to the same bytes, and
// trained on. The input is the optimizer's kind, then the file.
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "handles.hpp"
#include "input.hpp"
#include "io/net_file.hpp"

namespace {

// A file without a name on any disk, that the library opens as it would any other.
class MemoryFile {
 public:
  MemoryFile(const void *data, std::size_t size) : number_(memfd_create("fuzz", MFD_CLOEXEC)) {
    require(number_ >= 0 && write(number_, data, size) == ssize_t(size));
  }
  ~MemoryFile() { close(number_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(number_); }

 private:
  int number_;
};

gradcore_status load(gradcore_optimizer *optimizer, const std::string &bytes) {
  return gradcore_optimizer_load(optimizer, MemoryFile(bytes.data(), bytes.size()).path().c_str());
}

std::string saved(gradcore_optimizer &optimizer) {
  std::string bytes;
  require(gradcore::write_optimizer(optimizer, [&](const void *data, std::size_t size) {
            bytes.append(static_cast<const char *>(data), size);
            return GRADCORE_OK;
          }) == GRADCORE_OK);
  return bytes;
}

// Of every kind, with as many states as it can have.
gradcore_optimizer_config optimizer_config(int choice) {
  gradcore_optimizer_config config{};
  config.size = sizeof config;
  config.kind = choice % GRADCORE_NUM_OPTIMIZERS;
  config.momentum = choice / GRADCORE_NUM_OPTIMIZERS ? 0.9 : 0;
  config.lr = 1e-3, config.alpha = 0.99, config.beta1 = 0.9, config.beta2 = 0.999, config.eps = 1e-8;
  return config;
}

void train(gradcore_net *net, gradcore_optimizer *optimizer) {
  const double x[4] = {};  // zeros in either type
  const int64_t labels[2] = {0, 1};
  const gradcore_matrix input{x, 2, 2, 2};
  gradcore_target_data target{};
  target.labels = labels, target.num_labels = 2;
  gradcore_step step{};
  const int64_t before = gradcore_optimizer_get_step(optimizer);
  require(gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 0, 0, 0, &step) ==
          GRADCORE_OK);
  require(gradcore_optimizer_get_step(optimizer) == before + 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, std::size_t size) {
  Input input(data, size);
  const int64_t widths[] = {2, 3, 2};
  const int32_t activations[] = {GRADCORE_RELU};
  const int dtype = input.choose(3);
  const gradcore_net_config config{sizeof config, widths, 3, activations, GRADCORE_NORM_LAYER, 0, 1, dtype};
  const gradcore_optimizer_config rule = optimizer_config(input.choose(2 * GRADCORE_NUM_OPTIMIZERS));
  gradcore_net *net = nullptr;
  gradcore_optimizer *optimizer = nullptr;
  require(gradcore_net_create(&config, &net) == GRADCORE_OK);
  require(gradcore_optimizer_create(net, &rule, &optimizer) == GRADCORE_OK);
  const std::string before = saved(*optimizer);
  const std::string file(reinterpret_cast<const char *>(input.rest()), input.rest_size());
  const gradcore_status status = load(optimizer, file);
  if (status == GRADCORE_OK) {
    const std::string bytes = saved(*optimizer);
    require(load(optimizer, bytes) == GRADCORE_OK && saved(*optimizer) == bytes);
    train(net, optimizer);
  } else {
    require(status == GRADCORE_INVALID_ARGUMENT || status == GRADCORE_OUT_OF_MEMORY);
    require_text(gradcore_last_error());
    require(saved(*optimizer) == before);
  }
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
  return 0;
}
