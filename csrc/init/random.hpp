// Random numbers by seed: the streams of numpy.random.default_rng, without NumPy.
//
// Seeds are expanded by NumPy's SeedSequence (after O'Neill's seed_seq_fe), bits come from PCG64 (PCG XSL-RR 128/64,
// O'Neill 2014, HMC-CS-2014-0905), and normal numbers from the ziggurat (Marsaglia & Tsang 2000, 256 levels). Uniform
// numbers equal NumPy's to the bit. Normal numbers agree to 2e-14 relative (the tests allow 1e-12): the tables of the
// ziggurat are computed here and differ from NumPy's in their last digits.
#ifndef GRADCORE_INIT_RANDOM_HPP
#define GRADCORE_INIT_RANDOM_HPP

#include <cstdint>
#include <vector>

namespace gradcore {

// The `child`-th stream of a seed: numpy.random.SeedSequence(seed).spawn(child + 1)[child].
class RandomStream {
 public:
  // `seed`: at least one word, the least significant first. May throw std::bad_alloc.
  RandomStream(const std::vector<uint32_t> &seed, uint32_t child);

  double uniform() noexcept { return double(bits() >> 11) * 0x1p-53; }  // in [0, 1)
  double normal() noexcept;

 private:
  uint64_t bits() noexcept;

  __extension__ unsigned __int128 state_, increment_;
};

}  // namespace gradcore

#endif
