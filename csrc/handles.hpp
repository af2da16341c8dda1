// The types behind the opaque handles of the C interface, and helpers that all of its functions share.
#ifndef GRADCORE_HANDLES_HPP
#define GRADCORE_HANDLES_HPP

#include <cstring>

#include "analysis/judge.hpp"
#include "analysis/recorder.hpp"
#include "error.hpp"
#include "network/network.hpp"

struct gradcore_net : gradcore::Network {
  using Network::Network;
};
struct gradcore_optimizer : gradcore::NetOptimizer {
  using NetOptimizer::NetOptimizer;
};
struct gradcore_diagnosis {
  gradcore_diagnosis(const gradcore_net &net, gradcore::Elementwise activation, gradcore::Elementwise derivative,
                     int loss)
      : net(net), recorder(net.architecture(), activation, derivative, loss) {}
  const gradcore_net &net;
  gradcore::Recorder recorder;
  gradcore::Judgement judgement{};
};

namespace gradcore {

// A caller's configuration as this library knows it. An older caller's struct is shorter; missing members are zero. A
// newer caller's may be longer if the extra members are zero. `least`: size in the first version.
template <class Config>
gradcore_status read_config(const Config *given, std::size_t least, Config *config) noexcept {
  constexpr std::size_t kMost = 4096;  // beyond any future version: not a size that anyone has set
  if (!given) return fail(GRADCORE_INVALID_ARGUMENT, "config: expected a configuration, got NULL");
  if (given->size < least || given->size > kMost)
    return fail(GRADCORE_INVALID_ARGUMENT, "config.size: expected %zu, got %zu", sizeof *given, given->size);
  const unsigned char *bytes = reinterpret_cast<const unsigned char *>(given);
  for (std::size_t i = sizeof *given; i < given->size; i++)
    if (bytes[i])
      return fail(GRADCORE_INVALID_ARGUMENT,
                  "config: expected the %zu bytes that this version knows, got a value at %zu", sizeof *given, i);
  *config = {};
  std::memcpy(static_cast<void *>(config), given, given->size < sizeof *given ? given->size : sizeof *given);
  config->size = sizeof *config;
  return GRADCORE_OK;
}

}  // namespace gradcore

#endif
