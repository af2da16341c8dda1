#include "network/plan.hpp"

#include <algorithm>

#include "ops/gemm.hpp"

namespace gradcore {

namespace {

// Tiles of more rows than these are cut in two (bench/experiments.md, Caches and threads):
// - a whole chunk, for a second thread: 5 to 16 rows are 1.1 to 1.8 times as fast; two tiles instead of one make
//   statistics 4 % more expensive on one thread;
// - a few tiles, for further threads, while tiles have enough work, kFewTilesElements of a layer;
// - many tiles, because of the caches. Many is 16, which 6 or 16 threads share more evenly than 8; with batch norm it
//   is 8, because its sums are merged tile by tile.
constexpr index kUncutRows = 4;
constexpr index kFewTilesElements = 1024, kFewTilesLeastRows = 8, kFewTilesMostRows = 16;
constexpr index kManyTiles = 16, kManyTilesOfBatchNorm = 8, kManyTilesRows = 64;
constexpr double kChunkBytes = 2e6;   // a chunk's activations and deltas: about the L2 caches of two cores
constexpr index kMinChunkRows = 256;  // with fewer rows, reading and writing dW costs more than its products
constexpr double kSpanBytes = 256e3;  // input and output of a layer for a span: a part of the L2 cache
constexpr index kLeastSpanRows = 96;  // with fewer, reading the packed weights costs more than a larger span
// Adding up the gradients of groups takes 1/2 % of the time with 1024 rows per group, 1 % with 512 (w128 d8).
constexpr index kLeastGroups = 8, kMostGroups = 32, kGroupRows = 512;
constexpr index kLeastGroupRows = 128;  // rows of a group's chunk (64 rows of w64: 0.97 of the speed)
constexpr double kGroupBytes = 1e6;     // bytes of a group's chunk: one core's L2 cache
// The largest size of the parameters for which groups pay. With 2 MB, the speed is 1.13 to 1.24 times that without
// groups if a message between cores takes 0.35 us, and equal if it takes 0.1 us; with 2.6 MB and more, it is 0.93 times
// at 0.1 us (bench/experiments.md).
constexpr double kGroupParameters = 2e6;
// Rows of a weight in a ParamBlock: few, so that threads finish together. If one layer has most of the weights (the
// first of 784-64-10), its blocks are smaller, down to an eighth of all weights: with two threads, a gradient is 1.14
// to 1.45 times as fast (bench/experiments.md).
constexpr index kStripRows = 64, kStripsOfAllWeights = 8, kLeastStripSize = 8192;
constexpr double kFillBytes = 1100e3;  // inputs and deltas that await their weight gradients, so that they stay in L2

index round_up(index value, index unit) noexcept { return (value + unit - 1) / unit * unit; }
index divide_up(index value, index by) noexcept { return (value + by - 1) / by; }

// Bytes of an element of an activation or a delta, including the rounded copy for weight gradients.
double element_bytes(const Architecture &net) noexcept {
  return double(net.element_size()) + (net.dtype == GRADCORE_BFLOAT16 ? 2 : 0);
}
// Tiles have a multiple of this many rows, so that both rows of a pair in a weight gradient's operands are in one tile.
index row_unit(const Architecture &net) noexcept { return net.dtype == GRADCORE_BFLOAT16 ? 2 : 1; }

// The number of tiles is a power of two, and all but the last have the same size, so that threads get equal shares.
index tile_rows(const Architecture &net, index rows) noexcept {
  const index many_tiles = net.any_batch_norm ? kManyTilesOfBatchNorm : kManyTiles;
  index tiles = 1;
  const auto most = [&] {
    if (tiles == 1) return kUncutRows;
    if (tiles >= many_tiles) return kManyTilesRows;
    return std::clamp(kFewTilesElements / net.max_width(), kFewTilesLeastRows, kFewTilesMostRows);
  };
  while (tiles * most() < rows) tiles *= 2;
  return round_up(divide_up(rows, tiles), row_unit(net));
}

// Bytes per row that a backward pass needs: input, outputs, deltas, and the input of normalizations.
double bytes_per_row(const Architecture &net) noexcept {
  index elements = net.in_features();
  for (const LayerSpec &layer : net.layers) elements += (layer.normalization ? 3 : 2) * layer.out;
  return element_bytes(net) * double(elements);
}

index span_tiles(const Architecture &net, index rows, index tile) noexcept {
  const double row_bytes = 2 * element_bytes(net) * double(net.max_width());
  return divide_up(std::min(rows, std::max(kLeastSpanRows, index(kSpanBytes / row_bytes))), tile);
}

// The number of layers between computations of weight gradients. Threads meet before each, so no more often than the
// caches require.
index fill_layers(const Architecture &net, double chunk_bytes) noexcept {
  if (chunk_bytes <= 2 * kChunkBytes) return net.depth();
  return std::max<index>(1, index(kFillBytes / chunk_bytes * net.depth()));
}

index least_group_rows(const Architecture &net) noexcept { return std::max(kLeastGroupRows, net.max_width()); }

// As many groups as have enough rows, to serve as many threads; 1 if all threads share the chunks.
index num_groups(const Architecture &net, index rows) noexcept {
  const index least = least_group_rows(net);
  if (rows < kLeastGroups * least || double(net.element_size()) * double(net.flat_size) > kGroupParameters) return 1;
  index groups = kLeastGroups;
  while (groups < kMostGroups && rows >= 2 * groups * std::max(kGroupRows, least)) groups *= 2;
  return groups;
}

// Rows of a chunk, such that all groups have equally many chunks.
index group_chunk_rows(const Architecture &net, index rows, index groups, double row_bytes) noexcept {
  const index most_chunks = rows / least_group_rows(net) / groups * groups;
  const index chunks = round_up(divide_up(rows, std::max<index>(1, index(kGroupBytes / row_bytes))), groups);
  return round_up(divide_up(rows, std::min(chunks, most_chunks)), row_unit(net));
}

// Where the strips of a weight begin, and its end: where panels do or, if strips would then have more than `most`
// elements, where vectors and cache lines do.
std::vector<index> strip_cuts(const LayerSpec &layer, index most, index unit, int lanes, int tile_vectors) {
  const PanelSplit split(layer.out, lanes, tile_vectors);
  const index panels = split.num_panels(), units = divide_up(layer.out, unit);
  const index by_panels = divide_up(panels, std::max<index>(1, kStripRows / (lanes * tile_vectors)));
  const index strips = std::max(by_panels, std::min(units, divide_up(layer.in * layer.out, most)));
  std::vector<index> cuts;
  for (index i = 0; i <= strips; i++) {
    const index cut = strips > by_panels ? units * i / strips * unit : split.begin(panels * i / strips);
    cuts.push_back(std::min(cut, layer.out));
  }
  return cuts;
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

  // The delta of `layer` is final here; with batch norm, the stage continues to its next merge.
  void finish_delta(int layer, bool end_stage) {
    program_.back().final_delta = layer;
    if (end_stage) program_.emplace_back();
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
      finish_delta(l + 1, !net_.layers[l].batch_norm());
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
  const double row_bytes = bytes_per_row(net);
  const bool may_cut = !whole_batch && !net.any_batch_norm;
  if (const index groups = may_cut ? num_groups(net, rows) : 1; groups > 1) {
    const index chunk = group_chunk_rows(net, rows, groups, row_bytes);
    const index tile = round_up(divide_up(chunk, divide_up(chunk, kManyTilesRows)), row_unit(net));
    return {rows, chunk, tile, span_tiles(net, chunk, tile), net.depth(), groups};
  }
  index chunk = rows;
  if (may_cut) {
    // A weight gradient is read and written once per chunk, so a chunk has at least as many rows as the widest layer.
    const index most = std::max({kMinChunkRows, net.max_width(), index(kChunkBytes / row_bytes)});
    chunk = divide_up(rows, divide_up(rows, most));
  }
  const index tile = tile_rows(net, chunk);
  chunk = std::min(rows, round_up(chunk, tile));
  return {rows, chunk, tile, span_tiles(net, chunk, tile), fill_layers(net, row_bytes * double(chunk))};
}

RowPlan plan_inference(const Architecture &net, index rows) noexcept {
  const index tile = tile_rows(net, rows);
  return {rows, rows, tile, span_tiles(net, rows, tile), 1};
}

std::vector<ParamBlock> plan_params(const Architecture &net, int lanes, int tile_vectors) {
  index weights = 0;
  for (const LayerSpec &layer : net.layers) weights += layer.in * layer.out;
  const index most = std::max(kLeastStripSize, weights / kStripsOfAllWeights);
  const index unit = std::max<index>(lanes, index(kCacheLine) / net.element_size());
  std::vector<ParamBlock> blocks;
  for (int l = 0; l < net.depth(); l++) {
    const LayerSpec &layer = net.layers[l];
    const index offset = net.parameters[layer.weight].offset;
    const std::vector<index> cuts = strip_cuts(layer, most, unit, lanes, tile_vectors);
    for (std::size_t i = 0; i + 1 < cuts.size(); i++) {
      const index begin = cuts[i], end = cuts[i + 1];
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
