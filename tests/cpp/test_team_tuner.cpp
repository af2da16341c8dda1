// How repeated calls find the number of threads that suits them, on invented machines and in the pool.
#include <chrono>
#include <functional>
#include <map>
#include <thread>

#include "check.hpp"
#include "ops/parallel.hpp"

namespace {

using gradcore::Team;
using gradcore::TeamTuner;
using gradcore::testing::tally;

constexpr std::uint64_t kWork = 32, kOtherWork = 17;

// Calls on a machine on which a call takes time(size, number of the call).
struct Machine {
  std::function<std::int64_t(int, int)> time;
  TeamTuner tuner;
  int count = 0, last = 0;

  // Runs calls of the same work and returns how many had each size.
  std::map<int, int> run(int calls, int worth, std::uint64_t work = kWork) {
    std::map<int, int> sizes;
    for (int i = 0; i < calls; i++) {
      last = tuner.size(worth, work);
      sizes[last]++;
      const bool timed = tuner.is_timed();
      const std::int64_t taken = time(last, count++);
      tuner.note(timed ? taken : -1);
    }
    return sizes;
  }
};

// Times with the least at `best` threads.
std::int64_t least_at(int best, int size) { return size <= best ? 960'000 / size : 960'000 / best * size / best; }

void test_threads_that_pay_stay() {
  tally().where = "threads that pay";
  Machine machine{[](int size, int) { return least_at(16, size); }, {}};
  std::map<int, int> sizes = machine.run(20'000, 2);
  CHECK(machine.last == 2);
  CHECK(sizes[2] + sizes[1] == 20'000);
  // A trial that fails ends with its second call: after 256 calls, 512, 1024, and 2048 again and again.
  CHECK(sizes[1] == 2 * 11);
}

void test_threads_that_cost_more_than_they_bring() {
  tally().where = "threads that cost more";
  bool slow = true;
  Machine machine{[&](int size, int) { return size == 2 && slow ? 180'000 : size == 2 ? 80'000 : 100'000; }, {}};
  CHECK(machine.run(300, 2)[2] == 262);  // one until it is known, a pause and a sample; then the trial begins
  CHECK(machine.last == 1);
  CHECK(machine.run(20'000, 2)[2] == 2 * 11);
  slow = false;
  machine.run(2200, 2);
  CHECK(machine.last == 2);
  slow = true;
  machine.run(2200, 2);
  CHECK(machine.last == 1);
}

void test_a_little_faster_is_not_enough() {
  tally().where = "a little faster";
  Machine machine{[](int size, int) { return size == 2 ? 100'000 : 96'000; }, {}};
  CHECK(machine.run(5000, 2)[1] == 4 * 6);  // four whole trials
  CHECK(machine.last == 2);
}

void test_many_threads() {
  tally().where = "many threads";
  for (const int worth : {16, 12, 7, 3}) {
    for (const int best : {1, 2, 3, 4, 6, 16}) {
      Machine machine{[&](int size, int) { return least_at(best, size); }, {}};
      machine.run(20'000, worth);
      std::map<int, int> sizes = machine.run(20'000, worth);
      // Among the sizes that halving and doubling can reach, none is faster than the one that most calls have.
      std::pair<int, int> most{0, 0};
      for (const auto &[size, calls] : sizes)
        if (calls > most.second) most = {size, calls};
      CHECK(most.second > 19'800);
      for (const auto &[size, calls] : sizes) CHECK(least_at(best, most.first) <= least_at(best, size));
    }
  }
}

void test_a_call_that_takes_long_decides_nothing() {
  tally().where = "interrupted calls";
  Machine machine{[](int size, int call) { return 160'000 / size + (call % 4 == 0 ? 5'000'000 : 0); }, {}};
  CHECK(machine.run(20'000, 2)[2] > 19'900);
  CHECK(machine.last == 2);
}

void test_other_work_between() {
  tally().where = "other work";
  Machine machine{[](int size, int) { return size * 100'000; }, {}};
  for (int i = 0; i < 20; i++) {  // an epoch, with a smaller last batch
    machine.run(50, 2);
    machine.run(1, 2, kOtherWork);
  }
  CHECK(machine.run(1, 2)[1] == 1);
  CHECK(machine.run(1, 2, kOtherWork)[1] == 1);  // as for the usual work
  CHECK(machine.run(1, 1)[1] == 1);
  CHECK(machine.run(1, 2)[1] == 1);
  CHECK(machine.run(2, 2, kOtherWork)[2] == 1);  // the second is new work
  CHECK(machine.run(500, 2, kOtherWork)[1] == 500 - 260);
  CHECK(machine.run(600, 4)[2] > 0);  // more threads than before are new work, too
}

void test_one_thread_is_not_timed() {
  tally().where = "one thread";
  TeamTuner tuner;
  for (int i = 0; i < 2000; i++) {
    CHECK(tuner.size(1, kWork) == 1 && !tuner.is_timed());
    tuner.note(0);
  }
}

// Of a team whose second member takes much longer than the first alone.
void test_pool() {
  tally().where = "the pool";
  TeamTuner tuner;
  int last = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (last != 1 && std::chrono::steady_clock::now() < deadline) {
    gradcore::set_num_threads(2);  // lifts the limit that other programs may have led to; smaller teams do not count
    last = tuner.size(2, kWork);
    const bool timed = tuner.is_timed();
    gradcore::run_team(last, tuner, [&](const Team &team) {
      if (team.rank == 1 && timed) std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
  }
  CHECK(last == 1);
  for (int i = 0; i < 20; i++) {
    last = tuner.size(2, kWork);
    gradcore::run_team(last, tuner, [](const Team &) {});
  }
  CHECK(last == 1);
}

}  // namespace

int main() {
  test_threads_that_pay_stay();
  test_threads_that_cost_more_than_they_bring();
  test_a_little_faster_is_not_enough();
  test_many_threads();
  test_a_call_that_takes_long_decides_nothing();
  test_other_work_between();
  test_one_thread_is_not_timed();
  test_pool();
  return gradcore::testing::report();
}
