// The number of cores and the quota of cgroups, read from folders that imitate "/" on hosts, in containers, and without
// readable files.
#include <unistd.h>

#include <climits>
#include <filesystem>
#include <fstream>
#include <map>
#include <vector>

#include "check.hpp"
#include "ops/cpus.hpp"

namespace {

namespace fs = std::filesystem;
using gradcore::testing::tally;

using Files = std::map<std::string, std::string>;  // path below the root -> content

// The result of f(root) in a folder with these files.
template <class F>
int found(const char *where, const Files &files, F &&f) {
  tally().where = where;
  const fs::path root = fs::temp_directory_path() / ("gradcore-cpus-" + std::to_string(getpid()));
  fs::remove_all(root);
  for (const auto &[path, content] : files) {
    const fs::path file = root / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }
  const int result = f(root.c_str());
  fs::remove_all(root);
  return result;
}

int quota_with(const char *where, const Files &files) { return found(where, files, gradcore::cpu_quota); }

const std::string kSelf = "proc/self/cgroup", kTop = "sys/fs/cgroup/";

void test_version2() {
  CHECK(quota_with("container", {{kSelf, "0::/\n"}, {kTop + "cpu.max", "200000 100000\n"}}) == 2);
  CHECK(quota_with("rounded up", {{kSelf, "0::/\n"}, {kTop + "cpu.max", "250000 100000\n"}}) == 3);
  CHECK(quota_with("less than one", {{kSelf, "0::/\n"}, {kTop + "cpu.max", "1000 100000\n"}}) == 1);
  CHECK(quota_with("none", {{kSelf, "0::/\n"}, {kTop + "cpu.max", "max 100000\n"}}) == INT_MAX);
  CHECK(quota_with("a service", {{kSelf, "0::/system.slice/a.service\n"},
                                 {kTop + "system.slice/a.service/cpu.max", "300000 100000\n"},
                                 {kTop + "system.slice/cpu.max", "max 100000\n"}}) == 3);
  CHECK(quota_with("above it", {{kSelf, "0::/system.slice/a.service\n"},
                                {kTop + "system.slice/a.service/cpu.max", "max 100000\n"},
                                {kTop + "system.slice/cpu.max", "400000 100000\n"}}) == 4);
}

void test_version1() {
  const std::string lines = "9:name=systemd:/x\n4:cpuacct,cpu:/docker/17\n3:cpuset:/\n0::/\n";
  const auto with = [&](const std::string &group, const char *quota) {
    return Files{{kSelf, lines},
                 {kTop + "cpu" + group + "/cpu.cfs_quota_us", quota},
                 {kTop + "cpu" + group + "/cpu.cfs_period_us", "100000\n"}};
  };
  CHECK(quota_with("host", with("/docker/17", "150000\n")) == 2);
  CHECK(quota_with("container, which sees its own group at the top", with("", "700000\n")) == 7);
  CHECK(quota_with("none", with("/docker/17", "-1\n")) == INT_MAX);
  CHECK(quota_with("another's", with("/docker/18", "100000\n")) == INT_MAX);
}

void test_nothing_to_read() {
  CHECK(quota_with("nothing", {}) == INT_MAX);
  CHECK(quota_with("no lines", {{kSelf, ""}}) == INT_MAX);
  CHECK(quota_with("not such lines", {{kSelf, "a\n:b\n::\n1:cpu\n2:cpux,xcpu:/\n"}}) == INT_MAX);
  CHECK(quota_with("no numbers", {{kSelf, "0::/\n"}, {kTop + "cpu.max", "many\n"}}) == INT_MAX);
  CHECK(quota_with("no period", {{kSelf, "0::/\n"}, {kTop + "cpu.max", "100000 0\n"}}) == INT_MAX);
  const std::string deep(5000, 'x');
  CHECK(quota_with("a path beyond measure", {{kSelf, "0::/" + deep + "\n"}, {kTop + "cpu.max", "100000 100000\n"}}) >=
        1);
}

// The number of cores of `cpus`, given the siblings of each CPU of the machine.
int cores_of(const char *where, const std::vector<int> &cpus, const std::vector<std::string> &siblings) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(std::size_t(cpu), &set);
  Files files;
  for (std::size_t cpu = 0; cpu < siblings.size(); cpu++)
    files["sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list"] = siblings[cpu] + "\n";
  return found(where, files, [&](const char *root) { return gradcore::count_cores(set, root); });
}

void test_cores() {
  const std::vector<std::string> halves = {"0,2", "1,3", "0,2", "1,3"}, pairs = {"0-1", "0-1", "2-3", "2-3"};
  CHECK(cores_of("no second threads", {0, 1, 2}, {"0", "1", "2"}) == 3);
  CHECK(cores_of("second threads after the first ones", {0, 1, 2, 3}, halves) == 2);
  CHECK(cores_of("side by side", {0, 1, 2, 3}, pairs) == 2);
  CHECK(cores_of("a second thread alone", {3}, halves) == 1);
  CHECK(cores_of("one of two, and two of two", {1, 2, 3}, pairs) == 2);
  CHECK(cores_of("four threads a core", {0, 1, 2, 3, 4}, {"0-3", "0-3", "0-3", "0-3", "4"}) == 2);
  CHECK(cores_of("ranges in a list", {0, 1, 4, 5}, {"0-1,4-5", "0-1,4-5", "2", "3", "0-1,4-5", "0-1,4-5"}) == 1);
  CHECK(cores_of("nothing to read", {0, 1, 7}, {}) == 3);
  CHECK(cores_of("not such lists", {0, 1, 2, 3}, {"", "x", "-", "9-,"}) == 4);
}

}  // namespace

int main() {
  test_cores();
  test_version2();
  test_version1();
  test_nothing_to_read();
  return gradcore::testing::report();
}
