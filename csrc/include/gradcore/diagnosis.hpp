// The diagnosis of gradcore.h for C++17, with owners and exceptions.
#ifndef GRADCORE_DIAGNOSIS_HPP
#define GRADCORE_DIAGNOSIS_HPP

#include <gradcore/gradcore.hpp>

namespace gradcore {

inline namespace face {

using Judgement = gradcore_judgement;
using Finding = gradcore_finding;

// Tells from recorded passes whether a net's gradients vanish or explode: call add after each of several batches, then
// judge.
template <class T>
class Diagnosis {
 public:
  Diagnosis(Net<T> &net, Loss loss) : diagnosis_(nullptr, {net.net_}) {
    gradcore_diagnosis *diagnosis = nullptr;
    detail::check(gradcore_diagnosis_create(net.c(), static_cast<std::int32_t>(loss), &diagnosis));
    diagnosis_.reset(diagnosis);
  }

  // Adds the pass that the net has just recorded; without `input`, inputs are assumed to be standardized.
  void add(Matrix<const T> input, double loss_value) {
    const gradcore_matrix x = input.c();
    detail::check(gradcore_diagnosis_add(c(), &x, loss_value));
  }
  void add(double loss_value) { detail::check(gradcore_diagnosis_add(c(), nullptr, loss_value)); }
  void reset() noexcept { gradcore_diagnosis_reset(c()); }

  // Judges for plain SGD, or for an optimizer of the net.
  Judgement judge() { return judge_for(nullptr); }
  Judgement judge(const Optimizer<T> &optimizer) {
    if (!optimizer.c()) throw Error(GRADCORE_INVALID_ARGUMENT, "optimizer: expected one that owns its state, got none");
    return judge_for(optimizer.c());
  }
  // A finding of the last judgement, worst first; its text and layers live until the next judgement.
  Finding finding(int i) const {
    Finding finding{};
    finding.size = sizeof finding;
    detail::check(gradcore_diagnosis_finding(c(), i, &finding));
    return finding;
  }
  // The handle, for functions of gradcore.h.
  gradcore_diagnosis *c() const noexcept { return diagnosis_.get(); }

 private:
  struct Destroy {
    std::shared_ptr<gradcore_net> net;  // as in Optimizer
    void operator()(gradcore_diagnosis *diagnosis) const noexcept { gradcore_diagnosis_destroy(diagnosis); }
  };
  Judgement judge_for(const gradcore_optimizer *optimizer) {
    Judgement judgement{};
    judgement.size = sizeof judgement;
    detail::check(gradcore_diagnosis_judge(c(), optimizer, &judgement));
    return judgement;
  }
  std::unique_ptr<gradcore_diagnosis, Destroy> diagnosis_;
};

namespace detail {
inline std::string name(const char *text) { return text ? text : ""; }
}  // namespace detail

inline std::string verdict_name(std::int32_t verdict) { return detail::name(gradcore_verdict_name(verdict)); }
inline std::string severity_name(std::int32_t severity) { return detail::name(gradcore_severity_name(severity)); }
inline std::string finding_kind_name(std::int32_t kind) { return detail::name(gradcore_finding_kind_name(kind)); }
inline std::string cause_name(std::int32_t cause) { return detail::name(gradcore_cause_name(cause)); }

}  // namespace face
}  // namespace gradcore

#endif
