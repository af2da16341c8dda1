// The initial weights of a net, by scheme and seed; the same from every language.
#ifndef GRADCORE_INIT_INITIALIZE_HPP
#define GRADCORE_INIT_INITIALIZE_HPP

#include <vector>

#include "network/network.hpp"

namespace gradcore {

// gain^2 of the weights before each activation (initialize.cpp gives the origin of each).
double critical_gain_squared(int activation) noexcept;

// Draws the weights of every dense layer and sets biases to zero. Layer l draws from stream l of the seed, so its
// weights do not depend on the shapes of other layers; float weights are the rounded double ones. Both arguments have
// been checked. May throw std::bad_alloc before anything has changed.
void initialize(Network &net, int initializer, const std::vector<uint32_t> &seed);

}  // namespace gradcore

#endif
