// Decisions from shapes alone, never from the number of threads: how rows are cut, how parameters are cut, and the
// order of the steps of a pass.
#ifndef GRADCORE_NETWORK_PLAN_HPP
#define GRADCORE_NETWORK_PLAN_HPP

#include <vector>

#include "network/architecture.hpp"

namespace gradcore {

// A batch is processed in chunks; the activations and deltas of a chunk are in memory together. A chunk is cut into
// tiles, each with its own sums over rows, which are merged in order. A thread takes a span of neighbouring tiles
// through the steps while it stays in its cache; spans change no bit. Normally all threads share one chunk after the
// other. With many chunks and few parameters, neighbouring chunks form a group; one thread takes a whole group and sums
// its gradients, and threads meet only once.
struct RowPlan {
  index rows, chunk_rows, tile_rows;
  index span_tiles;   // at most
  index fill_layers;  // weight gradients are computed after every so many layers of a backward pass
  index groups = 1;   // 1: the chunks are shared

  index num_chunks() const noexcept { return (rows + chunk_rows - 1) / chunk_rows; }
  index max_tiles() const noexcept { return tiles_of(chunk_rows); }  // of a chunk
  index num_sums() const noexcept { return groups * max_tiles(); }   // of tiles, over a group's chunks
  bool shares_chunks() const noexcept { return groups == 1; }
  index tiles_of(index count) const noexcept { return (count + tile_rows - 1) / tile_rows; }
  // Rows of tile t in a batch of one chunk.
  index tile_count(index t) const noexcept { return (t + 1) * tile_rows <= rows ? tile_rows : rows - t * tile_rows; }
};

// whole_batch: all rows in one chunk (batch norm; or backward is a later call).
RowPlan plan_rows(const Architecture &net, index rows, bool whole_batch) noexcept;
// One chunk, because nothing is kept; only tiles and spans matter.
RowPlan plan_inference(const Architecture &net, index rows) noexcept;

// A contiguous part of the flat parameter buffer: rows [out_begin, out_end) of a weight, or a whole vector. The unit of
// work for weight gradients, norms and updates.
struct ParamBlock {
  enum Kind { weight, bias, norm_weight, norm_bias } kind;
  int layer;
  index offset, size;
  index out_begin, out_end;
};
// Strips end where vectors of the packed weights end, so that each can be packed separately.
std::vector<ParamBlock> plan_params(const Architecture &net, int lanes, int tile_vectors);

// A pass is a list of stages. A thread takes each of its spans through all steps of a stage; all threads meet after a
// stage that ends in a merge (statistics of the whole batch).
struct Step {
  enum Kind {
    load_input,        // x of layer 0 from the caller's matrix
    dense,             // z = W x + b; with training batch norm: moments of the tile
    finish,            // y = norm(z), h = act(y) + x, act' saved
    store_output,      // to the caller
    loss,              // loss of the tile; delta of the last layer
    load_grad_output,  // delta of the last layer from the caller's matrix
    backward_hidden,   // delta of layer l (with batch norm: dy and its sums) from delta of layer l + 1
    backward_norm,     // batch norm: dz from dy and the merged sums
    store_grad_input   // to the caller
  } kind;
  int layer;
};
struct Stage {
  enum Merge { none, moments, sums } merge = none;
  int layer = -1;        // of the merge
  int final_delta = -1;  // the layer whose delta is final after the stage
  std::vector<Step> steps;
};
using Program = std::vector<Stage>;

enum class PassKind { inference, inference_loss, forward, backward, backward_to_input, gradient };
inline constexpr int kNumPassKinds = 6;
Program plan_program(const Architecture &net, PassKind kind);

}  // namespace gradcore

#endif
