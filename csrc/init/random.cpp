#include "init/random.hpp"

#include <cmath>

namespace gradcore {

namespace {

__extension__ typedef unsigned __int128 Wide;

constexpr int kPool = 4;

uint32_t hash(uint32_t value, uint32_t *constant, uint32_t factor) noexcept {
  value ^= *constant;
  *constant *= factor;
  value *= *constant;
  return value ^ value >> 16;
}

// SeedSequence(seed, spawn_key=(child,)).generate_state(4, uint64).
void spread_seed(std::vector<uint32_t> entropy, uint32_t child, uint64_t state[4]) {
  if (entropy.size() < kPool) entropy.resize(kPool, 0);
  entropy.push_back(child);
  uint32_t pool[kPool], constant = 0x43b0d7e5;
  const auto hashed = [&](uint32_t value) { return hash(value, &constant, 0x931e8875); };
  const auto mixed = [](uint32_t x, uint32_t y) {
    const uint32_t value = 0xca01f9ddu * x - 0x4973f715u * y;
    return value ^ value >> 16;
  };
  for (int i = 0; i < kPool; i++) pool[i] = hashed(entropy[std::size_t(i)]);
  for (int from = 0; from < kPool; from++)
    for (int to = 0; to < kPool; to++)
      if (from != to) pool[to] = mixed(pool[to], hashed(pool[from]));
  for (std::size_t from = kPool; from < entropy.size(); from++)
    for (uint32_t &to : pool) to = mixed(to, hashed(entropy[from]));
  constant = 0x8b51f9dd;
  for (int i = 0; i < 4; i++) {
    const uint64_t low = hash(pool[2 * i % kPool], &constant, 0x58f38ded);
    const uint64_t high = hash(pool[(2 * i + 1) % kPool], &constant, 0x58f38ded);
    state[i] = high << 32 | low;
  }
}

// Levels of equal area under exp(-x^2 / 2), from the outermost (255, which extends to kTail) to the top.
constexpr int kLevels = 256;
constexpr long double kTail = 3.6541528853610087963519472518L;

struct Ziggurat {
  double width[kLevels];     // width of a level, per unit of the 52 random bits
  double density[kLevels];   // density at its outer end
  uint64_t inside[kLevels];  // random bits below this are under the curve for certain

  Ziggurat() noexcept {
    constexpr long double kBits = 0x1p52L;
    const auto curve = [](long double x) { return std::exp(-0.5L * x * x); };
    const long double half_pi = 1.57079632679489661923132169163975144L;
    const long double area = kTail * curve(kTail) + std::sqrt(half_pi) * std::erfc(kTail / std::sqrt(2.0L));
    const long double base = area / curve(kTail);
    long double x = kTail;
    inside[0] = uint64_t(x / base * kBits), inside[1] = 0;
    width[0] = double(base / kBits), width[kLevels - 1] = double(x / kBits);
    density[0] = 1, density[kLevels - 1] = double(curve(x));
    for (int i = kLevels - 2; i >= 1; i--) {
      const long double outer = x;
      x = std::sqrt(-2 * std::log(area / outer + curve(outer)));
      inside[i + 1] = uint64_t(x / outer * kBits);
      width[i] = double(x / kBits);
      density[i] = double(curve(x));
    }
  }
};

}  // namespace

RandomStream::RandomStream(const std::vector<uint32_t> &seed, uint32_t child) {
  uint64_t words[4];
  spread_seed(seed, child, words);
  increment_ = ((Wide(words[2]) << 64 | words[3]) << 1) | 1;
  state_ = 0;
  bits();
  state_ += Wide(words[0]) << 64 | words[1];
  bits();
}

uint64_t RandomStream::bits() noexcept {
  constexpr Wide kFactor = Wide(2549297995355413924u) << 64 | 4865540595714422341u;
  state_ = state_ * kFactor + increment_;
  const uint64_t folded = uint64_t(state_ >> 64) ^ uint64_t(state_);
  const unsigned turn = unsigned(state_ >> 122);
  return folded >> turn | folded << (-turn & 63);
}

double RandomStream::normal() noexcept {
  static const Ziggurat table;
  const double tail = double(kTail);
  for (;;) {
    const uint64_t drawn = bits(), magnitude = drawn >> 9 & 0x000fffffffffffff;
    const int level = int(drawn & 0xff);
    double x = double(magnitude) * table.width[level];
    if (drawn >> 8 & 1) x = -x;
    if (magnitude < table.inside[level]) return x;
    if (level == 0) {
      for (;;) {
        const double beyond = -1 / tail * std::log1p(-uniform()), height = -std::log1p(-uniform());
        if (height + height > beyond * beyond) return magnitude >> 8 & 1 ? -(tail + beyond) : tail + beyond;
      }
    }
    const double below = table.density[level];
    if ((table.density[level - 1] - below) * uniform() + below < std::exp(-0.5 * x * x)) return x;
  }
}

}  // namespace gradcore
