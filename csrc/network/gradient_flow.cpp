#include "network/gradient_flow.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/reduce.hpp"

namespace gradcore {

namespace {

constexpr double kSaturatedShare = 0.01;  // an entry is saturated if |act'| is below this share of its maximum

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
  first_block_.resize(net.layers.size() + 1, index(blocks.size()));
  for (index i = index(blocks.size()); i-- > 0;) first_block_[blocks[i].layer] = i;
}

template <class T>
void GradientFlow<T>::begin(const RowPlan &plan, int threads) {
  const auto grow = [](auto &list, std::size_t size) {
    if (list.size() < size) list.resize(size);
  };
  const std::size_t depth = std::size_t(net_.depth());
  grow(tile_, std::size_t(plan.num_sums()) * depth);
  grow(block_, blocks_.size());
  grow(histogram_, std::size_t(threads) * depth * 2);
  grow(nonzero_, std::size_t(threads) * std::size_t(units_));
}

template <class T>
void GradientFlow<T>::begin_thread(const RowPlan &plan, const Team &team) noexcept {
  Histogram<T> *own = &histogram_[histogram_at(0, 0, team.rank)];
  for (Histogram<T> *h = own; h < own + net_.depth() * 2; h++) {
    std::fill(h->bins + h->begin, h->bins + h->end, index(0));
    h->begin = h->end = 0;
  }
  std::fill_n(&nonzero_[nonzero_at(0, team.rank)], units_, static_cast<unsigned char>(0));
  if (team.rank != 0) return;
  num_tiles_ = plan.num_sums();
  threads_ = team.size;
}

template <class T>
void GradientFlow<T>::begin_tiles(index first, index count) noexcept {
  std::fill_n(&tile_[first * net_.depth()], count * net_.depth(), TileSums{});
}

template <class T>
void GradientFlow<T>::finish(bool updated) noexcept {
  ready_ = true;
  updated_ = updated;
  weights_known_ = !updated;
}

template <class T>
void GradientFlow<T>::activation(int l, const LayerState<T> &layer, const Tile &tile) noexcept {
  TileSums &to = sums(l, tile);
  const LayerSpec &spec = *layer.spec;
  unsigned char *nonzero = &nonzero_[nonzero_at(l, tile.rank)];
  // Zeros are counted here only with a residual connection; otherwise h is the layer's output, whose statistics count
  // them. Units are checked only until all are known to be alive, which mostly takes a tile or two.
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
                       &histogram_[histogram_at(l, 0, tile.rank)]);
}

template <class T>
void GradientFlow<T>::parameter(index block, int rank, const T *parameters, const T *gradients) noexcept {
  const ParamBlock &b = blocks_[block];
  StatsSums &to = block_[block].gradient = StatsSums{};
  if (b.kind == ParamBlock::weight)
    kernels_.block_stats(1, b.size, gradients + b.offset, b.size, &to, &histogram_[histogram_at(b.layer, 1, rank)]);
  else if (b.kind == ParamBlock::bias)
    to.sumsq = finite_squares(1, b.size, gradients + b.offset, b.size);
  before_update(block, parameters);
}

template <class T>
void GradientFlow<T>::before_update(index block, const T *parameters) noexcept {
  const ParamBlock &b = blocks_[block];
  if (b.kind == ParamBlock::weight && !weights_known_)
    block_[block].weight_sumsq = finite_squares(1, b.size, parameters + b.offset, b.size);
  block_[block].update_sumsq = 0;
}

// ---- reading ----

template <class T>
gradcore_layer_flow GradientFlow<T>::layer(int l) const noexcept {
  const LayerSpec &spec = net_.layers[l];
  const TileSums sums = total(l);
  gradcore_layer_flow to{};
  to.activation = finish_stats(sums.output);
  to.delta = finish_stats(sums.delta);
  // Without a normalization or activation between two points, their norms are equal.
  to.grad_preact_norm = spec.normalization ? double(std::sqrt(sums.grad_preact_sumsq)) : to.delta.norm;
  to.grad_output_norm = spec.hidden ? double(std::sqrt(sums.grad_output_sumsq)) : to.delta.norm;
  to.act_zeros = spec.residual ? sums.act_zeros : to.activation.zeros;
  to.dead_units = spec.hidden ? dead_units(l) : 0;
  add_derivative(l, sums, to);
  add_parameters(l, to);
  return to;
}

template <class T>
typename GradientFlow<T>::TileSums GradientFlow<T>::total(int l) const noexcept {
  TileSums total{};
  for (index t = 0; t < num_tiles_; t++) {
    const TileSums &from = tile_[t * net_.depth() + l];
    merge_stats(total.output, from.output);
    merge_stats(total.delta, from.delta);
    total.grad_output_sumsq += from.grad_output_sumsq;
    total.grad_preact_sumsq += from.grad_preact_sumsq;
    total.derivative_sumsq += from.derivative_sumsq;
    total.saturated += from.saturated;
    total.act_zeros += from.act_zeros;
  }
  return total;
}

template <class T>
index GradientFlow<T>::dead_units(int l) const noexcept {
  index dead = 0;
  for (index c = 0; c < net_.layers[l].out; c++) {
    bool alive = false;
    for (int rank = 0; rank < threads_; rank++) alive |= nonzero_[nonzero_at(l, rank) + c] != 0;
    dead += !alive;
  }
  return dead;
}

template <class T>
void GradientFlow<T>::add_derivative(int l, const TileSums &total, gradcore_layer_flow &to) const noexcept {
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
void GradientFlow<T>::add_parameters(int l, gradcore_layer_flow &to) const noexcept {
  StatsSums weight{};
  long double parameter_sumsq = 0, bias_sumsq = 0;
  double update_sumsq = 0;
  for (index i = first_block_[l]; i < first_block_[l + 1]; i++) {
    const BlockSums &from = block_[i];
    if (blocks_[i].kind == ParamBlock::bias) bias_sumsq += from.gradient.sumsq;
    if (blocks_[i].kind != ParamBlock::weight) continue;
    merge_stats(weight, from.gradient);
    parameter_sumsq += from.weight_sumsq;
    update_sumsq += from.update_sumsq;
  }
  to.weight_grad = finish_stats(weight);
  to.bias_grad_norm = double(std::sqrt(bias_sumsq));
  to.weight_norm = double(std::sqrt(parameter_sumsq));
  to.update_norm = updated_ ? std::sqrt(update_sumsq) : std::numeric_limits<double>::quiet_NaN();
}

template <class T>
void GradientFlow<T>::histogram(int l, int which, index *to) const noexcept {
  std::fill_n(to, Histogram<T>::kBins, index(0));
  for (int rank = 0; rank < threads_; rank++) {
    const Histogram<T> &from = histogram_[histogram_at(l, which, rank)];
    for (index bin = from.begin; bin < from.end; bin++) to[bin] += from.bins[bin];
  }
}

template class GradientFlow<float>;
template class GradientFlow<double>;

}  // namespace gradcore
