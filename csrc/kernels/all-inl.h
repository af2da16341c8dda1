// All kernel bodies and the table of one target. No include guard: each file in targets/ includes it once.
// clang-format off: the order matters. elementwise-inl.h has the drivers that handle the ends of rows.
#include "kernels/vec.hpp"
#include "kernels/math-inl.h"
#include "kernels/elementwise-inl.h"
#include "kernels/activation-inl.h"
#include "kernels/gemm-inl.h"
#include "kernels/bfloat16-inl.h"
#include "kernels/loss-inl.h"
#include "kernels/normalize-inl.h"
#include "kernels/reduce-inl.h"
#include "kernels/bitcount-inl.h"
#include "kernels/stats-inl.h"
// clang-format on

namespace gradcore::GRADCORE_TARGET {

template <class T>
constexpr KernelSet<T> make_kernel_set() {
  KernelSet<T> set{};
  set.lanes = kLanes<T>;
  fill_products(set);
  fill_activation(set);
  fill_loss(set);
  fill_normalize(set);
  fill_elementwise(set);
  fill_reduce(set);
  fill_stats(set);
  return set;
}

#define GRADCORE_STRING_(x) #x
#define GRADCORE_STRING(x) GRADCORE_STRING_(x)

extern const KernelTable kTable;
// constexpr, because no code of a target may run at load time on a CPU that does not support it.
constexpr KernelTable kTable = {GRADCORE_STRING(GRADCORE_TARGET), make_kernel_set<float>(), make_kernel_set<double>(),
                                rounded_products()};

}  // namespace gradcore::GRADCORE_TARGET
