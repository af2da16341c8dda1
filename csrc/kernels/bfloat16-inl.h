// Products of operands rounded to bfloat16 on CPUs without such products: float products of rounded floats. They are as
// fast as float products, except for the rounding. Results equal those of pairs (pairs-inl.h), except for the order in
// which the two terms of a pair are added and for subnormal numbers, which are zero there.

namespace gradcore::GRADCORE_TARGET {

// Rounds to the nearest bfloat16, the upper half of a float, ties to even; infinity beyond its range; NaN stays NaN.
GRADCORE_INLINE Vec<float> round_to_bfloat16(Vec<float> x) {
  constexpr int32_t kUpper = ~0xffff, kQuiet = 0x400000;
  const IVec<float> bits = to_bits(x), odd = shift_right_logical<float>(bits, 16) & 1;
  // Unsigned, because the sum for a NaN, which is not used, may overflow an int.
  using Unsigned = VecTraits<float>::Unsigned;
  const IVec<float> nearest = IVec<float>(Unsigned(bits) + Unsigned(odd + 0x7fff));
  return from_bits(select(x == x, nearest, bits | kQuiet) & kUpper);
}

struct RoundRow {
  const float *x;
  float *y;
  template <class Lanes>
  GRADCORE_INLINE_MEMBER void operator()(index i, Lanes lanes) const {
    lanes.put(y + i, round_to_bfloat16(lanes.get(x + i)));
  }
};

// With one term per element, the layouts by rows and by columns are the same.
void round_block(index rows, index cols, const float *x, index ldx, float *by_rows, index ld_rows, float *by_columns,
                 index ld_columns) {
  if (by_rows) map_block<float, RoundRow>(rows, cols, x, ldx, by_rows, ld_rows);
  if (by_columns) map_block<float, RoundRow>(rows, cols, x, ldx, by_columns, ld_columns);
}

void pack_rows_rounded(index depth, index cols, const float *src, index ld, index width, float *panel, bool) {
  pack_rows<float>(depth, cols, src, ld, width, panel, false);
  map_block<float, RoundRow>(depth, width, panel, width, panel, width);
}
void pack_transposed_rounded(index depth, index cols, const float *src, index ld, index width, float *panel, bool) {
  pack_transposed<float>(depth, cols, src, ld, width, panel, false);
  map_block<float, RoundRow>(depth, cols, panel, width, panel, width);
}

constexpr ProductKernels<float> rounded_products() {
  ProductKernels<float> set{};
  fill_products(set);
  set.pack_rows = pack_rows_rounded;
  set.pack_transposed = pack_transposed_rounded;
  set.round = round_block;
  return set;
}

}  // namespace gradcore::GRADCORE_TARGET
