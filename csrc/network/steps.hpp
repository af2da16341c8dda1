// The steps of a pass (plan.hpp: Step): what happens to a span of rows, layer by layer. Which thread takes which span,
// and when, is the schedule's business.
#ifndef GRADCORE_NETWORK_STEPS_HPP
#define GRADCORE_NETWORK_STEPS_HPP

#include "network/gradient_flow.hpp"
#include "network/pass.hpp"
#include "network/workspace.hpp"

namespace gradcore {

template <class T>
class Steps {
 public:
  Steps(const Architecture &net, const KernelSet<T> &kernels, Workspace<T> &workspace) noexcept
      : net_(net), kernels_(kernels), workspace_(workspace) {}

  // Before the threads of a pass start, when the workspace is laid out. The request outlives the pass.
  // recorder: null if nothing is recorded. backward_from_panels: products with deltas read packed weights.
  void begin(const PassRequest<T> &request, GradientFlow<T> *recorder, bool backward_from_panels) noexcept {
    request_ = &request;
    recorder_ = recorder;
    backward_from_panels_ = backward_from_panels;
  }
  void run(const Step &step, const Tile &span) const noexcept;

 private:
  template <class F>
  void for_tiles(const Tile &span, F &&f) const noexcept;
  InputView<T> x_of(int l, const Tile &rows) const noexcept;
  void load_input(const Tile &span) const noexcept;
  void forward_dense(int l, const Tile &span) const noexcept;
  void finish_hidden(int l, const Tile &span) const noexcept;
  void store_output(const Tile &span) const noexcept;
  void compute_loss(const Tile &span) const noexcept;
  void load_grad_output(const Tile &span) const noexcept;
  void backward_hidden(int l, const Tile &span) const noexcept;
  void backward_norm(int l, const Tile &span) const noexcept;
  void finish_delta(int l, const Tile &tile) const noexcept;
  void store_grad_input(const Tile &span) const noexcept;
  const RowPlan &plan() const noexcept { return workspace_.shape().plan; }

  const Architecture &net_;
  const KernelSet<T> &kernels_;
  Workspace<T> &workspace_;
  // Of the running pass.
  const PassRequest<T> *request_ = nullptr;
  GradientFlow<T> *recorder_ = nullptr;
  bool backward_from_panels_ = true;
};

}  // namespace gradcore

#endif
