#include "network/schedule.hpp"

#include <algorithm>
#include <cmath>

#include "layers/activation.hpp"
#include "layers/batch_norm.hpp"
#include "layers/dense.hpp"
#include "layers/layer_norm.hpp"
#include "ops/reduce.hpp"

namespace gradcore {

namespace {

bool is_training(PassKind kind) noexcept { return kind != PassKind::inference && kind != PassKind::inference_loss; }
bool has_forward(PassKind kind) noexcept { return kind != PassKind::backward && kind != PassKind::backward_to_input; }
bool has_backward(PassKind kind) noexcept { return kind == PassKind::gradient || !has_forward(kind); }

struct Share {
  index begin, end;
};
// The contiguous share of `count` things that one of a team takes.
Share share_of(index count, const Team &team) noexcept {
  return {count * team.rank / team.size, count * (team.rank + 1) / team.size};
}

}  // namespace

// A claim that fails has still raised the counter: after a phase it stands `size` beyond the tasks,
// so that the next phase's first ticket is known without a reset, and without another meeting.
template <class T>
class Schedule<T>::Phases {
 public:
  Phases(std::atomic<index> &next, const Team &team) noexcept : team(team), next_(next) {}

  // task(i) for the i in [0, count) that this thread claims.
  template <class F>
  void run(index count, F &&task) noexcept {
    for (index i; (i = next_.fetch_add(1, std::memory_order_relaxed) - first_) < count;) task(i);
    first_ += count + team.size;
  }
  const Team &team;

 private:
  std::atomic<index> &next_;
  index first_ = 0;
};

template <class T>
Schedule<T>::Schedule(const Architecture &net, const KernelSet<T> &kernels, T *parameters, T *gradients, T *buffers)
    : net_(net),
      kernels_(kernels),
      parameters_(parameters),
      gradients_(gradients),
      blocks_(plan_params(net)),
      workspace_(net, kernels, parameters, buffers),
      flow_(net, kernels, blocks_),
      block_sumsq_(blocks_.size()) {
  for (int kind = 0; kind < kNumPassKinds; kind++) programs_[kind] = plan_program(net, PassKind(kind));
  for (const bool forward : {true, false}) {
    for (int l = forward ? 0 : net.depth() - 1; forward ? l < net.depth() : l >= 0; l += forward ? 1 : -1) {
      const index cols = forward ? net.layers[l].out : net.layers[l].in;
      const PanelSplit split(cols, kernels.lanes, kernels.tile_vectors);
      for (index panel = 0; panel < split.num_panels(); panel++) pack_tasks_.push_back({l, panel, forward});
    }
    if (forward) num_forward_packs_ = index(pack_tasks_.size());
  }
}

template <class T>
int Schedule<T>::threads_for_pass(const PassRequest<T> &request, const RowPlan &plan) const noexcept {
  const double passes = request.kind == PassKind::gradient ? 3 : has_backward(request.kind) ? 2 : 1;
  const double flops = passes * net_.forward_flops_per_row() * double(request.rows);
  // Weight gradients are cut by parameters, so that a backward pass has work for more threads than tiles.
  const index pieces =
      has_backward(request.kind) ? std::max(plan.max_tiles(), index(blocks_.size())) : plan.max_tiles();
  return threads_for(flops, pieces);
}

template <class T>
PassResult Schedule<T>::run(const PassRequest<T> &request) {
  const bool training = is_training(request.kind);
  const RowPlan plan =
      training ? plan_rows(net_, request.rows, request.kind != PassKind::gradient) : plan_inference(request.rows);
  // Backward finds what forward saved only in the layout of forward.
  const int slots = has_forward(request.kind) ? get_num_threads() : workspace_.threads();
  const int threads = std::min(slots, threads_for_pass(request, plan));
  workspace_.prepare({plan, slots, training, request.record});
  recorder_ = nullptr;
  if (request.record) {
    flow_.begin(plan, threads);
    recorder_ = &flow_;
  }
  result_ = PassResult{};
  input_finite_.store(true, std::memory_order_relaxed);
  next_task_.store(0, std::memory_order_relaxed);
  pack_begin_ = forward_packed_ || !has_forward(request.kind) ? num_forward_packs_ : 0;
  pack_end_ = backward_packed_ || !has_backward(request.kind) ? num_forward_packs_ : index(pack_tasks_.size());
  if (!training)
    for (const LayerState<T> &layer : workspace_.layers)
      if (layer.spec->batch_norm()) batch_norm_from_running(layer);

  run_team(threads, [&](const Team &team) { run_thread(request, plan, team); });

  result_.input_finite = input_finite_.load(std::memory_order_relaxed);
  if (!result_.input_finite) return result_;
  result_.loss = tile_losses() * loss_scale(request.loss, request.rows, net_.out_features());
  if (recorder_) flow_.finish(request.optimizer && result_.norm_finite);
  return result_;
}

template <class T>
PassResult Schedule<T>::update(const PassRequest<T> &request) {
  recorder_ = request.record && flow_.num_layers() > 0 ? &flow_ : nullptr;
  result_ = PassResult{};
  next_task_.store(0, std::memory_order_relaxed);
  const double work = 8.0 * double(net_.flat_size);  // an element moves as many bytes as eight FMAs take time
  run_team(threads_for(work, index(blocks_.size())), [&](const Team &team) {
    Phases phases(next_task_, team);
    // Of the flow only the update is new: the gradients were measured by the pass that made them.
    phases.run(index(blocks_.size()), [&](index block) {
      block_sumsq_[block] =
          kernels_.sum_of_squares(1, blocks_[block].size, gradients_ + blocks_[block].offset, blocks_[block].size);
      if (recorder_) recorder_->before_update(block, parameters_);
    });
    update_parameters(request, phases);
  });
  if (recorder_) flow_.finish_parameters(result_.norm_finite);
  return result_;
}

template <class T>
void Schedule<T>::run_thread(const PassRequest<T> &request, const RowPlan &plan, const Team &team) noexcept {
  Phases phases(next_task_, team);
  prologue(request, plan, phases);
  if (!input_finite_.load(std::memory_order_relaxed)) return;
  for (index chunk = 0; chunk < plan.num_chunks(); chunk++) {
    if (chunk > 0) team.meet();  // all have read the last chunk's deltas
    run_chunk(request, plan, chunk, team);
    if (!has_backward(request.kind)) continue;
    team.meet();
    const index rows = std::min(plan.chunk_rows, plan.rows - chunk * plan.chunk_rows);
    const index tiles = (rows + plan.tile_rows - 1) / plan.tile_rows;
    const bool last = chunk + 1 == plan.num_chunks();
    phases.run(index(blocks_.size()), [&](index block) {
      fill_gradient(block, rows, tiles, chunk > 0);
      if (last && (request.optimizer || recorder_)) measure_gradient(request, block, team.rank);
    });
  }
  if (request.optimizer) update_parameters(request, phases);
}

// Packs the weights that changed and looks at the input, so that nothing is touched when it is not finite.
template <class T>
void Schedule<T>::prologue(const PassRequest<T> &request, const RowPlan &plan, Phases &phases) noexcept {
  const InputView<T> &view = has_forward(request.kind) ? request.input : request.grad_output;
  const index cols = has_forward(request.kind) ? net_.in_features() : net_.out_features();
  const index packs = pack_end_ - pack_begin_, checks = (plan.rows + plan.tile_rows - 1) / plan.tile_rows;
  phases.run(packs + checks, [&](index task) {
    if (task < packs) return pack(pack_tasks_[pack_begin_ + task]);
    const index row = (task - packs) * plan.tile_rows;
    if (!kernels_.all_finite(std::min(plan.tile_rows, plan.rows - row), cols, view.data + row * view.stride,
                             view.stride))
      input_finite_.store(false, std::memory_order_relaxed);
  });
  phases.team.meet();
  if (phases.team.rank != 0) return;
  forward_packed_ |= has_forward(request.kind);
  backward_packed_ |= has_backward(request.kind);
}

template <class T>
void Schedule<T>::pack(const PackTask &task) noexcept {
  const LayerState<T> &layer = workspace_.layers[task.layer];
  if (task.forward)
    pack_forward_panel(kernels_, layer.spec->in, layer.spec->out, layer.weight, layer.spec->in, task.panel,
                       layer.forward_panels);
  else
    pack_backward_panel(kernels_, layer.spec->in, layer.spec->out, layer.weight, layer.spec->in, task.panel,
                        layer.backward_panels);
}

template <class T>
void Schedule<T>::run_chunk(const PassRequest<T> &request, const RowPlan &plan, index chunk,
                            const Team &team) noexcept {
  const index first = chunk * plan.chunk_rows, rows = std::min(plan.chunk_rows, plan.rows - first);
  const Share tiles = share_of((rows + plan.tile_rows - 1) / plan.tile_rows, team);
  for (const Stage &stage : programs_[int(request.kind)]) {
    for (index t = tiles.begin; t < tiles.end; t++) {
      const index row = t * plan.tile_rows;
      const Tile tile{t, row, first + row, std::min(plan.tile_rows, rows - row), team.rank};
      for (const Step &step : stage.steps) run_step(step, request, tile);
    }
    if (stage.merge != Stage::none) merge(stage, plan, team);
  }
}

template <class T>
void Schedule<T>::merge(const Stage &stage, const RowPlan &plan, const Team &team) noexcept {
  const LayerState<T> &layer = workspace_.layers[stage.layer];
  team.meet();
  const Share share = share_of(layer.spec->out, team);
  if (stage.merge == Stage::moments)
    batch_norm_merge_moments(layer, plan, {share.begin, share.end});
  else
    batch_norm_merge_sums(layer, plan, {share.begin, share.end});
  team.meet();
}

template <class T>
void Schedule<T>::run_step(const Step &step, const PassRequest<T> &request, const Tile &tile) noexcept {
  const LayerState<T> &layer = workspace_.layers[step.layer];
  const bool training = is_training(request.kind);
  switch (step.kind) {
    case Step::load_input:
      return load_input(request, tile);
    case Step::dense:
      dense_forward(kernels_, layer, tile);
      if (training && layer.spec->batch_norm()) batch_norm_moments(kernels_, layer, tile);
      return;
    case Step::finish:
      return finish_hidden(step.layer, tile, training);
    case Step::store_output:
      return kernels_.copy(tile.count, layer.spec->out, layer.z.rows(tile), layer.z.ld,
                           request.output.data + tile.batch_row * request.output.stride, request.output.stride);
    case Step::loss:
      return compute_loss(request, tile);
    case Step::load_grad_output:
      return load_grad_output(request, tile);
    case Step::backward_hidden:
      return backward_hidden(step.layer, tile);
    case Step::backward_norm:
      batch_norm_backward(kernels_, layer, tile);
      if (recorder_) recorder_->delta(step.layer, layer, tile);
      return;
    case Step::store_grad_input:
      return store_grad_input(request, tile);
  }
}

template <class T>
void Schedule<T>::load_input(const PassRequest<T> &request, const Tile &tile) noexcept {
  const Matrix<T> &x = workspace_.layers[0].x;
  kernels_.copy(tile.count, net_.in_features(), request.input.data + tile.batch_row * request.input.stride,
                request.input.stride, x.rows(tile), x.ld);
}

template <class T>
void Schedule<T>::finish_hidden(int l, const Tile &tile, bool training) noexcept {
  const LayerState<T> &layer = workspace_.layers[l];
  if (layer.spec->batch_norm()) batch_norm_forward(kernels_, layer, tile);
  if (layer.spec->row_norm()) layer_norm_forward(kernels_, layer, tile);
  activation_forward(kernels_, layer, tile);
  if (recorder_ && training) recorder_->activation(l, layer, tile);
  if (layer.spec->residual)
    kernels_.add(tile.count, layer.spec->out, layer.x.rows(tile), layer.x.ld, layer.h.rows(tile), layer.h.ld);
  if (recorder_ && training) recorder_->output(l, layer, tile);
}

template <class T>
void Schedule<T>::compute_loss(const PassRequest<T> &request, const Tile &tile) noexcept {
  const int last = net_.depth() - 1;
  const LayerState<T> &layer = workspace_.layers[last];
  if (recorder_) recorder_->output(last, layer, tile);
  T *y = layer.z.rows(tile);
  const bool needs_grad = request.kind == PassKind::gradient;
  workspace_.tile_loss[tile.id] += loss_rows(
      kernels_, request.loss, tile.count, layer.spec->out, y, layer.z.ld, request.target.from_row(tile.batch_row),
      T(loss_scale(request.loss, request.rows, layer.spec->out)), needs_grad ? y : nullptr, layer.z.ld);
  if (recorder_) recorder_->delta(last, layer, tile);
}

template <class T>
void Schedule<T>::load_grad_output(const PassRequest<T> &request, const Tile &tile) noexcept {
  const LayerState<T> &layer = workspace_.layers[net_.depth() - 1];
  kernels_.copy(tile.count, layer.spec->out, request.grad_output.data + tile.batch_row * request.grad_output.stride,
                request.grad_output.stride, layer.delta.rows(tile), layer.delta.ld);
}

// dL/dh = delta W of the layer above, plus its own dL/dh where a residual connection leads past it;
// then dL/dy and, unless the batch norm's sums must be merged first, dL/dz.
template <class T>
void Schedule<T>::backward_hidden(int l, const Tile &tile) noexcept {
  const LayerState<T> &layer = workspace_.layers[l], &above = workspace_.layers[l + 1];
  const LayerSpec &spec = *layer.spec;
  const bool apart = layer.saves_derivative || spec.residual || above.spec->residual;
  const Matrix<T> &to = apart ? layer.grad_out : layer.delta;
  T *grad = to.rows(tile);
  dense_backward_input(kernels_, above, tile, grad, to.ld, above.spec->residual);
  if (recorder_) recorder_->grad_output(l, tile, grad, to.ld);
  activation_backward(kernels_, layer, tile, grad, to.ld);
  if (recorder_ && spec.normalization) recorder_->grad_preact(l, layer, tile);
  if (spec.batch_norm()) return batch_norm_sums(kernels_, layer, tile);
  if (spec.row_norm()) layer_norm_backward(kernels_, layer, tile);
  if (recorder_) recorder_->delta(l, layer, tile);
}

template <class T>
void Schedule<T>::store_grad_input(const PassRequest<T> &request, const Tile &tile) noexcept {
  const LayerState<T> &layer = workspace_.layers[0];
  const index stride = request.grad_input.stride;
  T *to = request.grad_input.data + tile.batch_row * stride;
  dense_backward_input(kernels_, layer, tile, to, stride, false);
  if (layer.spec->residual)
    kernels_.add(tile.count, net_.in_features(), layer.grad_out.rows(tile), layer.grad_out.ld, to, stride);
}

// The share of one chunk in the gradient of one block.
template <class T>
void Schedule<T>::fill_gradient(index block, index rows, index tiles, bool accumulate) noexcept {
  const ParamBlock &b = blocks_[block];
  const LayerState<T> &layer = workspace_.layers[b.layer];
  switch (b.kind) {
    case ParamBlock::weight:
      return dense_backward_weight(kernels_, layer, rows, b.out_begin, b.out_end,
                                   gradients_ + net_.parameters[layer.spec->weight].offset, accumulate);
    case ParamBlock::bias:
      return dense_backward_bias(kernels_, layer, rows, gradients_ + b.offset, accumulate);
    case ParamBlock::norm_weight:
    case ParamBlock::norm_bias:
      return fill_norm_gradient(b, tiles, accumulate);
  }
}

template <class T>
void Schedule<T>::fill_norm_gradient(const ParamBlock &block, index tiles, bool accumulate) noexcept {
  const LayerState<T> &layer = workspace_.layers[block.layer];
  const bool weight = block.kind == ParamBlock::norm_weight;
  T *grad = gradients_ + block.offset;
  if (layer.spec->batch_norm()) {
    kernels_.copy(1, block.size, weight ? layer.sum_dy_xhat : layer.sum_dy, block.size, grad, block.size);
    return;
  }
  // Layer norm's partials hold dgamma, then dbeta, of each tile: a matrix of one row a tile.
  kernels_.column_sum(tiles, block.size, layer.partials + (weight ? 0 : layer.partial_ld),
                      layer.kPartials * layer.partial_ld, accumulate, grad);
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
  // Squares of double data may overflow or vanish where their norm does neither.
  if (sizeof(T) == 8 && !(sum > 1e-280 && sum < 1e300)) return norm2(kernels_, net_.flat_size, gradients_);
  return std::sqrt(sum);
}

// Follows the measurement of all blocks. Every thread computes the same norm and coefficient.
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
  if (clips) clip.coef = std::min(1.0, request.clip_norm / (norm + 1e-6));
  clip.value = request.clip_value;
  phases.run(index(blocks_.size()), [&](index block) {
    request.optimizer->update(kernels_, blocks_[block], parameters_, gradients_, clip,
                              recorder_ ? recorder_->update_sumsq(block) : nullptr);
  });
  phases.team.meet();
  if (phases.team.rank != 0) return;
  request.optimizer->step++;
  parameters_changed();
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
