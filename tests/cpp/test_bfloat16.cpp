// Products of operands rounded to bfloat16, by pairs and as rounded floats, on every target the CPU supports: rounding
// against candidates compared in double, products against plain loops in double over the rounded operands.
#include <algorithm>

#include "ops/gemm.hpp"
#include "products.hpp"

namespace gradcore::testing {
namespace {

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The nearer of the two bfloat16 around x, also one step beyond the largest; the even one at equal distance.
float nearest(float x) {
  if (std::isnan(x) || std::isinf(x)) return x;
  const std::uint32_t below = bits_of(x) & 0xffff0000u, above = below + 0x10000u;
  const double beyond = std::copysign(std::ldexp(1.0, 128), x), size = std::abs(double(x));
  const double down = size - std::abs(double(float_of(below)));
  const double up = std::abs(std::isinf(float_of(above)) ? beyond : double(float_of(above))) - size;
  const bool even = (below >> 16) % 2 == 0;
  return float_of(down < up || (down == up && even) ? below : above);
}

// Term number `term` of an operand's elements, `step` apart.
float term_of(const KernelSet<float> &k, const float *elements, index step, index term) {
  if (k.terms() == 1) return elements[term * step];
  const std::uint32_t bits = bits_of(elements[term / 2 * step]);
  return float_of(term % 2 ? bits & 0xffff0000u : bits << 16);
}

// Calls body(kernels) for rounded floats on each target, and for pairs if the CPU multiplies them.
template <class Body>
void for_each_set(const char *name, Body &&body) {
  const char *before = current_target().name;
  for (int t = 0; t < num_targets(); t++) {
    if (!target_supported(t)) continue;
    KernelSet<float> rounded = target(t).f32;
    static_cast<ProductKernels<float> &>(rounded) = target(t).bf16;
    tally().where = std::string(name) + " " + target(t).name;
    body(rounded);
    set_target(target(t).name);
    tally().where += " as chosen";
    CHECK((bfloat16_kernels().terms() == 2) == has_bfloat16_products());
    if (has_bfloat16_products()) body(bfloat16_kernels());
  }
  set_target(before);
}

// ---- rounding ----

std::vector<float> difficult_numbers() {
  std::vector<float> all;
  for (const std::uint32_t upper : {0x0080u, 0x3f80u, 0x3f81u, 0x4049u, 0x7f7eu, 0x7f7fu, 0x7f80u, 0x0000u})
    for (const std::uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      for (const std::uint32_t sign : {0u, 0x8000u}) all.push_back(float_of((upper | sign) << 16 | lower));
  return all;
}

// Pairs take subnormal numbers as zero; a NaN may become another NaN.
bool is_rounded(const KernelSet<float> &k, float rounded, float x) {
  if (std::isnan(x)) return std::isnan(rounded);
  if (k.terms() == 2 && std::abs(x) < std::numeric_limits<float>::min()) return rounded == 0;
  return rounded == nearest(x);
}

void test_rounding() {
  const std::vector<float> numbers = difficult_numbers();
  for_each_set("round", [&](const KernelSet<float> &k) {
    for (const index rows : {1, 2, 3, 8, 13}) {
      for (const index cols : {1, 2, 15, 16, 17, 31, 32, 33, 67}) {
        Matrix<float> x = rng.matrix<float>({rows, cols, 3, 1}, 1);
        for (index i = 0; i < x.size(); i += 2) x[i] = numbers[std::size_t(i / 2) % numbers.size()];
        Matrix<float> by_rows(rows, k.elements(cols), 2), by_columns(k.elements(rows), cols, 5);
        k.round(rows, cols, x.data(), x.ld(), by_rows.data(), by_rows.ld(), nullptr, 0);
        k.round(rows, cols, x.data(), x.ld(), nullptr, 0, by_columns.data(), by_columns.ld());
        Matrix<float> at_once_by_rows = by_rows, at_once_by_columns = by_columns;
        k.round(rows, cols, x.data(), x.ld(), at_once_by_rows.data(), by_rows.ld(), at_once_by_columns.data(),
                by_columns.ld());
        CHECK(same_bits(at_once_by_rows, by_rows) && same_bits(at_once_by_columns, by_columns));
        CHECK(at_once_by_rows.intact() && at_once_by_columns.intact());
        bool right = true;
        for (index r = 0; r < rows; r++)
          for (index c = 0; c < cols; c++)
            right &= is_rounded(k, term_of(k, &by_rows(r, 0), 1, c), x(r, c)) &&
                     is_rounded(k, term_of(k, &by_columns(0, c), by_columns.ld(), r), x(r, c));
        for (index r = 0; r < rows && cols % k.terms(); r++) right &= term_of(k, &by_rows(r, 0), 1, cols) == 0;
        for (index c = 0; c < cols && rows % k.terms(); c++)
          right &= term_of(k, &by_columns(0, c), by_columns.ld(), rows) == 0;
        CHECK(right);
        CHECK(by_rows.intact() && by_columns.intact());
      }
    }
  });
}

// ---- products ----

Matrix<float> rounded(const Matrix<float> &x) {
  Matrix<float> to(x.rows(), x.cols());
  for (index i = 0; i < x.size(); i++) to[i] = nearest(x[i]);
  return to;
}

constexpr std::uint32_t kUntouched = 0x7fc00001;  // a NaN that is no bfloat16

std::size_t num_untouched(const std::vector<float> &storage) {
  return std::size_t(std::count_if(storage.begin(), storage.end(), [](float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits == kUntouched;
  }));
}

// Packs B in two strips, or in one call past the caches. Strips are packed by different threads at the same time, so
// each may touch only its own elements.
std::vector<float> pack(const KernelSet<float> &k, bool forward, const Shape &s, const Matrix<float> &weight,
                        bool past_caches) {
  const std::size_t size = std::size_t(packed_size(k, s.depth, s.cols)), vector = kMaxVectorBytes / sizeof(float);
  float untouched;
  std::memcpy(&untouched, &kUntouched, sizeof untouched);
  std::vector<float> storage(size + vector, untouched);
  const std::size_t skipped = (kMaxVectorBytes - reinterpret_cast<std::uintptr_t>(storage.data()) % kMaxVectorBytes) %
                              kMaxVectorBytes / sizeof(float);
  const index in = forward ? s.depth : s.cols, out = forward ? s.cols : s.depth;
  const index middle = past_caches ? 0 : forward ? out / 2 / k.lanes * k.lanes : out / 4 * 2;
  for (const auto &[begin, end] : {std::pair{middle, out}, std::pair{index(0), middle}}) {
    if (begin == end) continue;
    (forward ? pack_forward<float> : pack_backward<float>)(k, in, out, weight.data(), weight.ld(), begin, end,
                                                           storage.data() + skipped, past_caches);
    const index left = begin == 0 ? 0 : forward ? k.elements(in) * middle : packed_size(k, middle, in);
    CHECK(num_untouched(storage) == vector + std::size_t(left));
  }
  return {storage.begin() + std::ptrdiff_t(skipped), storage.begin() + std::ptrdiff_t(skipped + size)};
}

void test_gemm(bool forward) {
  for_each_set(forward ? "forward" : "backward", [&](const KernelSet<float> &k) {
    index gap = 0;
    for (const Shape &s : shapes(k.lanes)) {
      const Matrix<float> weight =
          forward ? rng.matrix<float>({s.cols, s.depth, gap, 1}, 1) : rng.matrix<float>({s.depth, s.cols, gap, 1}, 1);
      const Matrix<float> a = rng.matrix<float>({s.rows, s.depth, gap, 1}, 1), bias = rng.vector<float>(s.cols, 1);
      const std::vector<float> panels = pack(k, forward, s, weight, false);
      const std::vector<float> past_caches = pack(k, forward, s, weight, true);
      CHECK(std::memcmp(panels.data(), past_caches.data(), panels.size() * sizeof(float)) == 0);
      Matrix<float> operand(s.rows, k.elements(s.depth), 1), c(s.rows, s.cols, gap);
      k.round(s.rows, s.depth, a.data(), a.ld(), operand.data(), operand.ld(), nullptr, 0);
      gemm(k, s.rows, k.elements(s.depth), s.cols, operand.data(), operand.ld(), RightMatrix<float>{panels.data()},
           c.data(), c.ld(), TileInit::bias, bias.data());
      const Matrix<float> w = rounded(weight);
      check_product(
          c, s.depth, rounded(a), [&](index d, index j) { return forward ? w(j, d) : w(d, j); },
          [&](index, index j) { return Ends{double(bias[j]), 1.0}; });
      gap = (gap + 3) % 7;
    }
  });
}

void test_gemm_params() {
  for_each_set("weight gradient", [&](const KernelSet<float> &k) {
    for (const Shape &s : shapes(k.lanes)) {
      const Matrix<float> delta = rng.matrix<float>({s.depth, s.rows, 2, 1}, 1);
      const Matrix<float> x = rng.matrix<float>({s.depth, s.cols, 1, 1}, 1);
      Matrix<float> a(k.elements(s.depth), s.rows, 1), b(k.elements(s.depth), s.cols, 3), dw(s.rows, s.cols);
      k.round(s.depth, s.rows, delta.data(), delta.ld(), nullptr, 0, a.data(), a.ld());
      k.round(s.depth, s.cols, x.data(), x.ld(), nullptr, 0, b.data(), b.ld());
      gemm_params(k, k.elements(s.depth), s.cols, 0, s.rows, a.data(), a.ld(), b.data(), b.ld(), dw.data(), false);
      const Matrix<float> d = rounded(delta);
      check_product(
          dw, s.depth, [&](index o, index r) { return d(r, o); }, rounded(x), [](index, index) { return Ends{0, 1}; });
    }
  });
}

}  // namespace
}  // namespace gradcore::testing

int main() {
  gradcore::testing::test_rounding();
  gradcore::testing::test_gemm(true);
  gradcore::testing::test_gemm(false);
  gradcore::testing::test_gemm_params();
  return gradcore::testing::report();
}
