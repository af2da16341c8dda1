// Runs passes: which thread takes which rows through which steps, where threads meet, and how parameter gradients,
// their norms and the update follow. One fork and join per call.
#ifndef GRADCORE_NETWORK_SCHEDULE_HPP
#define GRADCORE_NETWORK_SCHEDULE_HPP

#include <atomic>
#include <vector>

#include "network/pass.hpp"
#include "network/phases.hpp"
#include "network/steps.hpp"

namespace gradcore {

template <class T>
class Schedule {
 public:
  using Element = T;
  // The flat buffers outlive the schedule. May throw std::bad_alloc.
  Schedule(const Architecture &net, const KernelSet<T> &kernels, T *parameters, T *gradients, T *buffers);

  // May throw std::bad_alloc, before anything has changed.
  PassResult run(const PassRequest<T> &request);
  // Only norm, clipping and update, from the current gradients.
  PassResult update(const PassRequest<T> &request);

  void parameters_changed() noexcept {
    forward_packed_ = read_in_place_ = false;
    backward_packed_ = index(strips_.size());
    flow_.parameters_changed();
  }
  const GradientFlow<T> &flow() const noexcept { return flow_; }
  index workspace_bytes() const noexcept { return workspace_.bytes(); }

 private:
  // The rows of a chunk, and the destination of its parameter gradients.
  struct Chunk {
    Tile tile;
    T *gradients;  // a flat buffer
    bool accumulate, is_last;
  };
  void begin_run() noexcept;
  void run_thread(const PassRequest<T> &request, const Team &team) noexcept;
  void prologue(const PassRequest<T> &request, Phases &phases) noexcept;
  void pack(const ParamBlock &strip, bool forward) noexcept;
  void run_shared_chunks(const PassRequest<T> &request, Phases &phases) noexcept;
  void run_groups(const PassRequest<T> &request, Phases &phases) noexcept;
  void run_group(const PassRequest<T> &request, index group, int rank) noexcept;
  void run_chunk(const PassRequest<T> &request, const Chunk &chunk, Phases &phases) noexcept;
  void run_spans(const Stage &stage, const Tile &chunk, const Share &tiles) noexcept;
  void merge(const Stage &stage, const Team &team) noexcept;
  void fill_early(const PassRequest<T> &request, const Stage &stage, const Chunk &chunk, Phases &phases) noexcept;
  void fill_gradient(const PassRequest<T> &request, index block, int next_layer, const Chunk &chunk) noexcept;
  void add_gradient(const ParamBlock &block, int next_layer, const Chunk &chunk) noexcept;
  void add_norm_gradient(const ParamBlock &block, const Chunk &chunk) noexcept;
  void measure_gradient(const PassRequest<T> &request, index block, int rank) noexcept;
  Tile chunk_tile(index chunk, index id, index first, index piece, int rank) const noexcept {
    const index row = chunk * plan().chunk_rows, left = plan().rows - row;
    return {id, first, piece, row, left < plan().chunk_rows ? left : plan().chunk_rows, rank};
  }
  void update_parameters(const PassRequest<T> &request, Phases &phases) noexcept;
  double total_norm() const noexcept;
  index first_backward_strip(PassKind kind) const noexcept;
  void choose_panels(const PassRequest<T> &request, int threads) noexcept;
  int threads_for_pass(const PassRequest<T> &request, const RowPlan &plan) const noexcept;
  int tuned(TeamTuner &tuner, int threads, const PassRequest<T> &request) noexcept;
  double tile_losses() const noexcept;
  const RowPlan &plan() const noexcept { return workspace_.shape().plan; }  // of the running pass

  const Architecture &net_;
  const KernelSet<T> &kernels_;
  T *const parameters_, *const gradients_;
  const std::vector<ParamBlock> blocks_;
  Program programs_[kNumPassKinds];
  std::vector<index> strips_;  // the blocks that are parts of weights, in the order of layers
  Workspace<T> workspace_;
  GradientFlow<T> flow_;
  Steps<T> steps_;
  const bool packs_past_caches_;
  std::vector<double> block_sumsq_;
  Claims claims_;
  TeamTuner pass_tuners_[kNumPassKinds], update_tuner_;
  GradientFlow<T> *recorder_ = nullptr;  // of the running pass
  PassResult result_;
  std::atomic<bool> input_finite_{true};
  bool forward_packed_ = false;
  index backward_packed_;             // panels for backward products are packed from this strip on
  bool backward_from_panels_ = true;  // in this pass
  bool packing_pays_ = true;          // whether packing W for the backward product pays in such passes
  bool read_in_place_ = false;        // a backward pass has read the current weights in place
};

}  // namespace gradcore

#endif
