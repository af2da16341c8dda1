// Gradient clipping in place, with PyTorch's results (torch.nn.utils.clip_grad_norm_).
//
//   total_norm = |all gradients concatenated|_p,  coef = min(1, max_norm / (total_norm + 1e-6))   (C.1)
//   grad *= coef                                        Pascanu et al. 2013, arXiv:1211.5063
//   grad  = clamp(grad, -clip_value, clip_value)                                                  (C.2)
//   adaptive, per output unit: |g_i| > clipping * max(|w_i|, eps) is scaled to that bound         (C.3)
//                                                       Brock et al. 2021, arXiv:2102.06171
// A non-finite norm scales as in PyTorch: coef is 0 for infinity (finite elements become 0, infinite ones NaN) and NaN
// for NaN. Callers that want to refuse it check the norm first.
#ifndef GRADCORE_OPS_CLIP_HPP
#define GRADCORE_OPS_CLIP_HPP

#include "ops/reduce.hpp"

namespace gradcore {

inline constexpr double kClipEps = 1e-6;

// At most 1; NaN if the norm is NaN.
inline double clip_coefficient(double max_norm, double total_norm) noexcept {
  const double coef = max_norm / (total_norm + kClipEps);
  return coef > 1 ? 1 : coef;
}

// One pass over the arrays; none if coef is 1. Like clip_arrays, may throw std::bad_alloc before anything changes.
template <class T>
void scale_arrays(const KernelSet<T> &kernels, const ArrayList<T> &list, double coef);

template <class T>
void clip_arrays(const KernelSet<T> &kernels, const ArrayList<T> &list, double clip_value);

// weight and grad [rows, cols], contiguous.
template <class T>
void clip_grad_adaptive(const KernelSet<T> &kernels, index rows, index cols, const T *weight, T *grad, double clipping,
                        double eps) noexcept;

}  // namespace gradcore

#endif
