// The seam: all code compiled for a particular CPU is reached through these function pointers. A table is resolved when
// a Network is built (or an op is called), never inside a loop.
//
// Terms used below
//   block     a rectangle of a row-major matrix: rows, cols, pointer, row stride (`ld*`, in elements)
//   padded    memory up to cols rounded up to full vectors may be read and written; the padding has no meaning
//   exact     nothing outside [0, cols) is touched
// No kernel fails, allocates, locks, or calls the standard library. Arguments never overlap unless the comment says so.
// The order of every sum depends only on the shapes of its arguments.
#ifndef GRADCORE_KERNELS_KERNEL_TABLE_HPP
#define GRADCORE_KERNELS_KERNEL_TABLE_HPP

#include <cstddef>
#include <cstdint>

#include "gradcore/gradcore.h"

namespace gradcore {

using index = std::int64_t;

// One product tile: C[i, j] = init + sum_k A[i, k] * B[k, j], k ascending, one accumulator per sum, so the bits of C do
// not depend on how a matrix is cut into tiles.
enum class TileInit : int { zero, bias, accumulate, multiply };  // 0, bias[j], C[i, j]; or C[i, j] *= the sum from 0

template <class T>
struct GemmTile {
  index depth;  // of the sum over k
  const T *a;   // A[i, k] = a[i * a_row + k * a_step]
  index a_row, a_step;
  const T *b;  // B[k, j] = b[k * b_step + j], readable up to full vectors
  index b_step;
  index run, jump;  // after every `run` steps of k, A and B skip `jump` elements
  T *c;             // C[i, j] = c[i * c_row + j]
  index c_row;
  int cols;  // columns of C that are written (exact), <= vectors * lanes
  TileInit init;
  const T *bias;  // read with TileInit::bias, readable up to full vectors
  T *written;     // rows of `cols` elements that will be written: C's, or others where C is in cache
  index written_row;
  // Prefetch of what is needed next: at each k one cache line and, in tiles at least two vectors wide, the line
  // `ahead_more` elements further on, both advancing like the rows of b. b and 0 if there is nothing to prefetch.
  const T *ahead;
  index ahead_more;
};

template <class T>
using GemmTileKernel = void (*)(const GemmTile<T> &tile);

// The largest of any target.
inline constexpr std::size_t kMaxVectorBytes = 64;
inline constexpr std::size_t kCacheLine = 64;  // bytes

// The largest tile of any target; tables are [rows - 1][vectors - 1], null beyond the target's own.
inline constexpr int kMaxTileRows = 8;
inline constexpr int kMaxTileVectors = 4;

// One optimizer update over a range. The hyperparameters are double, so that 1 - beta keeps its digits; the arithmetic
// on elements is in T.
template <class T>
struct UpdateArgs {
  index n;
  T *param;
  const T *grad;
  T *state0, *state1;  // momentum or first moment; second moment. Unused ones are null.
  double lr, momentum, weight_decay, alpha, beta1, beta2, eps;
  double bias1, bias2;   // adam: 1 - beta1^t, 1 - beta2^t
  double clip_coef;      // multiplies the gradient first (1: no clipping)
  double clip_value;     // then clamps it to [-clip_value, clip_value] (infinity: no clamping)
  bool nesterov, first;  // first: state0 is initialised with the gradient (PyTorch's SGD)
  double *update_sumsq;  // when not null: += sum of squared updates
};

// Accumulated statistics of one array, or of several blocks of it; zero-initialise, then accumulate. Sums are over
// finite elements. A long double holds the square of any double where it is wider than double; elsewhere sumsq may
// overflow or underflow for double data.
struct StatsSums {
  index count, zeros, subnormals, nonfinite;
  double sum, max_abs;
  long double sumsq;
  index flushed[4], overflowed[4];  // as gradcore_array_stats; derived counts are final
};

// How many elements have each exponent. Bins outside [begin, end) are zero, so that few need be cleared for the next
// pass.
template <class T>
struct Histogram {
  static constexpr int kBins = sizeof(T) == 4 ? GRADCORE_NUM_BINS_F32 : GRADCORE_NUM_BINS_F64;
  index begin, end;
  index bins[kBins];
};

// Whether a sum of squares of doubles neither overflowed nor lost digits to underflow.
inline bool kept_digits(double sum_of_squares) noexcept { return sum_of_squares > 1e-280 && sum_of_squares < 1e300; }

// The operands of products consist of elements. An element holds one term of a sum or, with bfloat16 on CPUs that
// multiply pairs, two neighbouring terms; T is then just 32 bits, not a number. A missing last term is zero.
template <class T>
struct ProductKernels {
  using Element = T;
  int tile_vectors;                // columns of the widest GEMM tile, in vectors
  int params_vectors;              // the same for a weight gradient, whose panels are not packed
  int params_rows;                 // rows of a block of a weight gradient's operands
  index most_outer_products;       // up to this many rows, a weight gradient is outer products instead of tiles
  bool packs_delta;                // the weight gradient of a wide layer takes delta from a packed copy
  int tile_rows[kMaxTileVectors];  // rows of the tallest tile of each width
  int pairs;                       // 1 if an element holds two terms, else 0

  // (gemm-inl.h, bfloat16-inl.h, pairs-inl.h)
  GemmTileKernel<T> gemm_tile[kMaxTileRows][kMaxTileVectors];
  // C[i, j] = sum_k a[k * lda + i] * b[k * ldb + j] as a tile sums it, for 1 to most_outer_products k. The rows of C
  // are cols apart; b is readable up to full vectors.
  void (*outer_products)(index depth, index rows, index cols, const T *a, index lda, const T *b, index ldb, T *c);
  // panel[k * width + j] = j < cols ? src[j * ld + k] : 0 for k < depth, in the vectors that hold any of the columns.
  // With pairs, panel[k / 2 * width + j] holds k and k + 1.
  // past_caches: write directly to memory; panel must then be vector-aligned.
  void (*pack_transposed)(index depth, index cols, const T *src, index ld, index width, T *panel, bool past_caches);
  // panel[k * width + j] = j < cols ? src[k * ld + j] : 0 for k < depth, j < width, in the same way. width is padded.
  void (*pack_rows)(index depth, index cols, const T *src, index ld, index width, T *panel, bool past_caches);
  // Rounds a block to bfloat16 operands: with terms along rows, by_rows [rows, elements(cols)], and along columns,
  // by_columns [elements(rows), cols]; either may be null. The pointer is null if products do not round.
  void (*round)(index rows, index cols, const T *x, index ldx, T *by_rows, index ld_rows, T *by_columns,
                index ld_columns);

  int terms() const noexcept { return 1 + pairs; }  // in an element
  index elements(index num_terms) const noexcept { return (num_terms + pairs) >> pairs; }
};

template <class T>
struct KernelSet : ProductKernels<T> {
  int lanes;  // elements of a vector

  // ---- activations (activation-inl.h); indexed by gradcore_activation. Exact. Output may be input.
  void (*activation_forward[GRADCORE_NUM_ACTIVATIONS])(index rows, index cols, const T *z, index ldz, T *h, index ldh);
  // h = act(z) and d = act'(z) at once; h may be z, or d may be z.
  void (*activation_forward_grad[GRADCORE_NUM_ACTIVATIONS])(index rows, index cols, const T *z, index ldz, T *h,
                                                            index ldh, T *d, index ldd);
  // dz = h > 0 ? dy : slope * dy, in place on dy: relu (0) and leaky_relu (0.01) from the output.
  void (*slope_backward)(index rows, index cols, T *dy, index lddy, const T *h, index ldh, T slope);

  // ---- losses (loss-inl.h). Blocks of rows; exact. Return the unscaled sum of the losses over the block in double;
  // grad = scale * dloss/dy unless grad is null. grad may be y.
  double (*cross_entropy_labels)(index rows, index cols, const T *y, index ldy, const index *labels, T scale, T *grad,
                                 index ldg);
  double (*cross_entropy_probs)(index rows, index cols, const T *y, index ldy, const T *target, index ldt, T scale,
                                T *grad, index ldg);
  // binary_cross_entropy, mse, mae, huber; indexed by gradcore_loss, the cross_entropy entry is null.
  double (*elementwise_loss[GRADCORE_NUM_LOSSES])(index rows, index cols, const T *y, index ldy, const T *target,
                                                  index ldt, T scale, T *grad, index ldg);

  // ---- normalization (normalize-inl.h). Exact.
  // For each column of a block: its mean beyond the precision of T, as mean + rest, and m2, the sum of squared
  // deviations from it.
  void (*column_moments)(index rows, index cols, const T *x, index ldx, T *mean, T *rest, T *m2);
  // y = (x - mean[c]) * scale[c] + shift[c]; y may be x.
  void (*batch_norm_forward)(index rows, index cols, const T *x, index ldx, const T *mean, const T *scale,
                             const T *shift, T *y, index ldy);
  // sum_dy[c] = sum dy, sum_dy_xhat[c] = sum dy * (x - mean[c]) * inv_std[c] over the block (overwrites).
  void (*batch_norm_sums)(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *mean,
                          const T *inv_std, T *sum_dy, T *sum_dy_xhat);
  // dx = a[c] * (dy - s1[c] - (x - mean[c]) * inv_std[c] * s2[c]); dx may be dy. (s1, s2 are divided by N.)
  void (*batch_norm_backward)(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *mean,
                              const T *inv_std, const T *a, const T *s1, const T *s2, T *dx, index lddx);
  // y = (x - mean) * inv_std * gamma + beta per row, with the biased variance; writes mean[r] and inv_std[r].
  // rms: mean is taken as 0 (and written so) and beta may be null. y may be x.
  void (*layer_norm_forward)(index rows, index cols, const T *x, index ldx, const T *gamma, const T *beta, bool rms,
                             T eps, T *y, index ldy, T *mean, T *inv_std);
  // dx of the above; dx may be dy.
  void (*layer_norm_backward)(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *gamma,
                              const T *mean, const T *inv_std, bool rms, T *dx, index lddx);
  // dgamma[c] = sum_r dy * (x - mean[r]) * inv_std[r], dbeta[c] = sum_r dy (overwrites; dbeta may be null).
  void (*layer_norm_param_grads)(index rows, index cols, const T *dy, index lddy, const T *x, index ldx, const T *mean,
                                 const T *inv_std, T *dgamma, T *dbeta);

  // ---- elementwise on blocks (elementwise-inl.h). Exact.
  void (*add)(index rows, index cols, const T *x, index ldx, T *y, index ldy);       // y += x
  void (*multiply)(index rows, index cols, const T *x, index ldx, T *y, index ldy);  // y *= x
  void (*copy)(index rows, index cols, const T *x, index ldx, T *y, index ldy);      // y = x
  void (*fetch_to_write)(index rows, index cols, const T *x, index ldx);             // takes its lines from other cores
  void (*scale)(index n, T factor, T *x);                                            // x *= factor
  void (*clamp)(index n, T bound, T *x);                                             // to [-bound, bound]; NaN stays
  void (*update[GRADCORE_NUM_OPTIMIZERS])(const UpdateArgs<T> &args);

  // ---- sums and statistics (reduce-inl.h). Exact.
  bool (*all_finite)(index rows, index cols, const T *x, index ldx);
  void (*column_sum)(index rows, index cols, const T *x, index ldx, bool accumulate, T *sum);
  // Sum of squares in double, correct for all finite floats (a partial sum is redone in double if its float32 value
  // overflows or is tiny). For double data it may overflow or underflow; norm2 (ops/reduce.hpp) handles that.
  double (*sum_of_squares)(index rows, index cols, const T *x, index ldx);
  double (*max_abs)(index n, const T *x);  // NaN if any element is NaN
  // Statistics of a recorded pass (stats-inl.h): those of the block are added to sums and to histogram, which may be
  // null.
  void (*block_stats)(index rows, index cols, const T *x, index ldx, StatsSums *sums, Histogram<T> *histogram);
  // nonzero[c] |= any x[r, c] != 0 (NaN counts as nonzero); *zeros += number of x == 0.
  void (*column_nonzero)(index rows, index cols, const T *x, index ldx, unsigned char *nonzero, index *zeros);
  // *sumsq += sum d^2; *below += count of |d| < threshold.
  void (*derivative_stats)(index rows, index cols, const T *d, index ldd, T threshold, double *sumsq, index *below);
};

struct KernelTable {
  const char *name;
  KernelSet<float> f32;
  KernelSet<double> f64;
  ProductKernels<float> bf16;  // operands rounded to bfloat16, for the products of f32

  template <class T>
  const KernelSet<T> &set() const;
};
template <>
inline const KernelSet<float> &KernelTable::set<float>() const {
  return f32;
}
template <>
inline const KernelSet<double> &KernelTable::set<double>() const {
  return f64;
}

// One per file in targets/.
#if defined(__x86_64__) && defined(__LP64__)
namespace baseline {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512_bf16 {
extern const ProductKernels<float> kProducts;  // by pairs
}
#elif defined(__AARCH64EL__)
namespace neon {
extern const KernelTable kTable;
}
#else
#error "gradcore: expected x86-64 or little-endian AArch64"
#endif

// dispatch.cpp
int num_targets() noexcept;
const KernelTable &target(int i) noexcept;
bool target_supported(int i) noexcept;         // by this CPU
const KernelTable &current_target() noexcept;  // the best supported one, GRADCORE_TARGET, or set_target's
bool set_target(const char *name) noexcept;    // false: unknown or unsupported
// The float kernels of the current target, with products of operands rounded to bfloat16.
const KernelSet<float> &bfloat16_kernels() noexcept;
bool has_bfloat16_products() noexcept;  // the CPU's own, by pairs

}  // namespace gradcore

#endif
