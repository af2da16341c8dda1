// Chooses the kernel table for the CPU. No other code detects the CPU.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/kernel_table.hpp"

namespace gradcore {

namespace {

// In ascending order of preference.
#if defined(__x86_64__)
const KernelTable *const kTargets[] = {&baseline::kTable, &avx2::kTable, &avx512::kTable};
#else
const KernelTable *const kTargets[] = {&neon::kTable};
#endif
constexpr int kNumTargets = int(sizeof kTargets / sizeof kTargets[0]);

bool cpu_supports(int i) noexcept {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  if (i == 1) return avx2;
  if (i == 2)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  return i == 0;
}

// Only where they are faster than float products. By published tables, Intel's cores issue one in the time of two float
// products (not measured).
bool multiplies_bfloat16_pairs([[maybe_unused]] const KernelTable &table) noexcept {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return &table == &avx512::kTable && __builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

const KernelTable *find(const char *name) noexcept {
  for (int i = 0; i < kNumTargets; i++)
    if (std::strcmp(kTargets[i]->name, name) == 0 && cpu_supports(i)) return kTargets[i];
  return nullptr;
}

const KernelTable *choose() noexcept {
  // An unknown or unsupported name is ignored, because a library must not stop its host.
  if (const char *name = std::getenv("GRADCORE_TARGET"))
    if (const KernelTable *table = find(name)) return table;
  for (int i = kNumTargets - 1; i > 0; i--)
    if (cpu_supports(i)) return kTargets[i];
  return kTargets[0];
}

std::atomic<const KernelTable *> chosen{nullptr};

}  // namespace

int num_targets() noexcept { return kNumTargets; }
const KernelTable &target(int i) noexcept { return *kTargets[i]; }
bool target_supported(int i) noexcept { return i >= 0 && i < kNumTargets && cpu_supports(i); }

const KernelTable &current_target() noexcept {
  const KernelTable *table = chosen.load(std::memory_order_acquire);
  if (!table) chosen.store(table = choose(), std::memory_order_release);
  return *table;
}

bool has_bfloat16_products() noexcept { return multiplies_bfloat16_pairs(current_target()); }

const KernelSet<float> &bfloat16_kernels() noexcept {
  static const std::array<KernelSet<float>, kNumTargets> sets = [] {
    std::array<KernelSet<float>, kNumTargets> all{};
    for (int i = 0; i < kNumTargets; i++) {
      all[i] = kTargets[i]->f32;
      ProductKernels<float> &products = all[i];
      products = kTargets[i]->bf16;
#if defined(__x86_64__)
      if (multiplies_bfloat16_pairs(*kTargets[i])) products = avx512_bf16::kProducts;
#endif
    }
    return all;
  }();
  const KernelTable &table = current_target();
  return sets[std::find(kTargets, kTargets + kNumTargets, &table) - kTargets];
}

bool set_target(const char *name) noexcept {
  const KernelTable *table = find(name);
  if (table) chosen.store(table, std::memory_order_release);
  return table != nullptr;
}

}  // namespace gradcore
