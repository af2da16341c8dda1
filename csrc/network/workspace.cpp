#include "network/workspace.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "ops/gemm.hpp"

namespace gradcore {

namespace {

constexpr std::size_t kHugePage = std::size_t(2) << 20;

// Row strides are an odd number of cache lines. With a power of two, all rows of a column panel would map to the same
// few sets of the L1 cache.
template <class T>
index row_stride(index cols) noexcept {
  const index line = kCacheLine / sizeof(T);
  const index lines = (cols + line - 1) / line;
  return (lines | 1) * line;
}

}  // namespace

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

void AlignedBuffer::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void *data = std::aligned_alloc(alignment, rounded);
  if (!data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
#endif
  std::memset(data, 0, rounded);
  std::free(data_);
  data_ = data;
  bytes_ = rounded;
}

// Hands out 64-byte aligned parts of a block, or only adds up their sizes if there is no block yet.
class Arena {
 public:
  explicit Arena(void *base) : base_(static_cast<char *>(base)) {}

  template <class T>
  T *take(index count) noexcept {
    char *piece = base_ ? base_ + used_ : nullptr;
    used_ += (std::size_t(count) * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return reinterpret_cast<T *>(piece);
  }
  // A matrix of `rows` rows in `pieces` pieces.
  template <class T>
  Matrix<T> matrix(index rows, index pieces, index ld) noexcept {
    return {take<T>(rows * ld + (pieces - 1) * kPieceGap<T>), ld, 0};
  }
  // A span for each thread.
  template <class T>
  Matrix<T> scratch(index span_rows, int threads, index ld) noexcept {
    const index stride = span_rows * ld + kPieceGap<T>;
    return {take<T>(threads * stride), ld, stride};
  }
  std::size_t used() const noexcept { return used_; }

 private:
  char *base_;
  std::size_t used_ = 0;
};

template <class T>
Workspace<T>::Workspace(const Architecture &net, const KernelSet<T> &kernels, T *parameters, T *buffers)
    : net_(net), kernels_(kernels) {
  const auto parameter = [&](int i) { return i < 0 ? nullptr : parameters + net.parameters[i].offset; };
  const auto buffer = [&](int i) { return i < 0 ? nullptr : buffers + net.buffers[i].offset; };
  for (const LayerSpec &spec : net.layers) {
    LayerState<T> layer{};
    layer.spec = &spec;
    layer.weight = parameter(spec.weight);
    layer.bias = parameter(spec.bias);
    layer.gamma = parameter(spec.norm_weight);
    layer.beta = parameter(spec.norm_bias);
    layer.running_mean = buffer(spec.running_mean);
    layer.running_var = buffer(spec.running_var);
    layers.push_back(layer);
  }
  const auto place = [&](Arena arena) {
    for (LayerState<T> &layer : layers) {
      layer.forward_panels = arena.take<T>(packed_size(kernels, layer.spec->in, layer.spec->out));
      layer.backward_panels = arena.take<T>(packed_size(kernels, layer.spec->out, layer.spec->in));
    }
    return arena.used();
  };
  packed_.reserve(place(Arena(nullptr)));
  place(Arena(packed_.data()));
}

template <class T>
void Workspace<T>::prepare(const WorkspaceShape &shape, int most_team) {
  std::fill(tile_loss.begin(), tile_loss.end(), 0.0);
  if (shape == shape_) return;
  shape_ = WorkspaceShape{};  // until everything is in place, because reserve may throw
  Arena measure(nullptr);
  place_rows(shape.largest(most_team), measure);
  rows_.reserve(measure.used());
  tile_loss.assign(std::size_t(shape.plan.num_sums()), 0.0);
  Arena arena(rows_.data());
  place_rows(shape, arena);
  shape_ = shape;
}

template <class T>
void Workspace<T>::place_rows(const WorkspaceShape &shape, Arena &arena) noexcept {
  const RowPlan &plan = shape.plan;
  const index chunk = plan.chunk_rows * (plan.shares_chunks() ? 1 : shape.threads),
              span = plan.span_tiles * plan.tile_rows;
  const auto rows = [&](index cols) { return arena.matrix<T>(chunk, shape.num_pieces(), row_stride<T>(cols)); };
  const auto scratch = [&](index cols) { return arena.scratch<T>(span, shape.threads, row_stride<T>(cols)); };
  // Inference needs only the input and the output of one layer at a time.
  Matrix<T> alternate[2];
  if (!shape.training)
    for (Matrix<T> &m : alternate) m = scratch(net_.max_outputs());
  const bool rounds = kernels_.round != nullptr;
  const auto columns = [&](index cols) {
    return arena.matrix<T>(kernels_.elements(chunk), shape.num_pieces(), row_stride<T>(cols));
  };
  // h is rounded for a product in the same stage, so for one span; delta for a product in the next stage, so for all
  // rows.
  Matrix<T> x_rows, delta_rows;
  // With one term per element, the copy by columns serves both.
  const bool by_rows = rounds && (kernels_.pairs || !shape.training);
  if (by_rows) x_rows = scratch(kernels_.elements(net_.max_width()));
  if (by_rows && shape.training) delta_rows = rows(kernels_.elements(net_.max_outputs()));
  Matrix<T> packed_delta;
  if (shape.training && packs_delta(kernels_, net_.max_width()))
    packed_delta = arena.scratch<T>(kPackedRows, shape.threads, kPackedColumns);
  // With residual connections, dL/dh outlives a layer's step, and all spans take a step before the next one begins.
  Matrix<T> grad_out;
  if (shape.training) grad_out = net_.any_residual ? rows(net_.max_outputs()) : scratch(net_.max_outputs());

  group_gradients = arena.take<T>(plan.shares_chunks() ? 0 : plan.groups * net_.flat_size);
  Matrix<T> x;
  if (shape.training) x = rows(net_.in_features());
  for (int l = 0; l < net_.depth(); l++) {
    LayerState<T> &layer = layers[l];
    const LayerSpec &spec = *layer.spec;
    layer.x = x;
    layer.grad_out = grad_out;
    layer.packed_delta = packed_delta;
    layer.saves_derivative = shape.training && spec.activation != GRADCORE_IDENTITY &&
                             (!spec.slope_from_output() || (shape.record && spec.activation != GRADCORE_RELU));
    if (shape.training) {
      layer.delta = rows(spec.out);
      layer.h = spec.hidden ? rows(spec.out) : layer.delta;
      layer.z = spec.normalization ? rows(spec.out) : layer.h;
    } else {
      layer.h = layer.z = alternate[(l + 1) % 2];
    }
    layer.x_columns = !rounds ? layer.x : shape.training ? columns(spec.in) : Matrix<T>{};
    layer.x_rows = by_rows ? x_rows : layer.x_columns;
    layer.delta_columns = !rounds ? layer.delta : shape.training ? columns(spec.out) : Matrix<T>{};
    layer.delta_rows = by_rows ? delta_rows : layer.delta_columns;
    const index num_columns = spec.batch_norm() ? spec.out : 0;
    for (T **vector : {&layer.mean, &layer.mean_rest, &layer.inv_std, &layer.scale, &layer.shift, &layer.sum_dy,
                       &layer.sum_dy_xhat, &layer.mean_dy, &layer.mean_dy_xhat})
      *vector = arena.take<T>(num_columns);
    if (spec.row_norm())
      for (Matrix<T> *numbers : {&layer.row_mean, &layer.row_inv_std})
        *numbers =
            shape.training ? arena.matrix<T>(chunk, shape.num_pieces(), 1) : arena.scratch<T>(span, shape.threads, 1);
    layer.partial_ld = row_stride<T>(spec.out);
    const bool needs_partials = spec.normalization && shape.training;
    layer.partials = arena.take<T>(needs_partials ? plan.num_sums() * layer.kPartials * layer.partial_ld : 0);
    x = layer.h;
  }
}

template class Workspace<float>;
template class Workspace<double>;

}  // namespace gradcore
