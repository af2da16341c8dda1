// One gradient or step of a fixed net, for tests/instructions.py to count its instructions under callgrind:
//   counted ROWS WIDTH DEPTH tanh|relu none|batch gradient|recorded|step
#include <cstdlib>
#include <gradcore/gradcore.hpp>
#include <string>
#include <utility>
#include <vector>

namespace gc = gradcore;

struct Work {
  gc::Net<float> net;
  gc::Optimizer<float> optimizer;
  std::vector<float> x;
  std::vector<std::int64_t> y;
  bool record, step;

  void run() {
    const gc::Matrix<const float> input(x.data(), std::int64_t(y.size()), net.in_features());
    if (step)
      net.train_step(input, y, gc::Loss::cross_entropy, optimizer, {1.0, 0.0}, record);
    else
      net.loss_and_gradients(input, y, gc::Loss::cross_entropy, record);
  }
};

// The name by which callgrind is told where to count.
extern "C" __attribute__((noinline)) void counted_work(Work *work) { work->run(); }

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  const std::int64_t rows = std::atoll(argv[1]), width = std::atoll(argv[2]), depth = std::atoll(argv[3]);
  const std::string kind = argv[6];
  gc::NetConfig config;
  config.widths.assign(std::size_t(depth) + 1, width);
  config.widths.push_back(10);
  config.activations = {std::string(argv[4]) == "tanh" ? gc::Activation::tanh : gc::Activation::relu};
  config.normalization = std::string(argv[5]) == "batch" ? gc::Normalization::batch : gc::Normalization::none;
  gc::Net<float> net(config);
  net.initialize();
  gc::Optimizer<float> optimizer(net, gc::adam(1e-3));
  Work work{std::move(net), std::move(optimizer), std::vector<float>(std::size_t(rows * width)),
            std::vector<std::int64_t>(std::size_t(rows)), kind == "recorded", kind == "step"};
  for (std::size_t i = 0; i < work.x.size(); i++) work.x[i] = float(i * 7919 % 2001) / 1000.0f - 1.0f;
  for (std::size_t i = 0; i < work.y.size(); i++) work.y[i] = std::int64_t(i * 7 % 10);
  work.run();  // allocates and packs
  work.run();
  counted_work(&work);
}
