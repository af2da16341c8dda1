// Norms and statistics of whole arrays, safe from overflow and underflow.
#ifndef GRADCORE_OPS_REDUCE_HPP
#define GRADCORE_OPS_REDUCE_HPP

#include <vector>

#include "kernels/kernel_table.hpp"

namespace gradcore {

// L2 norm. NaN if any element is NaN, else infinity if any is infinite.
template <class T>
double norm2(const KernelSet<T> &kernels, index n, const T *x) noexcept;

// The arrays of one call, as the C interface passes them.
template <class T>
struct ArrayList {
  T *const *arrays;
  const index *sizes;
  int count;
};

// A contiguous part of one array; lists are cut into pieces, so that threads can share arrays of any sizes.
template <class T>
struct Piece {
  T *x;
  index n;
};
template <class T>
std::vector<Piece<T>> cut(const ArrayList<T> &list);

// p-norm of all arrays concatenated; p > 0 or infinity. Blocks are summed in order, so the bits do not depend on
// threads. Like cut, may throw std::bad_alloc.
template <class T>
double total_norm(const KernelSet<T> &kernels, const ArrayList<T> &list, double p);

void merge_stats(StatsSums &into, const StatsSums &from) noexcept;
gradcore_array_stats finish_stats(const StatsSums &sums) noexcept;

}  // namespace gradcore

#endif
