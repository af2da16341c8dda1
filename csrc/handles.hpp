// What the opaque handles of the C interface point to, and what all of its functions share.
#ifndef GRADCORE_HANDLES_HPP
#define GRADCORE_HANDLES_HPP

#include <new>

#include "error.hpp"
#include "network/network.hpp"

struct gradcore_net : gradcore::Network {
  using Network::Network;
};
struct gradcore_optimizer : gradcore::NetOptimizer {
  using NetOptimizer::NetOptimizer;
};

namespace gradcore {

// Runs a call that may throw; the only exception the core lets through is std::bad_alloc.
template <class F>
gradcore_status guarded(F &&call) noexcept {
  try {
    return call();
  } catch (const std::bad_alloc &) {
    return fail(GRADCORE_OUT_OF_MEMORY, "out of memory; nothing was changed");
  } catch (...) {
    return fail(GRADCORE_INTERNAL, "internal error");
  }
}

inline gradcore_status null_argument(const char *name) noexcept {
  return fail(GRADCORE_INVALID_ARGUMENT, "%s: expected a pointer, got NULL", name);
}

}  // namespace gradcore

#endif
