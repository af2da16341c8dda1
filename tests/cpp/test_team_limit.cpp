// How the pool's teams shrink while other programs take their CPUs, with an invented clock, and that the pool does it.
#include <chrono>
#include <thread>

#include "check.hpp"
#include "ops/parallel.hpp"
#include "ops/team_limit.hpp"

namespace {

using gradcore::Team;
using gradcore::TeamLimit;
using gradcore::testing::tally;

constexpr std::int64_t kMs = 1'000'000;

// A limit with its clock.
struct Machine {
  TeamLimit limit;
  std::int64_t now = 5000 * kMs;

  void run(int size, std::int64_t time, std::int64_t waited) {
    now += time;
    limit.note(size, time, waited, now);
  }
  int most() { return limit.most(now); }
  // The time until teams may be larger again.
  std::int64_t pause() {
    const int before = most();
    const std::int64_t began = now;
    while (most() == before) now += kMs;
    return now - began;
  }
};

void test_undisturbed_teams_keep_their_size() {
  tally().where = "undisturbed";
  Machine machine;
  for (int i = 0; i < 1000; i++) machine.run(2, 3 * kMs, 2 * kMs);
  CHECK(machine.most() == TeamLimit::kNone && !machine.limit.is_set());
}

void test_a_moment_is_no_reason() {
  tally().where = "a moment";
  Machine machine;
  for (int i = 0; i < 50; i++) {
    machine.run(2, 12 * kMs, 12 * kMs);
    for (int k = 0; k < 200; k++) machine.run(2, kMs / 20, 0);
  }
  CHECK(!machine.limit.is_set());
}

void test_half_as_many_while_most_of_the_time_is_waiting() {
  tally().where = "crowded";
  Machine machine;
  machine.run(16, 20 * kMs, 14 * kMs);
  CHECK(machine.most() == 8);
  machine.run(8, 20 * kMs, 14 * kMs);
  CHECK(machine.most() == 4);
  for (int i = 0; i < 10; i++) machine.run(4, 2 * kMs, kMs);  // well enough
  CHECK(machine.most() == 4);
  // Four times the 40 ms that it took, less the 20 ms of the teams of four.
  CHECK(machine.pause() == 140 * kMs);
  CHECK(machine.most() == TeamLimit::kNone);
}

void test_short_runs_are_judged_together() {
  tally().where = "short runs";
  Machine machine;
  for (int i = 0; i < 19; i++) machine.run(2, kMs, kMs);
  CHECK(machine.most() == TeamLimit::kNone);
  machine.run(2, kMs, kMs);
  CHECK(machine.most() == 1);
}

void test_attempts_become_rare_until_one_succeeds() {
  tally().where = "attempts";
  Machine machine;
  for (const int times : {4, 8, 16, 32, 32}) {
    machine.run(2, 100 * kMs, 90 * kMs);
    CHECK(machine.most() == 1 && machine.pause() == times * 100 * kMs);
  }
  machine.run(2, 100 * kMs, 0);
  machine.run(2, 100 * kMs, 90 * kMs);
  CHECK(machine.pause() == 400 * kMs);
}

// The size of a team of at most `most` members, whose caller has nothing to do but wait for workers that sleep, as for
// those without a CPU.
int size_of_slow_team(int most) {
  int size = 0;
  gradcore::run_team(most, [&](const Team &team) {
    if (team.rank == 0)
      size = team.size;
    else
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    team.meet();
  });
  return size;
}

// Repeated, because on a busy machine the caller may itself be kept from waiting.
bool comes_to_have(int size, int most) {
  for (int i = 0; i < 500; i++) {
    if (size_of_slow_team(most) == size) return true;
    if (size > 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

void test_pool() {
  tally().where = "the pool";
  CHECK(size_of_slow_team(2) == 2);
  CHECK(comes_to_have(1, 2));
  CHECK(comes_to_have(2, 2));  // when the pause is over
  CHECK(comes_to_have(1, 2));
  gradcore::set_num_threads(3);
  CHECK(size_of_slow_team(2) == 2);
  CHECK(gradcore::get_num_threads() == 3 && gradcore::most_threads() == 3);
}

}  // namespace

int main() {
  test_undisturbed_teams_keep_their_size();
  test_a_moment_is_no_reason();
  test_half_as_many_while_most_of_the_time_is_waiting();
  test_short_runs_are_judged_together();
  test_attempts_become_rare_until_one_succeeds();
  test_pool();
  return gradcore::testing::report();
}
