// How many CPUs Linux control groups leave to this process.
#ifndef GRADCORE_OPS_CPU_QUOTA_HPP
#define GRADCORE_OPS_CPU_QUOTA_HPP

namespace gradcore {

// The least quota of the group of this process and of those above it, as far as they can be seen, in CPUs, rounded up;
// INT_MAX where there is none. Version 2 ("cpu.max") and version 1 ("cpu.cfs_quota_us"). `root` is for tests: a folder
// that stands for "/".
int cpu_quota(const char *root = "") noexcept;

}  // namespace gradcore

#endif
