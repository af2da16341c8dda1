// Memory of a pass: saved activations, deltas, statistics, packed weights. It grows for larger passes and never
// shrinks, so that only the first step allocates.
#ifndef GRADCORE_NETWORK_WORKSPACE_HPP
#define GRADCORE_NETWORK_WORKSPACE_HPP

#include <numeric>
#include <vector>

#include "network/plan.hpp"
#include "ops/gemm.hpp"

namespace gradcore {

// 64-byte aligned memory; for large blocks, the operating system is asked for huge pages.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(const AlignedBuffer &) = delete;
  AlignedBuffer &operator=(const AlignedBuffer &) = delete;
  ~AlignedBuffer();

  // Grows to at least `bytes`, losing its contents. If it throws std::bad_alloc, the old memory is kept.
  void reserve(std::size_t bytes);
  void *data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void *data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Rows that one thread works on: a tile, a span of neighbouring ones, or a whole chunk.
struct Tile {
  index id;         // of the tile, for its sums; for a span, of its first tile
  index first;      // row within the workspace
  index piece;      // the piece of the workspace's rows that it lies in
  index batch_row;  // row within the batch
  index count;
  int rank;           // of the thread
  index in_span = 0;  // row within the span
};

// Elements between the rows of one thread and those of the next. Without the gap, the hardware prefetch of one thread
// would take away lines that the other is about to write (b32 w64 d10: 1.02 times as fast with it).
template <class T>
inline constexpr index kPieceGap = 1024 / index(sizeof(T));

// Rows to read, of the workspace or of the caller.
template <class T>
struct InputView {
  const T *data = nullptr;
  index stride = 0;
  InputView from_row(index row) const noexcept { return {data + row * stride, stride}; }
};

// A row-major matrix: either one row for each row of the workspace, in pieces, or one span for each thread.
template <class T>
struct Matrix {
  T *data = nullptr;
  index ld = 0;
  index rank_stride = 0;  // elements from one thread's span to the next; 0: a row for each of the workspace

  T *rows(const Tile &tile) const noexcept {
    return data +
           (rank_stride ? tile.rank * rank_stride + tile.in_span * ld : tile.first * ld + tile.piece * kPieceGap<T>);
  }
  InputView<T> view(const Tile &tile) const noexcept { return {rows(tile), ld}; }
};

// The data of one layer: pointers into the net's flat buffers and the workspace.
template <class T>
struct LayerState {
  const LayerSpec *spec;
  const T *weight, *bias, *gamma, *beta;
  T *running_mean, *running_var;

  Matrix<T> x;         // input of the dense part; none in the first layer in inference, which reads the caller's rows
  Matrix<T> z;         // output of the dense part; the memory of h, unless a normalization follows in training
  Matrix<T> h;         // the layer's output: x of the next layer; in training, that of the last layer is delta
  Matrix<T> delta;     // forward: act'(y) if saved; backward: dL/dy, then dL/dz
  Matrix<T> grad_out;  // dL/dh, where it cannot be computed in delta
  bool saves_derivative;

  // x and delta as operands of products: by columns for the weight gradient, by rows for the others. Without rounding
  // these are x and delta themselves. With rounding they are copies: by columns and, if an element holds two terms,
  // also by rows, in a buffer that all layers share.
  Matrix<T> x_rows, delta_rows, x_columns, delta_columns;
  Matrix<T> packed_delta;  // a buffer for each thread, shared by all layers; no data if delta is not packed

  // Batch norm, [out] each: y = (z - mean) * scale + shift; then the sums of the backward pass over the batch.
  T *mean, *mean_rest, *inv_std, *scale, *shift;
  T *sum_dy, *sum_dy_xhat, *mean_dy, *mean_dy_xhat;
  Matrix<T> row_mean, row_inv_std;  // layer and rms norm: one number per row
  T *partials;                      // vectors [partial_ld] of each tile: moments forward, sums backward
  index partial_ld;
  static constexpr index kPartials = 3;
  T *partial(index tile) const noexcept { return partials + tile * kPartials * partial_ld; }

  T *forward_panels, *backward_panels;  // packed weights
};

// What determines the layout of the workspace. `training`: whole chunks are kept for the backward pass.
struct WorkspaceShape {
  RowPlan plan;
  int threads;  // at most
  int team;     // threads of the forward pass
  bool training, record;

  // Pieces of the rows: one per thread if their shares are equal, else fewer.
  index num_pieces() const noexcept { return plan.shares_chunks() ? std::gcd(plan.max_tiles(), index(team)) : threads; }

  // The same for the team of at most `most` threads that needs the most memory.
  WorkspaceShape largest(int most) const noexcept {
    WorkspaceShape shape = *this;
    for (shape.team = most; plan.max_tiles() % shape.team != 0;) shape.team--;
    return shape;
  }

  bool operator==(const WorkspaceShape &other) const noexcept {
    return plan.rows == other.plan.rows && plan.chunk_rows == other.plan.chunk_rows &&
           plan.tile_rows == other.plan.tile_rows && plan.span_tiles == other.plan.span_tiles &&
           plan.groups == other.plan.groups && threads == other.threads && team == other.team &&
           training == other.training && record == other.record;
  }
};

template <class T>
class Workspace {
 public:
  Workspace(const Architecture &net, const KernelSet<T> &kernels, T *parameters, T *buffers);

  // Lays out the matrices for a pass. The memory suffices for passes of all teams of at most `most_team` threads, as
  // TeamTuner may choose another one for the next call. May throw std::bad_alloc; the packed weights are unchanged.
  void prepare(const WorkspaceShape &shape, int most_team);

  std::vector<LayerState<T>> layers;
  std::vector<double> tile_loss;  // [num_sums]: over the chunks
  T *group_gradients = nullptr;   // [groups, flat_size], where chunks are not shared

  // The layout of a chunk's rows; with `pairs`, that of x_columns and delta_columns.
  Pieces pieces(int pairs = 0) const noexcept { return {piece_tiles() * shape_.plan.tile_rows >> pairs, kPieceGap<T>}; }
  index piece_tiles() const noexcept {
    return shape_.plan.max_tiles() / (shape_.plan.shares_chunks() ? shape_.num_pieces() : 1);
  }
  const WorkspaceShape &shape() const noexcept { return shape_; }
  index bytes() const noexcept { return index(packed_.bytes() + rows_.bytes()); }

 private:
  void place_rows(const WorkspaceShape &shape, class Arena &arena) noexcept;

  const Architecture &net_;
  const KernelSet<T> &kernels_;
  AlignedBuffer packed_, rows_;
  WorkspaceShape shape_{};
};

}  // namespace gradcore

#endif
