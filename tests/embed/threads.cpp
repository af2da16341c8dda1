// Several nets trained at once, each in a thread of its own, on the library's threads and on a pool of the host: each
// net must have the bits that it has when it is trained alone. Also meant to be run under ThreadSanitizer.
#include <signal.h>
#include <unistd.h>

#include <cfenv>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <gradcore/diagnosis.hpp>
#include <gradcore/gradcore.hpp>
#include <mutex>
#include <thread>

namespace gc = gradcore;

// A host's thread pool, as an engine or a server has one: workers that take tasks from a queue. Calls of several nets
// may be under way at once.
class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; i++) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    for (std::thread &thread : threads_) thread.join();
  }
  int calls() const noexcept { return calls_; }

  // What gradcore_net_set_threads takes; the context is the pool.
  static void parallel_for(void *context, std::int32_t count, gradcore_parallel_task task, void *argument) {
    static_cast<Pool *>(context)->run(count, task, argument);
  }

 private:
  struct Call {
    gradcore_parallel_task task;
    void *argument;
    int unfinished;
  };
  struct Task {
    Call *call;
    std::int32_t index;
  };

  void run(std::int32_t count, gradcore_parallel_task task, void *argument) {
    Call call{task, argument, count};
    std::unique_lock<std::mutex> lock(mutex_);
    calls_++;
    for (std::int32_t i = 0; i < count; i++) queue_.push_back({&call, i});
    changed_.notify_all();
    changed_.wait(lock, [&] { return call.unfinished == 0; });
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return ending_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Task next = queue_.front();
      queue_.pop_front();
      lock.unlock();
      next.call->task(next.call->argument, next.index);
      lock.lock();
      if (--next.call->unfinished == 0) changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> queue_;
  std::vector<std::thread> threads_;
  int calls_ = 0;
  bool ending_ = false;
};

struct Setting {
  std::uint64_t seed;
  gc::Activation activation;
  gc::Normalization normalization;
};
constexpr Setting kSettings[] = {{1, gc::Activation::relu, gc::Normalization::none},
                                 {2, gc::Activation::tanh, gc::Normalization::batch},
                                 {3, gc::Activation::gelu, gc::Normalization::layer},
                                 {4, gc::Activation::silu, gc::Normalization::batch}};
constexpr int kCount = sizeof kSettings / sizeof *kSettings;
constexpr std::int64_t kRows = 400, kWidth = 64, kClasses = 10;

// A net after some steps, with its verdict and an error of this thread's own.
template <class T>
std::string trained(const Setting &setting, Pool *pool) {
  gc::NetConfig config;
  config.widths = {kWidth, kWidth, kWidth, kWidth, kClasses};
  config.activations = {setting.activation};
  config.normalization = setting.normalization;
  gc::Net<T> net(config);
  net.initialize(GRADCORE_INIT_AUTO, setting.seed);
  if (pool) net.set_threads(3, Pool::parallel_for, pool);
  gc::Optimizer<T> optimizer(net, gc::adam(1e-3));
  gc::Diagnosis<T> diagnosis(net, gc::Loss::cross_entropy);
  std::vector<T> x(static_cast<std::size_t>(kRows * kWidth)), output(static_cast<std::size_t>(kRows * kClasses));
  std::vector<std::int64_t> labels(static_cast<std::size_t>(kRows));
  for (std::size_t i = 0; i < x.size(); i++) x[i] = T(static_cast<double>(i * 37 % 101) * 0.02 - 1);
  for (std::size_t i = 0; i < labels.size(); i++) labels[i] = static_cast<std::int64_t>(i * 7 % kClasses);
  const gc::Matrix<const T> input(x.data(), kRows, kWidth);
  for (int i = 0; i < 3; i++) {
    const gc::Step step = net.train_step(input, labels, gc::Loss::cross_entropy, optimizer, {1.0, 0}, true);
    diagnosis.add(input, step.loss);
  }
  net.forward(input, output);
  gradcore_net_initialize(net.c(), -static_cast<std::int32_t>(setting.seed), 0);  // fails, with its number in the text
  std::string result = gradcore_last_error() + gc::verdict_name(diagnosis.judge().verdict) + net.save_to_memory();
  return result.append(reinterpret_cast<const char *>(output.data()), output.size() * sizeof(T));
}

template <class T>
void check(int threads, Pool *pool, const std::vector<std::string> &alone) {
  gc::set_num_threads(threads);
  std::vector<std::string> results(kCount);
  std::vector<std::thread> callers;
  for (int i = 0; i < kCount; i++)
    callers.emplace_back([&, i] { results[std::size_t(i)] = trained<T>(kSettings[i], pool); });
  for (std::thread &caller : callers) caller.join();
  if (results == alone) return;
  std::fprintf(stderr, "nets differ on %d threads %s\n", threads, pool ? "of the host" : "of the library");
  std::exit(1);
}

template <class T>
void check_all(Pool &pool) {
  gc::set_num_threads(1);
  std::vector<std::string> alone;
  for (const Setting &setting : kSettings) alone.push_back(trained<T>(setting, nullptr));
  check<T>(1, nullptr, alone);
  check<T>(3, nullptr, alone);  // one caller has the library's pool, the others run alone
  check<T>(1, &pool, alone);
  if (pool.calls() > 0) return;
  std::fprintf(stderr, "the host's pool was not used\n");
  std::exit(1);
}

// A signal for the process stays for whom it is meant, though the library has threads.
void check_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  kill(getpid(), SIGTERM);
  const timespec patience{10, 0};
  if (sigtimedwait(&signals, nullptr, &patience) == SIGTERM) return;
  std::fprintf(stderr, "the signal went elsewhere\n");
  std::exit(1);
}

int main() {
  {
    Pool pool(2);
    check_all<float>(pool);
    check_all<double>(pool);
    std::fesetround(FE_UPWARD);  // by callers; all other threads have begun, and round to nearest
    check_all<float>(pool);
    std::fesetround(FE_TONEAREST);
  }
  check_signals();
  std::puts("the same bits alone and together");
}
