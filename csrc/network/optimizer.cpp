#include "network/optimizer.hpp"

#include <cmath>
#include <limits>

namespace gradcore {

template <class T>
Optimizer<T>::Optimizer(const gradcore_optimizer_config &config, index size) : config(config) {
  for (int i = 0; i < num_states(); i++) states_[i].reserve(std::size_t(size) * sizeof(T));
}

template <class T>
int Optimizer<T>::num_states() const noexcept {
  switch (config.kind) {
    case GRADCORE_SGD:
      return config.momentum != 0 ? 1 : 0;
    case GRADCORE_RMSPROP:
      return config.momentum != 0 ? 2 : 1;
    default:
      return 2;
  }
}

template <class T>
void Optimizer<T>::update(const KernelSet<T> &kernels, const ParamBlock &block, T *parameters, const T *gradients,
                          const Clip &clip, double *update_sumsq) const noexcept {
  const double t = double(step + 1);
  const auto state = [&](int i) { return i < num_states() ? this->state(i) + block.offset : nullptr; };
  UpdateArgs<T> args{};
  args.n = block.size;
  args.param = parameters + block.offset;
  args.grad = gradients + block.offset;
  args.state0 = state(0);
  args.state1 = state(1);
  args.lr = config.lr;
  args.momentum = config.momentum;
  args.weight_decay = config.weight_decay;
  args.alpha = config.alpha;
  args.beta1 = config.beta1;
  args.beta2 = config.beta2;
  args.eps = config.eps;
  args.bias1 = 1 - std::pow(config.beta1, t);
  args.bias2 = 1 - std::pow(config.beta2, t);
  args.clip_coef = clip.coef;
  args.clip_value = clip.value > 0 ? clip.value : std::numeric_limits<double>::infinity();
  args.nesterov = config.nesterov != 0;
  args.first = step == 0;
  args.update_sumsq = update_sumsq;
  kernels.update[config.kind](args);
}

template class Optimizer<float>;
template class Optimizer<double>;

}  // namespace gradcore
