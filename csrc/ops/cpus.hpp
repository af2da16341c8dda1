// How many CPUs there are for this process, by what Linux tells. `root` is for tests: a folder that stands for "/".
#ifndef GRADCORE_OPS_CPUS_HPP
#define GRADCORE_OPS_CPUS_HPP

#include <sched.h>

namespace gradcore {

// The cores that these CPUs are hardware threads of. One thread keeps the multipliers of a core busy; with a second one
// on it nothing was faster (bench/README.md).
int count_cores(const cpu_set_t &cpus, const char *root = "") noexcept;

// The least quota of the group of this process and of those above it, as far as they can be seen, in CPUs, rounded up;
// INT_MAX where there is none. Version 2 ("cpu.max") and version 1 ("cpu.cfs_quota_us").
int cpu_quota(const char *root = "") noexcept;

}  // namespace gradcore

#endif
