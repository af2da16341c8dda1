// Optimizer state and the update of one block of parameters. The formulas are PyTorch's
// (kernels/elementwise-inl.h); clipping is folded into the load of the gradient.
#ifndef GRADCORE_NETWORK_OPTIMIZER_HPP
#define GRADCORE_NETWORK_OPTIMIZER_HPP

#include "network/workspace.hpp"

namespace gradcore {

template <class T>
class Optimizer {
 public:
  // `size` elements of state; may throw std::bad_alloc. The configuration has been checked.
  Optimizer(const gradcore_optimizer_config &config, index size);

  int num_states() const noexcept;
  T *state(int i) const noexcept { return static_cast<T *>(states_[i].data()); }

  // How the gradients of a step are clipped while they are loaded.
  struct Clip {
    double coef = 1;   // from the total norm
    double value = 0;  // 0: none
  };
  // Updates `block` of the parameters in step number step + 1. update_sumsq may be null.
  void update(const KernelSet<T> &kernels, const ParamBlock &block, T *parameters, const T *gradients, const Clip &clip,
              double *update_sumsq) const noexcept;

  gradcore_optimizer_config config;
  index step = 0;  // updates done

 private:
  AlignedBuffer states_[2];
};

}  // namespace gradcore

#endif
