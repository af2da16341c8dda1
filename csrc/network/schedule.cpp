#include "network/schedule.hpp"

#include <algorithm>
#include <cmath>

#include "layers/batch_norm.hpp"
#include "layers/dense.hpp"
#include "ops/clip.hpp"

namespace gradcore {

namespace {

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
      steps_(net, kernels, workspace_),
      packs_past_caches_(double(sizeof(T)) * double(net.flat_size) > kCachedParameters),
      block_sumsq_(blocks_.size()),
      claims_(blocks_, net.depth()) {
  for (int kind = 0; kind < kNumPassKinds; kind++) programs_[kind] = plan_program(net, PassKind(kind));
  for (index i = 0; i < index(blocks_.size()); i++)
    if (blocks_[i].kind == ParamBlock::weight) strips_.push_back(i);
  backward_packed_ = index(strips_.size());
}

template <class T>
int Schedule<T>::threads_for_pass(const PassRequest<T> &request, const RowPlan &plan) const noexcept {
  const double passes = request.kind == PassKind::gradient ? 3 : has_backward(request.kind) ? 2 : 1;
  const double flops =
      passes * net_.forward_flops_per_row() * double(request.rows) / kernels_.terms();  // a pair takes the time of one
  const int by_rows = threads_for(flops, plan.shares_chunks() ? plan.max_tiles() : plan.groups);
  if (!has_backward(request.kind) || !plan.shares_chunks()) return by_rows;
  // Weight gradients, a third of the work, are cut by parameters and can use more threads than there are tiles. These
  // fetch all their data from other cores, so they pay only with twice as much work each (bench/experiments.md).
  return std::max(by_rows, threads_for(flops / 6, index(blocks_.size())));
}

// Calls whose batches have as many rows, and which do the same besides, are alike.
template <class T>
int Schedule<T>::tuned(TeamTuner &tuner, int threads, const PassRequest<T> &request) noexcept {
  return tuner.size(threads, std::uint64_t(request.rows) * 4 + (request.optimizer ? 2 : 0) + (request.record ? 1 : 0));
}

// The first strip whose weights are multiplied with deltas: those of the first layer give the gradient of the net's
// input, which training does not need.
template <class T>
index Schedule<T>::first_backward_strip(PassKind kind) const noexcept {
  if (kind == PassKind::backward_to_input) return 0;
  return index(std::find_if(strips_.begin(), strips_.end(), [&](index i) { return blocks_[i].layer > 0; }) -
               strips_.begin());
}

// Decides whether products with deltas read W from panels or, if it is not rounded, in place (1.02 times as long). On
// one thread, few rows do not pay for a copy of weights that each step changes (bench/experiments.md, Steps).
template <class T>
void Schedule<T>::choose_panels(const PassRequest<T> &request, int threads) noexcept {
  constexpr index kManyRows = 64;
  packing_pays_ = request.rows >= kManyRows || threads > 1 || kernels_.round;
  const bool weights_stay = !request.optimizer && read_in_place_;
  const bool packed = backward_packed_ <= first_backward_strip(request.kind);
  backward_from_panels_ = packed || packing_pays_ || weights_stay;
  read_in_place_ = !backward_from_panels_;
}

template <class T>
PassResult Schedule<T>::run(const PassRequest<T> &request) {
  const bool training = is_training(request.kind);
  const RowPlan plan =
      training ? plan_rows(net_, request.rows, request.kind != PassKind::gradient) : plan_inference(net_, request.rows);
  // Backward must use the layout of forward, which saved the activations.
  const bool forward = has_forward(request.kind);
  const int slots = forward ? most_threads() : workspace_.shape().threads;
  TeamTuner &tuner = pass_tuners_[int(request.kind)];
  const int most = std::min(slots, threads_for_pass(request, plan)), threads = tuned(tuner, most, request);
  workspace_.prepare({plan, slots, forward ? threads : workspace_.shape().team, training, request.record}, most);
  recorder_ = request.record ? &flow_ : nullptr;
  if (recorder_) flow_.begin(plan, most);
  begin_run();
  if (has_backward(request.kind)) choose_panels(request, threads);
  steps_.begin(request, recorder_, backward_from_panels_);
  if (!training)
    for (const LayerState<T> &layer : workspace_.layers)
      if (layer.spec->batch_norm()) batch_norm_from_running(layer);

  run_team(threads, tuner, [&](const Team &team) { run_thread(request, team); });

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
  const int threads = tuned(update_tuner_, threads_for(work, index(blocks_.size())), request);
  run_team(threads, update_tuner_, [&](const Team &team) {
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
  if (recorder_) recorder_->begin_thread(plan(), team);
  plan().shares_chunks() ? run_shared_chunks(request, phases) : run_groups(request, phases);
  if (request.optimizer) update_parameters(request, phases);
}

// Chunk after chunk; each thread takes a share of its tiles, then of the parameters.
template <class T>
void Schedule<T>::run_shared_chunks(const PassRequest<T> &request, Phases &phases) noexcept {
  for (index c = 0; c < plan().num_chunks(); c++) {
    const Chunk chunk{chunk_tile(c, 0, 0, 0, phases.team.rank), gradients_, c > 0, c + 1 == plan().num_chunks()};
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
  phases.run(plan().groups, [&](index group) { run_group(request, group, rank); });
  phases.team.meet();
  phases.finish_blocks([&](index block, int) {
    const ParamBlock &b = blocks_[block];
    kernels_.column_sum(plan().groups, b.size, workspace_.group_gradients + b.offset, net_.flat_size, false,
                        gradients_ + b.offset);
    measure_gradient(request, block, rank);
  });
}

// Runs the chunks of a group, each in this thread's part of the workspace.
template <class T>
void Schedule<T>::run_group(const PassRequest<T> &request, index group, int rank) noexcept {
  const index chunks = plan().num_chunks(), first = chunks * group / plan().groups;
  if (recorder_) recorder_->begin_tiles(group * plan().max_tiles(), plan().max_tiles());
  for (index c = first; c < chunks * (group + 1) / plan().groups; c++) {
    const Chunk chunk{chunk_tile(c, group * plan().max_tiles(), rank * plan().chunk_rows, rank, rank),
                      workspace_.group_gradients + group * net_.flat_size, c > first, false};
    for (const Stage &stage : programs_[int(request.kind)])
      run_spans(stage, chunk.tile, {0, plan().tiles_of(chunk.tile.count)});
    for (const ParamBlock &block : blocks_) add_gradient(block, -1, chunk);
  }
}

// Packs the weights that changed, and checks the input before anything is modified.
template <class T>
void Schedule<T>::prologue(const PassRequest<T> &request, Phases &phases) noexcept {
  const InputView<T> &checked = has_forward(request.kind) ? request.input : request.grad_output;
  const index cols = has_forward(request.kind) ? net_.in_features() : net_.out_features();
  const index strips = index(strips_.size()), checks = plan().tiles_of(plan().rows);
  const index forward = has_forward(request.kind) && !forward_packed_ ? strips : 0;
  const index first = first_backward_strip(request.kind);
  const bool packs_backward = has_backward(request.kind) && backward_from_panels_ && first < backward_packed_;
  const index backward = packs_backward ? backward_packed_ - first : 0;
  phases.run(forward + backward + checks, [&](index task) {
    if (task < forward) return pack(blocks_[strips_[task]], true);
    if ((task -= forward) < backward) return pack(blocks_[strips_[first + task]], false);
    const index row = (task - backward) * plan().tile_rows;
    const InputView<T> view = checked.from_row(row);
    if (!kernels_.all_finite(std::min(plan().tile_rows, plan().rows - row), cols, view.data, view.stride))
      input_finite_.store(false, std::memory_order_relaxed);
  });
  phases.team.meet();
  if (phases.team.rank != 0) return;
  forward_packed_ |= forward > 0;
  backward_packed_ -= backward;
}

// If parameters, gradients, moments and panels do not stay in a cache anyway, panels are written past it: the
// overwritten lines need not be read or taken from other cores (step of b256 w256 d20: 1.02 to 1.08 times as fast).
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
  const Share tiles = share_of(plan().tiles_of(chunk.tile.count), phases.team);
  if (recorder_ && !chunk.accumulate) recorder_->begin_tiles(tiles.begin, tiles.end - tiles.begin);
  for (const Stage &stage : programs_[int(request.kind)]) {
    run_spans(stage, chunk.tile, tiles);
    if (stage.merge != Stage::none) merge(stage, phases.team);
    if (stage.final_delta >= 0 && (net_.depth() - stage.final_delta) % plan().fill_layers == 0)
      fill_early(request, stage, chunk, phases);
  }
}

// Computes weight gradients of layers whose deltas are final, while the deltas are in cache. A thread takes no more
// than its share, since the others would wait for it; the rest is claimed at the end.
template <class T>
void Schedule<T>::fill_early(const PassRequest<T> &request, const Stage &stage, const Chunk &chunk,
                             Phases &phases) noexcept {
  if (stage.merge == Stage::none) phases.team.meet();
  const int l = stage.final_delta, end = std::min(net_.depth(), l + int(plan().fill_layers));
  index size = 0;
  for (int of = l; of < end; of++) size += net_.layers[of].in * net_.layers[of].out;
  phases.run_blocks(l, end, size / phases.team.size,
                    [&](index block, int next) { fill_gradient(request, block, next, chunk); });
}

// Runs a share of a chunk's tiles, span by span. The rows of a span lie in one piece.
template <class T>
void Schedule<T>::run_spans(const Stage &stage, const Tile &chunk, const Share &tiles) noexcept {
  const index per_piece = workspace_.piece_tiles();
  for (index first = tiles.begin, last; first < tiles.end; first = last) {
    last = std::min(tiles.end, (first / per_piece + 1) * per_piece);
    const index count = last - first, spans = (count + plan().span_tiles - 1) / plan().span_tiles;
    for (index s = 0; s < spans; s++) {
      const index begin = first + count * s / spans, end = first + count * (s + 1) / spans;
      const index row = begin * plan().tile_rows, rows = std::min(end * plan().tile_rows, chunk.count) - row;
      const Tile span{chunk.id + begin, chunk.first + row, chunk.piece + begin / per_piece, chunk.batch_row + row, rows,
                      chunk.rank};
      for (const Step &step : stage.steps) steps_.run(step, span);
    }
  }
}

template <class T>
void Schedule<T>::merge(const Stage &stage, const Team &team) noexcept {
  const LayerState<T> &layer = workspace_.layers[stage.layer];
  team.meet();
  const Share share = share_of(layer.spec->out, team);
  if (stage.merge == Stage::moments)
    batch_norm_merge_moments(layer, plan(), share);
  else
    batch_norm_merge_sums(layer, plan(), share);
  team.meet();
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
  kernels_.column_sum(plan().tiles_of(chunk.tile.count), block.size,
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
    if (packing_pays_ && block.layer > 0) pack(block, false);
  });
  phases.team.meet();
  if (phases.team.rank != 0) return;
  request.optimizer->step++;
  forward_packed_ = true;
  backward_packed_ = packing_pays_ ? first_backward_strip(PassKind::gradient) : index(strips_.size());
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
