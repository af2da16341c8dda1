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

// The size that a caller has set in a struct, which may be of another version. `least`: size in the first version.
template <class Struct>
gradcore_status check_size(const char *name, const Struct &given, std::size_t least) noexcept {
  constexpr std::size_t kMost = 4096;  // beyond any future version: not a size that anyone has set
  if (given.size >= least && given.size <= kMost) return GRADCORE_OK;
  return fail(GRADCORE_INVALID_ARGUMENT, "%s.size: expected %zu, got %zu", name, sizeof given, given.size);
}

// A caller's configuration as this library knows it. An older caller's struct is shorter; missing members are zero. A
// newer caller's may be longer if the extra members are zero.
template <class Config>
gradcore_status read_config(const Config *given, std::size_t least, Config *config) noexcept {
  if (!given) return fail(GRADCORE_INVALID_ARGUMENT, "config: expected a configuration, got NULL");
  GRADCORE_TRY(check_size("config", *given, least));
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

// Fills a caller's struct, whose size has been checked: members that it does not have are left out, and those that this
// library does not know stay as they are.
template <class Struct>
void give(const Struct &known, Struct *to) noexcept {
  constexpr std::size_t kFirst = sizeof known.size;
  const std::size_t size = to->size < sizeof known ? to->size : sizeof known;
  std::memcpy(reinterpret_cast<char *>(to) + kFirst, reinterpret_cast<const char *>(&known) + kFirst, size - kFirst);
}

}  // namespace gradcore

#endif
