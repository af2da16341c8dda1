#include "ops/cpus.hpp"

#include <climits>
#include <cstdio>
#include <cstring>

namespace gradcore {

namespace {

constexpr int kMostPath = 4096;

// Files are opened with "e" (O_CLOEXEC): a program that another thread starts meanwhile must not inherit them.

// Reads up to two numbers at the beginning of folder/name; returns how many it found.
int read_numbers(const char *folder, const char *name, long long *first, long long *second) noexcept {
  char path[2 * kMostPath];
  std::snprintf(path, sizeof path, "%s/%s", folder, name);
  std::FILE *file = std::fopen(path, "re");
  if (!file) return 0;
  const int read = std::fscanf(file, "%lld %lld", first, second);
  std::fclose(file);
  return read;
}

int quota_of(const char *folder, bool version2) noexcept {
  long long quota = 0, period = 0, unused;
  if (version2 ? read_numbers(folder, "cpu.max", &quota, &period) != 2  // "max 100000" means no quota
               : read_numbers(folder, "cpu.cfs_quota_us", &quota, &unused) != 1 ||
                     read_numbers(folder, "cpu.cfs_period_us", &period, &unused) != 1)
    return INT_MAX;
  if (quota <= 0 || period <= 0) return INT_MAX;  // -1 means no quota
  const long long cpus = (quota - 1) / period + 1;
  return cpus < INT_MAX ? int(cpus) : INT_MAX;
}

// Whether a comma-separated list names the controller "cpu".
bool controls_cpu(const char *list, const char *end) noexcept {
  for (const char *name = list; name < end;) {
    const char *comma = static_cast<const char *>(std::memchr(name, ',', std::size_t(end - name)));
    const char *stop = comma ? comma : end;
    if (stop - name == 3 && std::memcmp(name, "cpu", 3) == 0) return true;
    name = stop + 1;
  }
  return false;
}

// Whether one of `cpus` below `cpu` is a thread of the same core, according to a list such as "0,64" or "0-3".
bool shares_core_with_lower(int cpu, const cpu_set_t &cpus, const char *root) noexcept {
  char path[kMostPath];
  std::snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, cpu);
  std::FILE *file = std::fopen(path, "re");
  if (!file) return false;
  bool shares = false;
  for (int first, last; !shares && std::fscanf(file, "%d", &first) == 1; std::fgetc(file)) {
    if (std::fscanf(file, "-%d", &last) != 1) last = first;
    for (int sibling = first < 0 ? 0 : first; sibling <= last && sibling < cpu; sibling++)
      shares = shares || CPU_ISSET(std::size_t(sibling), &cpus);
  }
  std::fclose(file);
  return shares;
}

}  // namespace

int count_cores(const cpu_set_t &cpus, const char *root) noexcept {
  int cores = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    cores += CPU_ISSET(std::size_t(cpu), &cpus) && !shares_core_with_lower(cpu, cpus, root);
  return cores;
}

int cpu_quota(const char *root) noexcept {
  char line[kMostPath], folder[kMostPath];
  std::snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
  std::FILE *file = std::fopen(line, "re");
  if (!file) return INT_MAX;
  int least = INT_MAX;
  while (std::fgets(line, sizeof line, file)) {  // number:controllers:path
    line[std::strcspn(line, "\n")] = '\0';
    const char *controllers = std::strchr(line, ':');
    const char *path = controllers ? std::strchr(++controllers, ':') : nullptr;
    if (!path) continue;
    const bool version2 = path == controllers;
    if (!version2 && !controls_cpu(controllers, path)) continue;
    const int top = std::snprintf(folder, sizeof folder, "%s/sys/fs/cgroup%s", root, version2 ? "" : "/cpu");
    if (top >= int(sizeof folder)) continue;
    std::snprintf(folder + top, sizeof folder - std::size_t(top), "%s", path + 1);
    // In a container, the path is often that of the host, and only its top directory exists.
    for (;;) {
      const int quota = quota_of(folder, version2);
      if (quota < least) least = quota;
      char *slash = std::strrchr(folder + top, '/');
      if (!slash) break;
      *slash = '\0';
    }
  }
  std::fclose(file);
  return least;
}

}  // namespace gradcore
