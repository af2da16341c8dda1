// How many CPUs this process may use, according to Linux. `root` is for tests: a folder in place of "/".
#ifndef GRADCORE_OPS_CPUS_HPP
#define GRADCORE_OPS_CPUS_HPP

#include <sched.h>

namespace gradcore {

// The number of cores that these CPUs belong to. One thread keeps the multipliers of a core busy; a second thread on it
// made nothing faster (bench/README.md).
int count_cores(const cpu_set_t &cpus, const char *root = "") noexcept;

// The smallest quota, in CPUs, rounded up, of this process's cgroup and its visible ancestors; INT_MAX if there is
// none. Reads version 2 ("cpu.max") and version 1 ("cpu.cfs_quota_us").
int cpu_quota(const char *root = "") noexcept;

}  // namespace gradcore

#endif
