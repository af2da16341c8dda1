// How parameters are cut into blocks: each can be computed, updated and packed by one thread.
#include <algorithm>
#include <vector>

#include "check.hpp"
#include "network/plan.hpp"

namespace gradcore::testing {
namespace {

Architecture net_of(const std::vector<int64_t> &widths, gradcore_dtype dtype) {
  const std::vector<int32_t> activations(widths.size() - 2, GRADCORE_RELU);
  gradcore_net_config config{};
  config.size = sizeof config;
  config.widths = widths.data(), config.num_widths = int32_t(widths.size());
  config.activations = activations.data();
  config.dtype = dtype;
  return make_architecture(config);
}

// The blocks of each weight cover its rows in order, begin where vectors do, and are small enough to occupy
// several threads, as far as whole cache lines allow.
void check_blocks(const Architecture &net, int lanes, int tile_vectors) {
  index weights = 0, covered = 0;
  for (const LayerSpec &layer : net.layers) weights += layer.in * layer.out;
  const index line = std::max<index>(lanes, 64 / net.element_size());
  for (const ParamBlock &block : plan_params(net, lanes, tile_vectors)) {
    if (block.kind != ParamBlock::weight) continue;
    const LayerSpec &layer = net.layers[block.layer];
    const index rows = block.out_end - block.out_begin;
    CHECK(rows > 0 && block.out_begin % lanes == 0 && block.size == rows * layer.in);
    CHECK(block.offset == net.parameters[layer.weight].offset + block.out_begin * layer.in);
    CHECK(block.out_begin == covered);
    CHECK(block.size <= std::max<index>(8192, weights / 8) + line * layer.in);
    covered = block.out_end == layer.out ? 0 : block.out_end;
  }
  CHECK(covered == 0);
}

void test_blocks() {
  for (const std::vector<int64_t> &widths : {std::vector<int64_t>{784, 64, 10},
                                             {784, 100, 10},
                                             {1624, 33, 3},
                                             {5000, 130, 1},
                                             {20, 3},
                                             {7, 300, 300, 300, 2},
                                             std::vector<int64_t>(40, 64)})
    for (const gradcore_dtype dtype : {GRADCORE_FLOAT32, GRADCORE_FLOAT64, GRADCORE_BFLOAT16})
      for (const int lanes : {2, 4, 8, 16})
        for (const int tile_vectors : {2, 3, 4}) check_blocks(net_of(widths, dtype), lanes, tile_vectors);
}

// A net of which one layer is nearly all has work for as many threads as a deep one.
void test_wide_inputs() {
  index strips = 0;
  for (const ParamBlock &block : plan_params(net_of({784, 128, 10}, GRADCORE_FLOAT32), 16, 4))
    strips += block.kind == ParamBlock::weight && block.layer == 0;
  CHECK(strips == 8);
}

}  // namespace
}  // namespace gradcore::testing

int main() {
  gradcore::testing::test_blocks();
  gradcore::testing::test_wide_inputs();
  return gradcore::testing::report();
}
