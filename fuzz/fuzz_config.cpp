// Configurations: whatever their members, creating a net and an optimizer gives a handle or a status with a
// sentence, and what was made trains. The input is a net's configuration, its widths and activations, then
// an optimizer's; sizes of nets are kept small, as large ones are refused for want of memory alone.
#include <vector>

#include "input.hpp"

namespace {

// A configuration with room for the members of later versions, which its size may take in.
template <class Config>
struct Roomy {
  Config config;
  uint8_t more[32];

  explicit Roomy(Input &input) : config(input.take<Config>()), more{} {
    if (config.size > sizeof config) {
      config.size = sizeof config + config.size % (sizeof more + 1);
      more[7] = input.take<uint8_t>();
    }
  }
};

void train(gradcore_net *net, gradcore_optimizer *optimizer, int64_t in, int64_t out) {
  constexpr int64_t kRows = 3;
  const std::vector<double> x(static_cast<std::size_t>(kRows * in), 0.0);  // the same in either type
  const std::vector<int64_t> labels(kRows, out - 1);
  const gradcore_matrix input{x.data(), kRows, in, in};
  gradcore_target_data target{};
  target.labels = labels.data(), target.num_labels = kRows;
  gradcore_step step{};
  require(gradcore_net_initialize(net, GRADCORE_INIT_ORTHOGONAL, 1) == GRADCORE_OK);
  const gradcore_status status =
      gradcore_net_train_step(net, &input, &target, GRADCORE_CROSS_ENTROPY, optimizer, 0, 0, 1, &step);
  require(status == GRADCORE_OK);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, std::size_t size) {
  Input input(data, size);
  Roomy<gradcore_net_config> net_config(input);
  gradcore_net_config &config = net_config.config;
  const bool null_widths = config.widths && !((reinterpret_cast<std::uintptr_t>(config.widths)) & 15);
  const bool null_activations = config.activations && !((reinterpret_cast<std::uintptr_t>(config.activations)) & 15);
  config.num_widths %= 12;
  std::vector<int64_t> widths;
  std::vector<int32_t> activations;
  for (int i = 0; i < 12; i++) {
    const auto width = input.take<int16_t>();  // mostly sound ones, and some beyond every limit
    widths.push_back(width % 64 == 63 ? int64_t(width) << 40 : width % 64);
    activations.push_back(input.take<int8_t>());
  }
  config.widths = null_widths ? nullptr : widths.data();
  config.activations = null_activations ? nullptr : activations.data();
  gradcore_net *net = nullptr;
  gradcore_optimizer *optimizer = nullptr;
  const gradcore_status status = gradcore_net_create(&config, &net);
  require((status == GRADCORE_OK) == (net != nullptr));
  if (!net) {
    require(status == GRADCORE_INVALID_ARGUMENT);
    require_text(gradcore_last_error());
    return 0;
  }
  const Roomy<gradcore_optimizer_config> rule(input);
  const gradcore_status made = gradcore_optimizer_create(net, &rule.config, &optimizer);
  require((made == GRADCORE_OK) == (optimizer != nullptr));
  if (optimizer) train(net, optimizer, widths[0], widths[static_cast<std::size_t>(config.num_widths) - 1]);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
  return 0;
}
