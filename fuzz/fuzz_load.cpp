// Files: whatever the bytes, loading gives a net or a status with a sentence. A net that was loaded is saved
// and loaded again to the same bytes, and used.
#include <string>

#include "input.hpp"

namespace {

std::string saved(const gradcore_net *net) {
  int64_t size = 0;
  require(gradcore_net_save_to_memory(net, nullptr, 0, &size) == GRADCORE_OK);
  std::string bytes(static_cast<std::size_t>(size), '\0');
  require(gradcore_net_save_to_memory(net, bytes.data(), size, &size) == GRADCORE_OK);
  return bytes;
}

void use(gradcore_net *net) {
  gradcore_net_config config{};
  config.size = sizeof config;
  require(gradcore_net_get_config(net, &config) == GRADCORE_OK);
  const int64_t in = config.widths[0], out = config.widths[config.num_widths - 1];
  const std::string input(static_cast<std::size_t>(2 * in * 8), '\0');
  std::string output(static_cast<std::size_t>(2 * out * 8), '\0');
  const gradcore_matrix x{input.data(), 2, in, in};
  require(gradcore_net_forward(net, &x, 1, output.data()) == GRADCORE_OK);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, std::size_t size) {
  gradcore_net *net = nullptr, *again = nullptr;
  const gradcore_status status = gradcore_net_load_from_memory(size ? data : reinterpret_cast<const uint8_t *>(""),
                                                               static_cast<int64_t>(size), &net);
  require((status == GRADCORE_OK) == (net != nullptr));
  if (!net) {
    require(status == GRADCORE_INVALID_ARGUMENT || status == GRADCORE_OUT_OF_MEMORY);
    require_text(gradcore_last_error());
    return 0;
  }
  const std::string bytes = saved(net);
  require(gradcore_net_load_from_memory(bytes.data(), static_cast<int64_t>(bytes.size()), &again) == GRADCORE_OK);
  require(saved(again) == bytes);
  use(again);
  gradcore_net_destroy(again);
  gradcore_net_destroy(net);
  return 0;
}
