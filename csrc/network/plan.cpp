#include "network/plan.hpp"

#include <algorithm>

namespace gradcore {

namespace {

constexpr index kRowUnit = 8;  // tiles are multiples of this, so that register tiles are full
constexpr index kLeastTileRows = 16;
constexpr index kMostTileRows = 96;
constexpr index kTilesWanted = 8;     // a batch should give at least so many tiles, for balance
constexpr double kChunkBytes = 16e6;  // about half of a server's L3 slice
constexpr index kMinChunkRows = 256;  // fewer rows, and reading and writing dW costs more than its products
constexpr index kStripRows = 96;      // rows of a weight in one ParamBlock: many, to reuse x's panels

index round_up(index value, index unit) noexcept { return (value + unit - 1) / unit * unit; }

index tile_rows(index rows) noexcept {
  return std::clamp(round_up((rows + kTilesWanted - 1) / kTilesWanted, kRowUnit), kLeastTileRows, kMostTileRows);
}

class ProgramBuilder {
 public:
  explicit ProgramBuilder(const Architecture &net) : net_(net) { program_.emplace_back(); }

  void add(Step::Kind kind, int layer) { program_.back().steps.push_back({kind, layer}); }
  void merge(Stage::Merge merge, int layer) {
    program_.back().merge = merge;
    program_.back().layer = layer;
    program_.emplace_back();
  }

  void forward(bool training) {
    add(Step::load_input, 0);
    for (int l = 0; l < net_.depth(); l++) {
      add(Step::dense, l);
      if (training && net_.layers[l].batch_norm()) merge(Stage::moments, l);
      if (net_.layers[l].hidden) add(Step::finish, l);
    }
  }
  void backward() {
    for (int l = net_.depth() - 2; l >= 0; l--) {
      add(Step::backward_hidden, l);
      if (!net_.layers[l].batch_norm()) continue;
      merge(Stage::sums, l);
      add(Step::backward_norm, l);
    }
  }
  Program take() { return std::move(program_); }

 private:
  const Architecture &net_;
  Program program_;
};

}  // namespace

RowPlan plan_rows(const Architecture &net, index rows, bool whole_batch) noexcept {
  const index tile = tile_rows(rows);
  if (whole_batch || net.any_batch_norm) return {rows, rows, tile};
  double row_bytes = 0;
  const double element = net.dtype == GRADCORE_FLOAT32 ? 4 : 8;
  for (const LayerSpec &layer : net.layers) row_bytes += element * double(layer.in + 2 * layer.out);
  // A weight gradient is read and written once a chunk: at least as many rows as it has columns.
  const index least = std::max(kMinChunkRows, net.max_width());
  const index chunk = round_up(std::max(least, index(kChunkBytes / row_bytes)), tile);
  return {rows, std::min(rows, chunk), tile};
}

RowPlan plan_inference(index rows) noexcept { return {rows, rows, tile_rows(rows)}; }

std::vector<ParamBlock> plan_params(const Architecture &net) {
  std::vector<ParamBlock> blocks;
  for (int l = 0; l < net.depth(); l++) {
    const LayerSpec &layer = net.layers[l];
    const index strips = (layer.out + kStripRows - 1) / kStripRows;
    const index height = round_up((layer.out + strips - 1) / strips, 12);  // full register tiles of 6 and 4 rows
    const index offset = net.parameters[layer.weight].offset;
    for (index begin = 0; begin < layer.out; begin += height) {
      const index end = std::min(begin + height, layer.out);
      blocks.push_back({ParamBlock::weight, l, offset + begin * layer.in, (end - begin) * layer.in, begin, end});
    }
    const std::pair<ParamBlock::Kind, int> vectors[] = {{ParamBlock::bias, layer.bias},
                                                        {ParamBlock::norm_weight, layer.norm_weight},
                                                        {ParamBlock::norm_bias, layer.norm_bias}};
    for (const auto &[kind, tensor] : vectors)
      if (tensor >= 0) blocks.push_back({kind, l, net.parameters[tensor].offset, layer.out, 0, layer.out});
  }
  return blocks;
}

Program plan_program(const Architecture &net, PassKind kind) {
  ProgramBuilder builder(net);
  const int last = net.depth() - 1;
  switch (kind) {
    case PassKind::inference:
      builder.forward(false);
      builder.add(Step::store_output, last);
      break;
    case PassKind::inference_loss:
      builder.forward(false);
      builder.add(Step::loss, last);
      break;
    case PassKind::forward:
      builder.forward(true);
      builder.add(Step::store_output, last);
      break;
    case PassKind::gradient:
      builder.forward(true);
      builder.add(Step::loss, last);
      builder.backward();
      break;
    case PassKind::backward:
    case PassKind::backward_to_input:
      builder.add(Step::load_grad_output, last);
      builder.backward();
      if (kind == PassKind::backward_to_input) builder.add(Step::store_grad_input, 0);
      break;
  }
  return builder.take();
}

}  // namespace gradcore
