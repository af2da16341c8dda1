// The source that gc.export_c writes; inference only.
#include "common.hpp"
#include "exported.h"

using namespace embedded;

struct Peer {
  static constexpr bool kTrains = false;
  float scratch[EXPORTED_SCRATCH];
  explicit Peer(const Problem &) {}
  void run(const float *x, int rows, float *y) {
    for (int r = 0; r < rows; r++) exported_forward(x + r * kIn, y + r * kOut, scratch);
  }
};

int main(int argc, char **argv) { return bench_main<Peer>(argc, argv); }
