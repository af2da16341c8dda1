#include "network/schedule.hpp"

#include <algorithm>
#include <cmath>

#include "layers/activation.hpp"
#include "layers/batch_norm.hpp"
#include "layers/dense.hpp"
#include "layers/layer_norm.hpp"
#include "ops/clip.hpp"

namespace gradcore {

namespace {

bool is_training(PassKind kind) noexcept { return kind != PassKind::inference && kind != PassKind::inference_loss; }
bool has_forward(PassKind kind) noexcept { return kind != PassKind::backward && kind != PassKind::backward_to_input; }
bool has_backward(PassKind kind) noexcept { return kind == PassKind::gradient || !has_forward(kind); }

// Bytes of parameters that stay in a cache; gradients, moments and panels make it six times as much.
constexpr double kCachedParameters = 4e6;

}  // namespace

template <class T>
Schedule<T>::Schedule(const Architecture &net, const KernelSet<T> &kernels, T *parameters, T *gradients, T *buffers)
    : net_(net),
      kernels_(kernels),
      parameters_(parameters),
      gradients_(gradients),
      blocks_(plan_params(net, kernels.lanes, kernels.tile_vectors)),
      workspace_(net, kernels, parameters, buffers),
      flow_(net, kernels, blocks_),
      packs_past_caches_(double(sizeof(T)) * double(net.flat_size) > kCachedParameters),
      block_sumsq_(blocks_.size()),
      claims_(blocks_, net.depth()) {
  for (int kind = 0; kind < kNumPassKinds; kind++) programs_[kind] = plan_program(net, PassKind(kind));
  for (index i = 0; i < index(blocks_.size()); i++)
    if (blocks_[i].kind == ParamBlock::weight) strips_.push_back(i);
}

template <class T>
int Schedule<T>::threads_for_pass(const PassRequest<T> &request) const noexcept {
  const double passes = request.kind == PassKind::gradient ? 3 : has_backward(request.kind) ? 2 : 1;
  const double flops =
      passes * net_.forward_flops_per_row() * double(request.rows) / kernels_.terms();  // a pair takes the time of one
  const int by_rows = threads_for(flops, plan_.shares_chunks() ? plan_.max_tiles() : plan_.groups);
  if (!has_backward(request.kind) || !plan_.shares_chunks()) return by_rows;
  // Weight gradients, a third of the work, are cut by parameters and can use more threads than there are tiles. These
  // fetch all their data from other cores, so they pay only with twice as much work each (bench/experiments.md).
  return std::max(by_rows, threads_for(flops / 6, index(blocks_.size())));
}

// Decides whether products with deltas read W from panels or, if it is not rounded, in place (1.02 times as long). On
// one thread, few rows do not pay for a copy of weights that each step changes (bench/experiments.md, Steps).
template <class T>
void Schedule<T>::choose_panels(const PassRequest<T> &request, int threads) noexcept {
  constexpr index kManyRows = 64;
  packing_pays_ = request.rows >= kManyRows || threads > 1 || kernels_.round;
  const bool weights_stay = !request.optimizer && read_in_place_;
  backward_from_panels_ = backward_packed_ || packing_pays_ || weights_stay;
  read_in_place_ = !backward_from_panels_;
}

template <class T>
PassResult Schedule<T>::run(const PassRequest<T> &request) {
  const bool training = is_training(request.kind);
  plan_ =
      training ? plan_rows(net_, request.rows, request.kind != PassKind::gradient) : plan_inference(net_, request.rows);
  // Backward must use the layout of forward, which saved the activations.
  const bool forward = has_forward(request.kind);
  const int slots = forward ? most_threads() : workspace_.shape().threads;
  const int threads = std::min(slots, threads_for_pass(request));
  workspace_.prepare({plan_, slots, forward ? threads : workspace_.shape().team, training, request.record});
  recorder_ = request.record ? &flow_ : nullptr;
  if (recorder_) flow_.begin(plan_, threads);
  begin_run();
  if (has_backward(request.kind)) choose_panels(request, threads);
  if (!training)
    for (const LayerState<T> &layer : workspace_.layers)
      if (layer.spec->batch_norm()) batch_norm_from_running(layer);

  run_team(threads, [&](const Team &team) { run_thread(request, team); });

  result_.input_finite = input_finite_.load(std::memory_order_relaxed);
  if (!result_.input_finite) return result_;
  result_.loss = tile_losses() * loss_scale(request.loss, request.rows, net_.out_features());
  if (recorder_) flow_.finish(request.optimizer && result_.norm_finite);
  return result_;
}

template <class T>
void Schedule<T>::begin_run() noexcept {
  result_ = PassResult{};
  input_finite_.store(true, std::memory_order_relaxed);
  claims_.begin_run();
}

template <class T>
PassResult Schedule<T>::update(const PassRequest<T> &request) {
  recorder_ = request.record && flow_.num_layers() > 0 ? &flow_ : nullptr;
  begin_run();
  const double work = 8.0 * double(net_.flat_size);  // moving an element's bytes takes the time of eight FMAs
  run_team(threads_for(work, index(blocks_.size())), [&](const Team &team) {
    Phases phases(claims_, team);
    // Only the update is recorded here; the pass that computed the gradients has recorded them.
    phases.finish_blocks([&](index block, int) {
      block_sumsq_[block] =
          kernels_.sum_of_squares(1, blocks_[block].size, gradients_ + blocks_[block].offset, blocks_[block].size);
      if (recorder_) recorder_->before_update(block, parameters_);
    });
    update_parameters(request, phases);
  });
  if (recorder_) flow_.finish(result_.norm_finite);
  return result_;
}

template <class T>
void Schedule<T>::run_thread(const PassRequest<T> &request, const Team &team) noexcept {
  Phases phases(claims_, team);
  prologue(request, phases);
  if (!input_finite_.load(std::memory_order_relaxed)) return;
  if (recorder_) recorder_->begin_thread(plan_, team);
  plan_.shares_chunks() ? run_shared_chunks(request, phases) : run_groups(request, phases);
  if (request.optimizer) update_parameters(request, phases);
}

// Chunk after chunk; each thread takes a share of its tiles, then of the parameters.
template <class T>
void Schedule<T>::run_shared_chunks(const PassRequest<T> &request, Phases &phases) noexcept {
  for (index c = 0; c < plan_.num_chunks(); c++) {
    const Chunk chunk{chunk_tile(c, 0, 0, 0, phases.team.rank), gradients_, c > 0, c + 1 == plan_.num_chunks()};
    if (c > 0) phases.team.meet();  // until all threads have read the last chunk's deltas
    run_chunk(request, chunk, phases);
    if (!has_backward(request.kind)) continue;
    phases.team.meet();
    phases.finish_blocks([&](index block, int next) { fill_gradient(request, block, next, chunk); });
  }
}

// Each thread takes whole groups, so no activation moves from one core to another, and threads meet once.
template <class T>
void Schedule<T>::run_groups(const PassRequest<T> &request, Phases &phases) noexcept {
  const int rank = phases.team.rank;
  phases.run(plan_.groups, [&](index group) { run_group(request, group, rank); });
  phases.team.meet();
  phases.finish_blocks([&](index block, int) {
    const ParamBlock &b = blocks_[block];
    kernels_.column_sum(plan_.groups, b.size, workspace_.group_gradients + b.offset, net_.flat_size, false,
                        gradients_ + b.offset);
    measure_gradient(request, block, rank);
  });
}

// Runs the chunks of a group, each in this thread's part of the workspace.
template <class T>
void Schedule<T>::run_group(const PassRequest<T> &request, index group, int rank) noexcept {
  const index chunks = plan_.num_chunks(), first = chunks * group / plan_.groups;
  if (recorder_) recorder_->begin_tiles(group * plan_.max_tiles(), plan_.max_tiles());
  for (index c = first; c < chunks * (group + 1) / plan_.groups; c++) {
    const Chunk chunk{chunk_tile(c, group * plan_.max_tiles(), rank * plan_.chunk_rows, rank, rank),
                      workspace_.group_gradients + group * net_.flat_size, c > first, false};
    for (const Stage &stage : programs_[int(request.kind)])
      run_spans(stage, request, chunk.tile, {0, plan_.tiles_of(chunk.tile.count)});
    for (const ParamBlock &block : blocks_) add_gradient(block, -1, chunk);
  }
}

// Packs the weights that changed, and checks the input before anything is modified.
template <class T>
void Schedule<T>::prologue(const PassRequest<T> &request, Phases &phases) noexcept {
  const InputView<T> &view = has_forward(request.kind) ? request.input : request.grad_output;
  const index cols = has_forward(request.kind) ? net_.in_features() : net_.out_features();
  const index strips = index(strips_.size()), checks = plan_.tiles_of(plan_.rows);
  const index forward = has_forward(request.kind) && !forward_packed_ ? strips : 0;
  const bool packs_backward = backward_from_panels_ && !backward_packed_;
  const index backward = has_backward(request.kind) && packs_backward ? strips : 0;
  phases.run(forward + backward + checks, [&](index task) {
    if (task < forward) return pack(blocks_[strips_[task]], true);
    if ((task -= forward) < backward) return pack(blocks_[strips_[task]], false);
    const index row = (task - backward) * plan_.tile_rows;
    if (!kernels_.all_finite(std::min(plan_.tile_rows, plan_.rows - row), cols, view.data + row * view.stride,
                             view.stride))
      input_finite_.store(false, std::memory_order_relaxed);
  });
  phases.team.meet();
  if (phases.team.rank != 0) return;
  forward_packed_ |= forward > 0;
  backward_packed_ |= backward > 0;
}

// Strips begin and end where forward panels do (plan_params). If parameters, gradients, moments and panels do not stay
// in a cache anyway, panels are written past it: the overwritten lines need not be read or taken from other cores (step
// of b256 w256 d20: 1.02 to 1.08 times as fast).
template <class T>
void Schedule<T>::pack(const ParamBlock &strip, bool forward) noexcept {
  const LayerState<T> &layer = workspace_.layers[strip.layer];
  const index in = layer.spec->in, out = layer.spec->out;
  (forward ? pack_forward<T> : pack_backward<T>)(kernels_, in, out, layer.weight, in, strip.out_begin, strip.out_end,
                                                 forward ? layer.forward_panels : layer.backward_panels,
                                                 packs_past_caches_);
}

template <class T>
void Schedule<T>::run_chunk(const PassRequest<T> &request, const Chunk &chunk, Phases &phases) noexcept {
  const Share tiles = share_of(plan_.tiles_of(chunk.tile.count), phases.team);
  if (recorder_ && !chunk.accumulate) recorder_->begin_tiles(tiles.begin, tiles.end - tiles.begin);
  for (const Stage &stage : programs_[int(request.kind)]) {
    run_spans(stage, request, chunk.tile, tiles);
    if (stage.merge != Stage::none) merge(stage, phases.team);
    if (stage.final_delta >= 0 && (net_.depth() - stage.final_delta) % plan_.fill_layers == 0)
      fill_early(request, stage, chunk, phases);
  }
}

// Computes weight gradients of layers whose deltas are final, while the deltas are in cache. A thread takes no more
// than its share, since the others would wait for it; the rest is claimed at the end.
template <class T>
void Schedule<T>::fill_early(const PassRequest<T> &request, const Stage &stage, const Chunk &chunk,
                             Phases &phases) noexcept {
  if (stage.merge == Stage::none) phases.team.meet();
  const int l = stage.final_delta, end = std::min(net_.depth(), l + int(plan_.fill_layers));
  index size = 0;
  for (int of = l; of < end; of++) size += net_.layers[of].in * net_.layers[of].out;
  phases.run_blocks(l, end, size / phases.team.size,
                    [&](index block, int next) { fill_gradient(request, block, next, chunk); });
}

// Runs a share of a chunk's tiles, span by span. The rows of a span lie in one piece.
template <class T>
void Schedule<T>::run_spans(const Stage &stage, const PassRequest<T> &request, const Tile &chunk,
                            const Share &tiles) noexcept {
  const index per_piece = workspace_.piece_tiles();
  for (index first = tiles.begin, last; first < tiles.end; first = last) {
    last = std::min(tiles.end, (first / per_piece + 1) * per_piece);
    const index count = last - first, spans = (count + plan_.span_tiles - 1) / plan_.span_tiles;
    for (index s = 0; s < spans; s++) {
      const index begin = first + count * s / spans, end = first + count * (s + 1) / spans;
      const index row = begin * plan_.tile_rows, rows = std::min(end * plan_.tile_rows, chunk.count) - row;
      const Tile span{chunk.id + begin, chunk.first + row, chunk.piece + begin / per_piece, chunk.batch_row + row, rows,
                      chunk.rank};
      for (const Step &step : stage.steps) run_step(step, request, span);
    }
  }
}

template <class T>
void Schedule<T>::merge(const Stage &stage, const Team &team) noexcept {
  const LayerState<T> &layer = workspace_.layers[stage.layer];
  team.meet();
  const Share share = share_of(layer.spec->out, team);
  if (stage.merge == Stage::moments)
    batch_norm_merge_moments(layer, plan_, share);
  else
    batch_norm_merge_sums(layer, plan_, share);
  team.meet();
}

template <class T>
void Schedule<T>::run_step(const Step &step, const PassRequest<T> &request, const Tile &span) noexcept {
  const LayerState<T> &layer = workspace_.layers[step.layer];
  switch (step.kind) {
    case Step::load_input:
      return load_input(request, span);
    case Step::dense:
      return forward_dense(step.layer, span, is_training(request.kind));
    case Step::finish:
      return finish_hidden(step.layer, span, is_training(request.kind));
    case Step::store_output:
      return kernels_.copy(span.count, layer.spec->out, layer.z.rows(span), layer.z.ld,
                           request.output.data + span.batch_row * request.output.stride, request.output.stride);
    case Step::loss:
      return compute_loss(request, span);
    case Step::load_grad_output:
      return load_grad_output(request, span);
    case Step::backward_hidden:
      return backward_hidden(step.layer, span);
    case Step::backward_norm:
      return backward_norm(step.layer, span);
    case Step::store_grad_input:
      return store_grad_input(request, span);
  }
}

// Calls f(tile) for each tile of a span. Sums over rows are kept per tile, and the next step finds a tile's data in the
// first-level cache.
template <class T>
template <class F>
void Schedule<T>::for_tiles(const Tile &span, F &&f) const noexcept {
  for (index row = 0; row < span.count; row += plan_.tile_rows)
    f(Tile{span.id + row / plan_.tile_rows, span.first + row, span.piece, span.batch_row + row,
           std::min(plan_.tile_rows, span.count - row), span.rank, row});
}

template <class T>
void Schedule<T>::load_input(const PassRequest<T> &request, const Tile &span) noexcept {
  const Matrix<T> &x = workspace_.layers[0].x;
  kernels_.copy(span.count, net_.in_features(), request.input.data + span.batch_row * request.input.stride,
                request.input.stride, x.rows(span), x.ld);
  round_x(kernels_, workspace_.layers[0], span);
}

template <class T>
void Schedule<T>::forward_dense(int l, const Tile &span, bool training) noexcept {
  const LayerState<T> &layer = workspace_.layers[l];
  const bool shared = plan_.shares_chunks() && workspace_.shape().team > 1;
  if (training && shared) activation_take_lines(kernels_, layer, span);
  dense_forward(kernels_, layer, span, l + 1 < net_.depth() ? workspace_.layers[l + 1].forward_panels : nullptr);
  if (training && layer.spec->batch_norm())
    for_tiles(span, [&](const Tile &tile) { batch_norm_moments(kernels_, layer, tile); });
}

template <class T>
void Schedule<T>::finish_hidden(int l, const Tile &span, bool training) noexcept {
  const LayerState<T> &layer = workspace_.layers[l];
  const LayerSpec &spec = *layer.spec;
  const bool record = recorder_ && training;
  for_tiles(span, [&](const Tile &tile) {
    if (spec.batch_norm()) batch_norm_forward(kernels_, layer, tile);
    if (spec.row_norm()) layer_norm_forward(kernels_, layer, tile);
    activation_forward(kernels_, layer, tile);
    if (record) recorder_->activation(l, layer, tile);
    if (spec.residual)
      kernels_.add(tile.count, spec.out, layer.x.rows(tile), layer.x.ld, layer.h.rows(tile), layer.h.ld);
    if (record) recorder_->output(l, layer, tile);
    round_x(kernels_, workspace_.layers[l + 1], tile);
  });
}

template <class T>
void Schedule<T>::compute_loss(const PassRequest<T> &request, const Tile &span) noexcept {
  const int last = net_.depth() - 1;
  const LayerState<T> &layer = workspace_.layers[last];
  const T scale = T(loss_scale(request.loss, request.rows, layer.spec->out));
  for_tiles(span, [&](const Tile &tile) {
    if (recorder_) recorder_->output(last, layer, tile);
    T *y = layer.z.rows(tile);
    workspace_.tile_loss[tile.id] += loss_rows(kernels_, request.loss, tile.count, layer.spec->out, y, layer.z.ld,
                                               request.target.from_row(tile.batch_row), scale,
                                               request.kind == PassKind::gradient ? y : nullptr, layer.z.ld);
    if (request.kind == PassKind::gradient) finish_delta(last, tile);
  });
}

template <class T>
void Schedule<T>::load_grad_output(const PassRequest<T> &request, const Tile &span) noexcept {
  const LayerState<T> &layer = workspace_.layers[net_.depth() - 1];
  kernels_.copy(span.count, layer.spec->out, request.grad_output.data + span.batch_row * request.grad_output.stride,
                request.grad_output.stride, layer.delta.rows(span), layer.delta.ld);
  round_delta(kernels_, layer, span);
}

// dL/dh = delta W of the layer above, plus that layer's own dL/dh if it has a skip connection; then dL/dy and, unless
// sums of batch norm must be merged first, dL/dz.
template <class T>
void Schedule<T>::backward_hidden(int l, const Tile &span) noexcept {
  const LayerState<T> &layer = workspace_.layers[l], &above = workspace_.layers[l + 1];
  const LayerSpec &spec = *layer.spec;
  const bool skips = spec.residual || above.spec->residual;
  // The product itself multiplies by the derivative saved in `delta`, unless dL/dh is needed (1.01 times as fast).
  const bool multiplies = layer.saves_derivative && !skips && !recorder_ && above.spec->out <= kDepthBlock;
  const bool apart = skips || (layer.saves_derivative && !multiplies);
  const Matrix<T> &grad = apart ? layer.grad_out : layer.delta;
  const TileInit init = multiplies ? TileInit::multiply : above.spec->residual ? TileInit::accumulate : TileInit::zero;
  const Following<T> following{l > 0 && backward_from_panels_ ? layer.backward_panels : nullptr,
                               apart ? layer.delta.rows(span) : nullptr, layer.delta.ld};  // scratch is in the cache
  dense_backward_input(kernels_, above, span, backward_from_panels_, grad.rows(span), grad.ld, init, following);
  for_tiles(span, [&](const Tile &tile) {
    if (recorder_) recorder_->grad_output(l, tile, grad.rows(tile), grad.ld);
    if (!multiplies) activation_backward(kernels_, layer, tile, grad.rows(tile), grad.ld);
    if (recorder_ && spec.normalization) recorder_->grad_preact(l, layer, tile);
    if (spec.batch_norm()) return batch_norm_sums(kernels_, layer, tile);
    if (spec.row_norm()) layer_norm_backward(kernels_, layer, tile);
    finish_delta(l, tile);
  });
}

template <class T>
void Schedule<T>::backward_norm(int l, const Tile &span) noexcept {
  batch_norm_backward(kernels_, workspace_.layers[l], span);
  for_tiles(span, [&](const Tile &tile) { finish_delta(l, tile); });
}

template <class T>
void Schedule<T>::finish_delta(int l, const Tile &tile) noexcept {
  if (recorder_) recorder_->delta(l, workspace_.layers[l], tile);
  round_delta(kernels_, workspace_.layers[l], tile);
}

template <class T>
void Schedule<T>::store_grad_input(const PassRequest<T> &request, const Tile &span) noexcept {
  const LayerState<T> &layer = workspace_.layers[0];
  const index stride = request.grad_input.stride;
  T *to = request.grad_input.data + span.batch_row * stride;
  dense_backward_input(kernels_, layer, span, backward_from_panels_, to, stride, TileInit::zero);
  if (layer.spec->residual)
    kernels_.add(span.count, net_.in_features(), layer.grad_out.rows(span), layer.grad_out.ld, to, stride);
}

// Computes one chunk's share in the gradient of one block; after the last chunk, also its norm and statistics.
template <class T>
void Schedule<T>::fill_gradient(const PassRequest<T> &request, index block, int next_layer,
                                const Chunk &chunk) noexcept {
  add_gradient(blocks_[block], next_layer, chunk);
  if (chunk.is_last) measure_gradient(request, block, chunk.tile.rank);
}

template <class T>
void Schedule<T>::add_gradient(const ParamBlock &b, int next_layer, const Chunk &chunk) noexcept {
  const LayerState<T> &layer = workspace_.layers[b.layer];
  switch (b.kind) {
    case ParamBlock::weight: {
      const bool stays = next_layer < 0 || next_layer == b.layer;
      const T *next = stays ? nullptr : columns_of(kernels_, workspace_.layers[next_layer].x_columns, chunk.tile);
      return dense_backward_weight(kernels_, layer, chunk.tile, b.out_begin, b.out_end,
                                   chunk.gradients + net_.parameters[layer.spec->weight].offset, chunk.accumulate,
                                   workspace_.pieces(kernels_.pairs), next);
    }
    case ParamBlock::bias:
      return dense_backward_bias(kernels_, layer, chunk.tile, chunk.gradients + b.offset, chunk.accumulate,
                                 workspace_.pieces());
    case ParamBlock::norm_weight:
    case ParamBlock::norm_bias:
      return add_norm_gradient(b, chunk);
  }
}

template <class T>
void Schedule<T>::add_norm_gradient(const ParamBlock &block, const Chunk &chunk) noexcept {
  const LayerState<T> &layer = workspace_.layers[block.layer];
  const bool weight = block.kind == ParamBlock::norm_weight;
  T *grad = chunk.gradients + block.offset;
  if (layer.spec->batch_norm()) {
    kernels_.copy(1, block.size, weight ? layer.sum_dy_xhat : layer.sum_dy, block.size, grad, block.size);
    return;
  }
  // The partials of layer norm hold dgamma and then dbeta of each tile, one row per tile.
  kernels_.column_sum(plan_.tiles_of(chunk.tile.count), block.size,
                      layer.partial(chunk.tile.id) + (weight ? 0 : layer.partial_ld),
                      layer.kPartials * layer.partial_ld, chunk.accumulate, grad);
}

template <class T>
void Schedule<T>::measure_gradient(const PassRequest<T> &request, index block, int rank) noexcept {
  const ParamBlock &b = blocks_[block];
  if (request.optimizer) block_sumsq_[block] = kernels_.sum_of_squares(1, b.size, gradients_ + b.offset, b.size);
  if (recorder_) recorder_->parameter(block, rank, parameters_, gradients_);
}

template <class T>
double Schedule<T>::total_norm() const noexcept {
  double sum = 0;
  for (const double sumsq : block_sumsq_) sum += sumsq;
  // Squares of doubles may overflow or underflow although their norm does not.
  if (sizeof(T) == 8 && !kept_digits(sum)) return norm2(kernels_, net_.flat_size, gradients_);
  return std::sqrt(sum);
}

// Every thread computes the same norm and clip coefficient.
template <class T>
void Schedule<T>::update_parameters(const PassRequest<T> &request, Phases &phases) noexcept {
  phases.team.meet();
  const double norm = total_norm();
  const bool clips = request.clip_norm > 0, refused = clips && !std::isfinite(norm);
  if (phases.team.rank == 0) {
    result_.total_norm = norm;
    result_.norm_finite = !refused;
  }
  if (refused) return;
  typename Optimizer<T>::Clip clip;
  if (clips) clip.coef = clip_coefficient(request.clip_norm, norm);
  clip.value = request.clip_value;
  phases.finish_blocks([&](index i, int) {
    const ParamBlock &block = blocks_[i];
    request.optimizer->update(kernels_, block, parameters_, gradients_, clip,
                              recorder_ ? recorder_->update_sumsq(i) : nullptr);
    if (block.kind != ParamBlock::weight) return;
    pack(block, true);  // while the weights are in cache
    if (packing_pays_) pack(block, false);
  });
  phases.team.meet();
  if (phases.team.rank != 0) return;
  request.optimizer->step++;
  forward_packed_ = true;
  backward_packed_ = packing_pays_;
  read_in_place_ = false;
  if (!recorder_) flow_.parameters_changed();  // otherwise the recorder does it when it has finished
}

template <class T>
double Schedule<T>::tile_losses() const noexcept {
  double sum = 0;
  for (const double loss : workspace_.tile_loss) sum += loss;
  return sum;
}

template class Schedule<float>;
template class Schedule<double>;

}  // namespace gradcore
