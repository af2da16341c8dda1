// The products of a dense layer on blocks of rows, by the register tile of kernels/gemm-inl.h. Serial; the schedule
// handles threads. k ascends in every sum, so results depend neither on how rows are divided nor on the blocking below.
#ifndef GRADCORE_OPS_GEMM_HPP
#define GRADCORE_OPS_GEMM_HPP

#include "kernels/kernel_table.hpp"

namespace gradcore {

// Cuts `cols` columns into panels of 1..tile_vectors vectors, as evenly as possible: with 16 lanes, 100 columns are 7
// vectors, cut 4 + 3.
class PanelSplit {
 public:
  PanelSplit(index cols, int lanes, int tile_vectors) noexcept;

  index num_panels() const noexcept { return num_panels_; }
  index padded_cols() const noexcept { return vectors_ * lanes_; }
  index begin(index panel) const noexcept { return first_vector(panel) * lanes_; }  // its first column
  int vectors(index panel) const noexcept { return int(first_vector(panel + 1) - first_vector(panel)); }
  int cols(index panel) const noexcept;         // without padding
  index panel_of(index column) const noexcept;  // the panel that holds it

 private:
  index first_vector(index panel) const noexcept { return panel * base_ + (panel < extra_ ? panel : extra_); }
  index cols_, lanes_, vectors_, num_panels_, base_, extra_;
};

// Size of matrix B [depth, cols] in panels, rounded if the products round. Panel p is at offset
// elements(depth) * begin(p); its rows are contiguous and padded with zeros to full vectors.
template <class T>
index packed_size(const KernelSet<T> &set, index depth, index cols) noexcept;

// Pack rows [out_begin, out_end) of weight [out, in], row stride ld, into the panels of B: weight^T for the forward
// product, weight for the backward product. For forward, the rows begin and end where vectors do, and at the end of W.
// past_caches: write directly to memory, for weights too large for the caches; `packed` must then be vector-aligned.
template <class T>
void pack_forward(const KernelSet<T> &set, index in, index out, const T *weight, index ld, index out_begin,
                  index out_end, T *packed, bool past_caches = false) noexcept;
template <class T>
void pack_backward(const KernelSet<T> &set, index in, index out, const T *weight, index ld, index out_begin,
                   index out_end, T *packed, bool past_caches = false) noexcept;

// Matrix B: in panels, or in place with row stride ld and readable up to a full vector beyond its end.
template <class T>
struct RightMatrix {
  const T *data;
  index ld = 0;  // 0: panels
};

// What follows a product, prefetched while it runs.
template <class T>
struct Following {
  const T *b = nullptr;  // panels of the same width
  T *written = nullptr;  // rows of the same shape as c's; c's unless given
  index written_ld = 0;
};

// Depth of a block: a panel of 64 float columns then takes 256 kB and stays in the L2 cache, from where full tiles run
// at peak (bench/bench_kernels.cpp). Deeper panels would not fit.
inline constexpr index kDepthBlock = 1024;

// c [rows, cols] = init + a [rows, depth] * B, bit-identical for both kinds of B. c may be padded: only `cols` columns
// are written. TileInit::multiply allows only one block of depth. Here and below, lengths of sums are counted in
// elements of the operands, which may hold two terms each (ProductKernels).
template <class T>
void gemm(const KernelSet<T> &set, index rows, index depth, index cols, const T *a, index lda, const RightMatrix<T> &b,
          T *c, index ldc, TileInit init, const T *bias, const Following<T> &following = {}) noexcept;

// Rows may lie in memory in pieces of `rows` rows, with `gap` extra elements between pieces.
struct Pieces {
  index rows = index(1) << 62, gap = 0;

  template <class T>
  T *row(T *data, index ld, index r) const noexcept {
    return data + r * ld + r / rows * gap;
  }
};

// Whether a weight gradient of so many inputs packs delta, part by part, so that its columns are adjacent. Otherwise
// the lines that a tile touches of both operands would not fit the L1 cache.
template <class T>
bool packs_delta(const KernelSet<T> &set, index in) noexcept;
inline constexpr index kPackedRows = 256, kPackedColumns = 64;

// dw[o, i] (+)= sum_r delta[r, o] * x[r, i] for o in [out_begin, out_end), all i < in, r ascending.
// Both lie in the same pieces; x is padded. next_x: x of the weight gradient that follows. dw has row stride `in`;
// `accumulate` adds to its contents. packed_delta: buffer [kPackedRows, kPackedColumns] to pack into, or null to read
// delta in place; no bit depends on it.
template <class T>
void gemm_params(const KernelSet<T> &set, index rows, index in, index out_begin, index out_end, const T *delta,
                 index ldd, const T *x, index ldx, T *dw, bool accumulate, const Pieces &pieces = {},
                 const T *next_x = nullptr, T *packed_delta = nullptr) noexcept;

}  // namespace gradcore

#endif
