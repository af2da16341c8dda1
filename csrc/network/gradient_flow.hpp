// The measurements of a recorded pass, taken while each tile is in cache. Sums are kept per tile (or parameter block),
// counts per thread; both are merged when they are read, sums in the order of tiles, so that no result depends on the
// threads.
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

  // Makes room for a pass of at most so many threads. Keeps the last pass, because this one may still be refused. May
  // throw std::bad_alloc.
  void begin(const RowPlan &plan, int threads);
  // begin_thread is called by each thread of a pass that is not refused, begin_tiles by the thread that records these
  // tiles, before it does.
  void begin_thread(const RowPlan &plan, const Team &team) noexcept;
  void begin_tiles(index first, index count) noexcept;
  // Called after the pass, or after a separate optimizer step. updated: parameters have changed since `before_update`.
  void finish(bool updated) noexcept;

  // Called by the steps of a pass, on the tile that they have just computed.
  void activation(int l, const LayerState<T> &layer, const Tile &tile) noexcept;   // act(y), act'(y)
  void output(int l, const LayerState<T> &layer, const Tile &tile) noexcept;       // h
  void grad_output(int l, const Tile &tile, const T *grad, index ld) noexcept;     // dL/dh
  void grad_preact(int l, const LayerState<T> &layer, const Tile &tile) noexcept;  // dL/dy in delta
  void delta(int l, const LayerState<T> &layer, const Tile &tile) noexcept;        // dL/dz in delta
  void parameter(index block, int rank, const T *parameters, const T *gradients) noexcept;
  void before_update(index block, const T *parameters) noexcept;  // |W|^2; sets update_sumsq to 0
  void parameters_changed() noexcept { weights_known_ = false; }
  double *update_sumsq(index block) noexcept { return &block_[block].update_sumsq; }

  int num_layers() const noexcept { return ready_ ? net_.depth() : 0; }
  gradcore_layer_flow layer(int l) const noexcept;
  void histogram(int l, int which, index *to) const noexcept;  // [Histogram<T>::kBins]

 private:
  struct TileSums {
    StatsSums output, delta;
    long double grad_output_sumsq, grad_preact_sumsq;
    double derivative_sumsq;
    index saturated, act_zeros;
  };
  struct BlockSums {
    StatsSums gradient;
    long double weight_sumsq;
    double update_sumsq;
  };
  TileSums &sums(int l, const Tile &tile) noexcept { return tile_[tile.id * net_.depth() + l]; }
  index histogram_at(int l, int which, int rank) const noexcept { return (index(rank) * net_.depth() + l) * 2 + which; }
  index nonzero_at(int l, int rank) const noexcept { return rank * units_ + first_unit_[l]; }
  long double finite_squares(index rows, index cols, const T *x, index ld) const noexcept;
  TileSums total(int l) const noexcept;
  index dead_units(int l) const noexcept;
  void add_derivative(int l, const TileSums &total, gradcore_layer_flow &to) const noexcept;
  void add_parameters(int l, gradcore_layer_flow &to) const noexcept;

  const Architecture &net_;
  const KernelSet<T> &kernels_;
  const std::vector<ParamBlock> &blocks_;
  index num_tiles_ = 0, units_ = 0;
  int threads_ = 0;
  bool ready_ = false, updated_ = false;
  bool weights_known_ = false;                   // every BlockSums::weight_sumsq is that of the current parameters
  std::vector<index> first_unit_, first_block_;  // of each layer
  std::vector<TileSums> tile_;                   // [tiles, layers]
  std::vector<BlockSums> block_;
  std::vector<Histogram<T>> histogram_;
  std::vector<unsigned char> nonzero_;
};

}  // namespace gradcore

#endif
