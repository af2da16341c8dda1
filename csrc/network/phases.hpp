// How the threads of a run divide work that the plan does not assign: tasks, in the order of their numbers, and
// parameter blocks. Each block is first offered to one thread, chosen by its place: the same in every run with as many
// threads.
#ifndef GRADCORE_NETWORK_PHASES_HPP
#define GRADCORE_NETWORK_PHASES_HPP

#include <atomic>
#include <vector>

#include "network/plan.hpp"
#include "ops/parallel.hpp"

namespace gradcore {

// State shared by the threads. Serves one run at a time.
class Claims {
 public:
  // The blocks are in the order of layers and outlive the claims. May throw std::bad_alloc.
  Claims(const std::vector<ParamBlock> &blocks, int depth) : blocks_(blocks), last_claim_(blocks.size()) {
    layer_end_.resize(std::size_t(depth));
    for (index end = index(blocks.size()); end > 0;) {
      const int layer = blocks[end - 1].layer;
      index begin = end;
      while (begin > 0 && blocks[begin - 1].layer == layer) begin--;
      for (index i = begin; i < end; i++) order_.push_back(i);
      layer_end_[layer] = index(order_.size());
      end = begin;
    }
    for (const ParamBlock &block : blocks) size_ += block.size;
  }
  void begin_run() noexcept { next_task_.store(0, std::memory_order_relaxed); }

 private:
  friend class Phases;
  const std::vector<ParamBlock> &blocks_;
  std::vector<index> order_;      // from the last layer to the first, the order in which deltas become final
  std::vector<index> layer_end_;  // of each layer, in order_
  index size_ = 0;                // of all blocks
  std::vector<std::atomic<std::uint32_t>> last_claim_;  // the last phase in which each block was claimed
  std::uint32_t next_phase_ = 1;                        // the first number that no phase has used
  std::atomic<index> next_task_{0};
};

// The claims of one thread of a run. Every thread passes the same phases in the same order.
class Phases {
 public:
  Phases(Claims &claims, const Team &team) noexcept : team(team), claims_(claims), phase_(claims.next_phase_) {}
  Phases(const Phases &) = delete;
  Phases &operator=(const Phases &) = delete;
  // By now every thread has read next_phase_: all have met since.
  ~Phases() {
    if (team.rank == 0) claims_.next_phase_ = phase_;
  }

  // task(i) for each i in [0, count) that this thread claims. All threads meet before the next such phase.
  template <class F>
  void run(index count, F &&task) noexcept {
    for (index i; (i = claims_.next_task_.fetch_add(1, std::memory_order_relaxed) - tasks_) < count;) task(i);
    tasks_ += count + team.size;  // every thread has asked once in vain
  }

  // work(block, layer) for the blocks of layers [first, end) that this thread claims, until their sizes add up to
  // `share`. `layer` is the layer of the weight that is likely to follow, or -1.
  // The thread's own blocks come first, the same in every call: their parameters, gradients and optimizer state are in
  // its cache.
  template <class F>
  void run_blocks(int first, int end, index share, F &&work) noexcept {
    const index begin_at = end < int(claims_.layer_end_.size()) ? claims_.layer_end_[end] : 0;
    const index end_at = claims_.layer_end_[first];
    for (const bool own : {true, false}) {
      const index count = end_at - begin_at;
      const auto at = [&](index k) { return claims_.order_[own ? begin_at + k : end_at - 1 - k]; };
      for (index k = 0; k < count && share > 0; k++) {
        const index block = at(k);
        if (own != (owner(block) == team.rank)) continue;
        if (claims_.last_claim_[block].exchange(phase_, std::memory_order_relaxed) == phase_) continue;
        index next = k + 1;
        while (next < count && claims_.blocks_[at(next)].kind != ParamBlock::weight) next++;
        work(block, next < count ? claims_.blocks_[at(next)].layer : -1);
        share -= claims_.blocks_[block].size;
      }
    }
  }
  // The remaining blocks, and the end of the phase.
  template <class F>
  void finish_blocks(F &&work) noexcept {
    run_blocks(0, int(claims_.layer_end_.size()), claims_.size_, work);
    phase_++;
  }
  const Team &team;

 private:
  int owner(index block) const noexcept {
    const ParamBlock &last = claims_.blocks_.back(), &b = claims_.blocks_[block];
    return int((b.offset + b.size / 2) * team.size / (last.offset + last.size));
  }

  Claims &claims_;
  std::uint32_t phase_;
  index tasks_ = 0;  // of the phases before
};

}  // namespace gradcore

#endif
