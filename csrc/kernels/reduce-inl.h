// Sums over blocks and arrays, which are cut into chunks: partial sums are in T and become double at the end of a
// chunk. The cuts depend only on rows and cols, and so does the order of every sum.

namespace gradcore::GRADCORE_TARGET {

// The most elements of a chunk, with rows rounded up to full vectors. A chunk stays in the first-level cache, and a few
// binary digits suffice to count its vectors (stats-inl.h).
inline constexpr index kChunk = 64 * GRADCORE_VECTOR_BYTES;

// ---- drivers ----

template <class T>
struct Block {
  const T *x;
  index rows, cols, ld;

  index size() const { return rows * cols; }
  // Number of lanes beyond the ends of rows, which are read as zero.
  index padding() const { return rows * ((kLanes<T> - cols % kLanes<T>) % kLanes<T>); }
};

// Calls op(chunk) for the chunks of a block, each some of its rows or a part of one row.
template <class T, class Op>
GRADCORE_INLINE void for_chunks(Block<T> block, Op &op) {
  if (block.cols <= 0) return;
  const index width = block.cols < kChunk ? block.cols : kChunk;
  const index height = kChunk / (width + Block<T>{nullptr, 1, width, 0}.padding());
  for (index r = 0; r < block.rows; r += height) {
    const index rows = block.rows - r < height ? block.rows - r : height;
    for (index c = 0; c < block.cols; c += width) {
      const index cols = block.cols - c < width ? block.cols - c : width;
      op(Block<T>{block.x + r * block.ld + c, rows, cols, block.ld});
    }
  }
}

// Calls op(pointer, lanes, which) for every vector of a block, row by row; `which` selects one of two accumulators.
template <class T, class Op>
GRADCORE_INLINE void for_block_vectors(const Block<T> &block, Op &op) {
  constexpr int W = kLanes<T>;
  for (index r = 0; r < block.rows; r++) {
    const T *row = block.x + r * block.ld;
    index c = 0;
    for (; c + 2 * W <= block.cols; c += 2 * W) {
      op(row + c, AllLanes<T>{}, 0);
      op(row + c + W, AllLanes<T>{}, 1);
    }
    for (; c + W <= block.cols; c += W) op(row + c, AllLanes<T>{}, 0);
    if (c < block.cols) op(row + c, FirstLanes<T>{int(block.cols - c)}, 1);
  }
}

// kLanes<double> elements as doubles.
GRADCORE_INLINE Vec<double> load_wide(const double *p) { return load(p); }
GRADCORE_INLINE Vec<double> load_wide(const float *p) {
  typedef float Half __attribute__((vector_size(GRADCORE_VECTOR_BYTES / 2), aligned(4), may_alias));  // as vec.hpp: U
  static_assert(alignof(Half) == 4);
  return __builtin_convertvector(*reinterpret_cast<const Half *>(p), Vec<double>);
}
// The first n elements; the other lanes are zero.
template <class T>
GRADCORE_INLINE Vec<double> load_wide_partial(const T *p, int n) {
  double lanes[kLanes<double>] = {};
  for (int k = 0; k < n; k++) lanes[k] = double(p[k]);
  return load(lanes);
}

// The sum of term(index, lanes as in load_wide) over an array, in double with two accumulators.
template <class T, class Term>
GRADCORE_INLINE double wide_sum(index n, const Term &term) {
  constexpr int W = kLanes<double>;
  Vec<double> acc[2] = {};
  index i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    acc[0] += term.full(i);
    acc[1] += term.full(i + W);
  }
  for (; i < n; i += W) acc[0] += n - i >= W ? term.full(i) : term.partial(i, int(n - i));
  return reduce_add<double>(acc[0] + acc[1]);
}

template <class T>
struct WideSum {
  const T *x;
  GRADCORE_INLINE_MEMBER Vec<double> full(index i) const { return load_wide(x + i); }
  GRADCORE_INLINE_MEMBER Vec<double> partial(index i, int n) const { return load_wide_partial(x + i, n); }
};

template <class T>
struct WideSquares {
  const T *x;
  GRADCORE_INLINE_MEMBER Vec<double> full(index i) const { return square(load_wide(x + i)); }
  GRADCORE_INLINE_MEMBER Vec<double> partial(index i, int n) const { return square(load_wide_partial(x + i, n)); }
  static GRADCORE_INLINE_MEMBER Vec<double> square(Vec<double> v) { return v * v; }
};

template <class T>
GRADCORE_INLINE index add_lanes(IVec<T> counts) {
  return fold<Sum, typename VecTraits<T>::Int, kLanes<T>>(counts);
}

// ---- sums of squares ----
//
// The squares of a chunk of float are summed in float. If the sum is below 2^-90, squares that underflow (each with an
// error of at most 2^-126, even with flush-to-zero) could be more than 2^-25 of it; if it is not finite, it may have
// overflowed. Such a chunk is summed again in double, where no float's square overflows or underflows. NaN and infinity
// propagate.

template <class T>
GRADCORE_INLINE T chunk_squares(const Block<T> &chunk) {
  constexpr int W = kLanes<T>;
  Vec<T> acc[4] = {};
  for (index r = 0; r < chunk.rows; r++) {
    const T *row = chunk.x + r * chunk.ld;
    index c = 0;
    for (; c + 4 * W <= chunk.cols; c += 4 * W) {
#pragma GCC unroll 4
      for (int v = 0; v < 4; v++) {
        const Vec<T> value = load(row + c + v * W);
        acc[v] = fma(value, value, acc[v]);
      }
    }
    for (; c < chunk.cols; c += W) {
      const index left = chunk.cols - c;
      const Vec<T> value = left >= W ? load(row + c) : load_partial(row + c, int(left));
      acc[0] = fma(value, value, acc[0]);
    }
  }
  return reduce_add<T>((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

// Whether a chunk's sum of squares in T is precise enough.
GRADCORE_INLINE bool squares_hold(double) { return true; }
GRADCORE_INLINE bool squares_hold(float sum) { return sum >= 0x1p-90f && sum <= 0x1.fffffep127f; }

// The sum of squares of a chunk, in double.
template <class T>
GRADCORE_INLINE double wide_squares(const Block<T> &chunk) {
  double sum = 0;
  for (index r = 0; r < chunk.rows; r++) sum += wide_sum<T>(chunk.cols, WideSquares<T>{chunk.x + r * chunk.ld});
  return sum;
}

template <class T>
struct SumOfSquares {
  double *sum;
  GRADCORE_INLINE_MEMBER void operator()(const Block<T> &chunk) const {
    const T partial = chunk_squares(chunk);
    *sum += squares_hold(partial) ? double(partial) : wide_squares(chunk);
  }
};

template <class T>
double sum_of_squares(index rows, index cols, const T *x, index ldx) {
  double sum = 0;
  const SumOfSquares<T> op{&sum};
  for_chunks(Block<T>{x, rows, cols, ldx}, op);
  return sum;
}

// ---- extremes and checks ----

// Compares the bits of |x|: infinity is above every finite number, and NaN above infinity.
template <class T>
struct MaxMagnitude {
  const T *x;
  IVec<T> best = {};
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) {
    best = max(to_bits(abs<T>(lanes.get(x + i))), best);
  }
};

template <class T>
double max_abs(index n, const T *x) {
  MaxMagnitude<T> op{x};
  for_vectors<T>(n, op);
  typename VecTraits<T>::Int best = 0;
  for (int k = 0; k < kLanes<T>; k++) best = op.best[k] > best ? op.best[k] : best;
  return double(from_bits(splat_int<T>(best))[0]);
}

template <class T>
bool all_finite(index rows, index cols, const T *x, index ldx) {
  if (ldx == cols) {
    cols *= rows;
    rows = 1;
  }
  IVec<T> best{};
  for (index r = 0; r < rows; r++) {
    MaxMagnitude<T> op{x + r * ldx, best};
    for_vectors<T>(cols, op);
    best = op.best;
  }
  const Vec<T> infinity = splat<T>(T(__builtin_inf()));
  return !any_set<T>(best >= to_bits(infinity));
}

// ---- columns ----

template <class T>
struct ColumnSum {
  index rows;
  const T *x;
  index ldx;
  bool accumulate;
  T *sum;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    Vec<T> acc[V];
    for (int v = 0; v < V; v++) acc[v] = accumulate ? lanes.get(sum + c + v * W) : Vec<T>{};
    for (index r = 0; r < rows; r++)
      for (int v = 0; v < V; v++) acc[v] += lanes.get(x + r * ldx + c + v * W);
    for (int v = 0; v < V; v++) lanes.put(sum + c + v * W, acc[v]);
  }
};

template <class T>
void column_sum(index rows, index cols, const T *x, index ldx, bool accumulate, T *sum) {
  for_column_strips<T, 4>(cols, ColumnSum<T>{rows, x, ldx, accumulate, sum});
}

template <class T>
struct ColumnNonzero {
  index rows, cols;
  const T *x;
  index ldx;
  unsigned char *nonzero;
  index *zeros;

  template <int V, class Lanes>
  GRADCORE_INLINE_MEMBER void strip(index c, Lanes lanes) const {
    constexpr int W = kLanes<T>;
    IVec<T> count[V] = {};
    for (index r = 0; r < rows; r++)
      for (int v = 0; v < V; v++) tally_less(count[v], IVec<T>{}, to_bits(abs<T>(lanes.get(x + r * ldx + c + v * W))));
    const index width = cols - c < V * W ? cols - c : V * W;
    *zeros += rows * width;
    for (int v = 0; v < V; v++) *zeros -= add_lanes<T>(count[v]);
    for (int v = 0; v < V; v++) {
      const auto any = __builtin_convertvector(count[v] > 0, typename Part<uint8_t, W>::V) & 1;
      unsigned char *to = nonzero + c + v * W;
      if (width == V * W)  // compilers make this one instruction, and the other a loop
        for (int k = 0; k < W; k++) to[k] |= any[k];
      else
        for (int k = 0; k < int(width); k++) to[k] |= any[k];
    }
  }
};

// Tests bits, so that subnormals count as nonzero whatever the thread's floating-point mode.
template <class T>
void column_nonzero(index rows, index cols, const T *x, index ldx, unsigned char *nonzero, index *zeros) {
  for_column_strips<T, 2>(cols, ColumnNonzero<T>{rows, cols, x, ldx, nonzero, zeros});
}

// ---- derivative statistics ----

template <class T>
struct ScanDerivatives {
  IVec<T> threshold;
  Vec<T> squares[2] = {};
  IVec<T> below = {};  // lanes beyond the end of a row are zero and count as below, too
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(const T *d, Lanes lanes, int k) {
    const Vec<T> value = lanes.get(d);
    squares[k] = fma(value, value, squares[k]);
    tally_less(below, to_bits(abs<T>(value)), threshold);
  }
};

template <class T>
struct DerivativeStats {
  T threshold;
  double *sumsq;
  index *below;
  GRADCORE_INLINE_MEMBER void operator()(const Block<T> &chunk) const {
    ScanDerivatives<T> scan{to_bits(splat<T>(threshold))};
    for_block_vectors(chunk, scan);
    const T squares = reduce_add<T>(scan.squares[0] + scan.squares[1]);
    *sumsq += squares_hold(squares) ? double(squares) : wide_squares(chunk);
    *below += add_lanes<T>(scan.below) - (threshold > 0 ? chunk.padding() : 0);
  }
};

template <class T>
void derivative_stats(index rows, index cols, const T *d, index ldd, T threshold, double *sumsq, index *below) {
  const DerivativeStats<T> op{threshold, sumsq, below};
  for_chunks(Block<T>{d, rows, cols, ldd}, op);
}

template <class T>
constexpr void fill_reduce(KernelSet<T> &set) {
  set.all_finite = all_finite<T>;
  set.column_sum = column_sum<T>;
  set.sum_of_squares = sum_of_squares<T>;
  set.max_abs = max_abs<T>;
  set.column_nonzero = column_nonzero<T>;
  set.derivative_stats = derivative_stats<T>;
}

}  // namespace gradcore::GRADCORE_TARGET
