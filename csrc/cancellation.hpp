// For calls that read or write files: see CancellationPutOff.
#ifndef GRADCORE_CANCELLATION_HPP
#define GRADCORE_CANCELLATION_HPP

#include <pthread.h>

namespace gradcore {

// Puts off the cancellation of the calling thread: it would unwind from a system call through functions that do not
// throw, which ends the process.
class CancellationPutOff {
 public:
  CancellationPutOff() noexcept { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  CancellationPutOff(const CancellationPutOff &) = delete;
  CancellationPutOff &operator=(const CancellationPutOff &) = delete;
  ~CancellationPutOff() { pthread_setcancelstate(before_, nullptr); }

 private:
  int before_;
};

}  // namespace gradcore

#endif
