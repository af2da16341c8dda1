// The measured limits of one core with one target's vectors.
#ifndef GRADCORE_BENCH_ROOF_HPP
#define GRADCORE_BENCH_ROOF_HPP

#include <cstdint>

#include "kernels/kernel_table.hpp"

namespace gradcore::bench {

// roof-inl.h as compiled for one target.
template <class T>
struct RoofLoops {
  index fmas_a_step;  // in fma_chains
  double (*fma_chains)(index steps);
  double (*read_all)(index n, const T *p);  // n: a multiple of eight vectors
  void (*negate_all)(index n, T *p);
};

// Loops of the target in use (GRADCORE_TARGET in the environment).
template <class T>
RoofLoops<T> roof_loops();

}  // namespace gradcore::bench

#endif
