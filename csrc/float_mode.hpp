// How a thread computes with floating-point numbers, which a host may have changed.
#ifndef GRADCORE_FLOAT_MODE_HPP
#define GRADCORE_FLOAT_MODE_HPP

#include <cstdint>

namespace gradcore {

// How the thread rounds, whether it takes subnormal numbers for zero, and what it traps. (<cfenv> would save and
// restore more than that.) What is computed before and after set() stays there, as far as it is stored.
#if defined(__x86_64__)
struct FloatMode {
  FloatMode() noexcept { asm volatile("stmxcsr %0; fnstcw %1" : "=m"(sse), "=m"(x87)); }
  // What x87 has flagged while it was masked would trap as soon as it is not.
  void set() const noexcept { asm volatile("fnclex; ldmxcsr %0; fldcw %1" ::"m"(sse), "m"(x87) : "memory"); }
  bool traps() const noexcept { return (sse & kSseMasks) != kSseMasks || (x87 & kX87Masks) != kX87Masks; }
  void mask_traps() noexcept { sse |= kSseMasks, x87 |= kX87Masks; }
  void make_default() noexcept { sse = kSseMasks, x87 = 0x37f; }

  static constexpr std::uint32_t kSseMasks = 0x1f80;
  static constexpr std::uint16_t kX87Masks = 0x3f;
  std::uint32_t sse;
  std::uint16_t x87;  // of long double
};
#else
struct FloatMode {
  FloatMode() noexcept { asm volatile("mrs %0, fpcr" : "=r"(control)); }
  void set() const noexcept { asm volatile("msr fpcr, %0" ::"r"(control) : "memory"); }
  bool traps() const noexcept { return control & kTraps; }
  void mask_traps() noexcept { control &= ~kTraps; }
  void make_default() noexcept { control = 0; }

  static constexpr std::uint64_t kTraps = 0x9f00;
  std::uint64_t control;
};
#endif

// Nothing traps in this scope: vectors compute lanes whose results are not used, such as 0 / 0 and the exponential of
// large numbers.
class TrapsMasked {
 public:
  TrapsMasked() noexcept;
  TrapsMasked(const TrapsMasked &) = delete;
  TrapsMasked &operator=(const TrapsMasked &) = delete;
  ~TrapsMasked();

 private:
  const FloatMode before_;
};

// Computes in this scope as a program does that has changed nothing.
class DefaultFloatMode {
 public:
  DefaultFloatMode() noexcept {
    FloatMode mode = before_;
    mode.make_default();
    mode.set();
  }
  DefaultFloatMode(const DefaultFloatMode &) = delete;
  DefaultFloatMode &operator=(const DefaultFloatMode &) = delete;
  ~DefaultFloatMode() { before_.set(); }

 private:
  const FloatMode before_;
};

}  // namespace gradcore

#endif
