#include "network/gradient_flow.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/reduce.hpp"

namespace gradcore {

namespace {

constexpr double kSaturatedShare = 0.01;  // share of the largest |act'|, below which an entry is saturated

// The largest |act'| of each gradcore_activation. selu: lambda * alpha, at 0-; gelu at sqrt 2, gelu_tanh at 1.4185,
// silu at 2.3994, mish at 1.4906 (tests/test_flow.py checks them all).
constexpr double kMaxDerivative[GRADCORE_NUM_ACTIVATIONS] = {1.0,
                                                             1.0,
                                                             1.0,
                                                             1.0,
                                                             1.7580993408473766,
                                                             1.1289041451478552,
                                                             1.1289930686587718,
                                                             1.0998393201288669,
                                                             1.0884981612517279,
                                                             1.0,
                                                             1.0,
                                                             1.0,
                                                             0.25};

}  // namespace

template <class T>
GradientFlow<T>::GradientFlow(const Architecture &net, const KernelSet<T> &kernels,
                              const std::vector<ParamBlock> &blocks)
    : net_(net), kernels_(kernels), blocks_(blocks) {
  for (const LayerSpec &layer : net.layers) {
    first_unit_.push_back(units_);
    units_ += layer.out;
  }
}

template <class T>
void GradientFlow<T>::begin(const RowPlan &plan, int threads) {
  num_sums_ = plan.num_sums();
  const std::size_t depth = std::size_t(net_.depth());
  tile_.assign(depth * std::size_t(num_sums_), TileSums{});
  block_.resize(blocks_.size());
  weight_sumsq_.resize(blocks_.size(), kUnknown);
  const auto grow = [&](auto &per_thread, std::size_t size) {
    if (per_thread.size() < std::size_t(threads) * size) per_thread.resize(std::size_t(threads) * size);
  };
  grow(thread_histogram_, depth * 2 * kBins);
  grow(nonzero_, std::size_t(units_));
  result_.resize(depth);
}

template <class T>
void GradientFlow<T>::begin_thread(const Team &team) noexcept {
  std::fill_n(thread_histogram(0, 0, team.rank), net_.depth() * 2 * kBins, index(0));
  std::fill_n(nonzero_units(0, team.rank), units_, static_cast<unsigned char>(0));
  if (team.rank == 0) threads_ = team.size;
}

template <class T>
void GradientFlow<T>::histogram(int l, int which, index *to) const noexcept {
  std::fill_n(to, kBins, index(0));
  for (int rank = 0; rank < threads_; rank++) {
    const index *from = &thread_histogram_[histogram_at(l, which, rank)];
    for (int bin = 0; bin < kBins; bin++) to[bin] += from[bin];
  }
}

template <class T>
void GradientFlow<T>::activation(int l, const LayerState<T> &layer, const Tile &tile) noexcept {
  TileSums &to = sums(l, tile);
  const LayerSpec &spec = *layer.spec;
  unsigned char *nonzero = nonzero_units(l, tile.rank);
  // Zeros are needed only with a residual connection; otherwise h is the layer's output, whose statistics count them.
  // Units are needed only until all are known to be alive, mostly after a tile or two.
  if (spec.residual || std::memchr(nonzero, 0, std::size_t(spec.out)))
    kernels_.column_nonzero(tile.count, spec.out, layer.h.rows(tile), layer.h.ld, nonzero, &to.act_zeros);
  if (layer.saves_derivative)
    kernels_.derivative_stats(tile.count, spec.out, layer.delta.rows(tile), layer.delta.ld,
                              T(kSaturatedShare * kMaxDerivative[spec.activation]), &to.derivative_sumsq,
                              &to.saturated);
}

template <class T>
void GradientFlow<T>::output(int l, const LayerState<T> &layer, const Tile &tile) noexcept {
  kernels_.block_stats(tile.count, layer.spec->out, layer.h.rows(tile), layer.h.ld, &sums(l, tile).output, nullptr);
}

// Sum of the squares of the finite elements, as in block_stats, but mostly at a third of its cost.
template <class T>
long double GradientFlow<T>::finite_squares(index rows, index cols, const T *x, index ld) const noexcept {
  const double sum = kernels_.sum_of_squares(rows, cols, x, ld);
  if (kept_digits(sum)) return sum;
  StatsSums sums{};
  kernels_.block_stats(rows, cols, x, ld, &sums, nullptr);
  return sums.sumsq;
}

template <class T>
void GradientFlow<T>::grad_output(int l, const Tile &tile, const T *grad, index ld) noexcept {
  sums(l, tile).grad_output_sumsq += finite_squares(tile.count, net_.layers[l].out, grad, ld);
}

template <class T>
void GradientFlow<T>::grad_preact(int l, const LayerState<T> &layer, const Tile &tile) noexcept {
  sums(l, tile).grad_preact_sumsq +=
      finite_squares(tile.count, layer.spec->out, layer.delta.rows(tile), layer.delta.ld);
}

template <class T>
void GradientFlow<T>::delta(int l, const LayerState<T> &layer, const Tile &tile) noexcept {
  kernels_.block_stats(tile.count, layer.spec->out, layer.delta.rows(tile), layer.delta.ld, &sums(l, tile).delta,
                       thread_histogram(l, 0, tile.rank));
}

template <class T>
void GradientFlow<T>::parameter(index block, int rank, const T *parameters, const T *gradients) noexcept {
  const ParamBlock &b = blocks_[block];
  StatsSums &to = block_[block].gradient = StatsSums{};
  if (b.kind == ParamBlock::weight)
    kernels_.block_stats(1, b.size, gradients + b.offset, b.size, &to, thread_histogram(b.layer, 1, rank));
  else if (b.kind == ParamBlock::bias)
    to.sumsq = finite_squares(1, b.size, gradients + b.offset, b.size);
  before_update(block, parameters);
}

template <class T>
void GradientFlow<T>::before_update(index block, const T *parameters) noexcept {
  const ParamBlock &b = blocks_[block];
  if (b.kind == ParamBlock::weight && weight_sumsq_[block] == kUnknown)
    weight_sumsq_[block] = finite_squares(1, b.size, parameters + b.offset, b.size);
  block_[block].update_sumsq = 0;
}

template <class T>
void GradientFlow<T>::parameters_changed() noexcept {
  std::fill(weight_sumsq_.begin(), weight_sumsq_.end(), kUnknown);
}

template <class T>
void GradientFlow<T>::finish(bool updated) noexcept {
  std::fill(result_.begin(), result_.end(), gradcore_layer_flow{});
  for (int l = 0; l < net_.depth(); l++) finish_layer(l);
  finish_parameters(updated);
  ready_ = true;
}

template <class T>
void GradientFlow<T>::finish_layer(int l) noexcept {
  gradcore_layer_flow &to = result_[l];
  const LayerSpec &spec = net_.layers[l];
  TileSums total{};
  for (index t = 0; t < num_sums_; t++) {
    const TileSums &from = tile_[l * num_sums_ + t];
    merge_stats(total.output, from.output);
    merge_stats(total.delta, from.delta);
    total.grad_output_sumsq += from.grad_output_sumsq;
    total.grad_preact_sumsq += from.grad_preact_sumsq;
    total.derivative_sumsq += from.derivative_sumsq;
    total.saturated += from.saturated;
    total.act_zeros += from.act_zeros;
  }
  to.activation = finish_stats(total.output);
  to.delta = finish_stats(total.delta);
  // Without a normalization or activation between two points, their norms are equal.
  to.grad_preact_norm = spec.normalization ? double(std::sqrt(total.grad_preact_sumsq)) : to.delta.norm;
  to.grad_output_norm = spec.hidden ? double(std::sqrt(total.grad_output_sumsq)) : to.delta.norm;
  to.act_zeros = spec.residual ? total.act_zeros : to.activation.zeros;
  finish_derivative(l, total);
  if (!spec.hidden) return;
  unsigned char *alive = nonzero_units(l, 0);
  for (int rank = 1; rank < threads_; rank++)
    for (index c = 0; c < spec.out; c++) alive[c] |= nonzero_units(l, rank)[c];
  to.dead_units = std::count(alive, alive + spec.out, 0);
}

template <class T>
void GradientFlow<T>::finish_derivative(int l, const TileSums &total) noexcept {
  gradcore_layer_flow &to = result_[l];
  const int activation = net_.layers[l].hidden ? net_.layers[l].activation : GRADCORE_IDENTITY;
  const double count = double(to.activation.count);
  double sumsq = total.derivative_sumsq;
  to.saturated = total.saturated;
  if (activation == GRADCORE_IDENTITY) sumsq = count;
  if (activation == GRADCORE_RELU) {  // the derivative is 0 where h is 0, else 1
    to.saturated = to.act_zeros;
    sumsq = count - double(to.act_zeros);
  }
  to.mean_squared_derivative = sumsq / count;
}

template <class T>
void GradientFlow<T>::finish_parameters(bool updated) noexcept {
  std::size_t block = 0;
  for (int l = 0; l < net_.depth(); l++) {
    gradcore_layer_flow &to = result_[l];
    StatsSums weight{};
    long double parameter_sumsq = 0, bias_sumsq = 0;
    double update_sumsq = 0;
    for (; block < blocks_.size() && blocks_[block].layer == l; block++) {
      const BlockSums &from = block_[block];
      if (blocks_[block].kind == ParamBlock::bias) bias_sumsq += from.gradient.sumsq;
      if (blocks_[block].kind != ParamBlock::weight) continue;
      merge_stats(weight, from.gradient);
      parameter_sumsq += weight_sumsq_[block];
      update_sumsq += from.update_sumsq;
    }
    to.weight_grad = finish_stats(weight);
    to.bias_grad_norm = double(std::sqrt(bias_sumsq));
    to.weight_norm = double(std::sqrt(parameter_sumsq));
    to.update_norm = updated ? std::sqrt(update_sumsq) : std::numeric_limits<double>::quiet_NaN();
  }
  if (updated) parameters_changed();
}

template class GradientFlow<float>;
template class GradientFlow<double>;

}  // namespace gradcore
