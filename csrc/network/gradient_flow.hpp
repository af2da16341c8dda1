// The measurements of a recorded pass, taken while each tile is in cache. Sums are kept per tile (or parameter block)
// and merged in order, counts per thread; neither result depends on the threads.
#ifndef GRADCORE_NETWORK_GRADIENT_FLOW_HPP
#define GRADCORE_NETWORK_GRADIENT_FLOW_HPP

#include <vector>

#include "network/workspace.hpp"
#include "ops/parallel.hpp"

namespace gradcore {

template <class T>
class GradientFlow {
 public:
  GradientFlow(const Architecture &net, const KernelSet<T> &kernels, const std::vector<ParamBlock> &blocks);

  // Makes room for a pass of at most so many threads. Keeps the last result, because the pass may still be refused. May
  // throw std::bad_alloc.
  void begin(const RowPlan &plan, int threads);
  // Called by each thread of a pass that is not refused.
  void begin_thread(const Team &team) noexcept;

  // Called by the steps of a pass, on the tile that they have just computed.
  void activation(int l, const LayerState<T> &layer, const Tile &tile) noexcept;   // act(y), act'(y)
  void output(int l, const LayerState<T> &layer, const Tile &tile) noexcept;       // h
  void grad_output(int l, const Tile &tile, const T *grad, index ld) noexcept;     // dL/dh
  void grad_preact(int l, const LayerState<T> &layer, const Tile &tile) noexcept;  // dL/dy in delta
  void delta(int l, const LayerState<T> &layer, const Tile &tile) noexcept;        // dL/dz in delta
  void parameter(index block, int rank, const T *parameters, const T *gradients) noexcept;
  void before_update(index block, const T *parameters) noexcept;  // |W|^2; makes room for update_sumsq
  void parameters_changed() noexcept;
  double *update_sumsq(index block) noexcept { return &block_[block].update_sumsq; }

  // Merges the partial sums into the layers' results. updated: the pass included an optimizer step.
  void finish(bool updated) noexcept;
  // The same for the parameters only, after a separate optimizer step.
  void finish_parameters(bool updated) noexcept;

  int num_layers() const noexcept { return ready_ ? net_.depth() : 0; }
  const gradcore_layer_flow &layer(int l) const noexcept { return result_[l]; }
  void histogram(int l, int which, index *to) const noexcept;  // [kBins]
  static constexpr int kBins = sizeof(T) == 4 ? GRADCORE_NUM_BINS_F32 : GRADCORE_NUM_BINS_F64;

 private:
  struct TileSums {
    StatsSums output, delta;
    long double grad_output_sumsq, grad_preact_sumsq;
    double derivative_sumsq;
    index saturated, act_zeros;
  };
  struct BlockSums {
    StatsSums gradient;
    double update_sumsq;
  };
  TileSums &sums(int l, const Tile &tile) noexcept { return tile_[l * num_sums_ + tile.id]; }
  index *thread_histogram(int l, int which, int rank) noexcept {
    return &thread_histogram_[histogram_at(l, which, rank)];
  }
  index histogram_at(int l, int which, int rank) const noexcept {
    return ((index(rank) * net_.depth() + l) * 2 + which) * kBins;
  }
  unsigned char *nonzero_units(int l, int rank) noexcept { return &nonzero_[rank * units_ + first_unit_[l]]; }
  static constexpr double kUnknown = -1;
  long double finite_squares(index rows, index cols, const T *x, index ld) const noexcept;
  void finish_layer(int l) noexcept;
  void finish_derivative(int l, const TileSums &total) noexcept;

  const Architecture &net_;
  const KernelSet<T> &kernels_;
  const std::vector<ParamBlock> &blocks_;
  index num_sums_ = 0, units_ = 0;
  int threads_ = 0;
  bool ready_ = false;
  std::vector<index> first_unit_;
  std::vector<TileSums> tile_;
  std::vector<BlockSums> block_;
  std::vector<long double> weight_sumsq_;  // of each block, or unknown; measured once until the parameters change
  std::vector<index> thread_histogram_;    // added up on request
  std::vector<unsigned char> nonzero_;
  std::vector<gradcore_layer_flow> result_;
};

}  // namespace gradcore

#endif
