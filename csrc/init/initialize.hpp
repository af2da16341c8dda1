// The first weights of a net, by scheme and seed. The same from every language.
#ifndef GRADCORE_INIT_INITIALIZE_HPP
#define GRADCORE_INIT_INITIALIZE_HPP

#include <vector>

#include "network/network.hpp"

namespace gradcore {

// gain^2 for the weights in front of each activation (initialize.cpp: where each comes from).
double critical_gain_squared(int activation) noexcept;

// Fills the weights of every dense layer, sets their biases to zero. Layer l draws from stream l of the seed,
// so that its weights do not depend on the shapes of the others; float weights are the double ones, rounded.
// Both arguments have been checked. May throw std::bad_alloc, before anything has changed.
void initialize(Network &net, int initializer, const std::vector<uint32_t> &seed);

}  // namespace gradcore

#endif
