#include "ops/clip.hpp"

#include "ops/parallel.hpp"

namespace gradcore {

namespace {

template <class T, class F>
void for_pieces(const ArrayList<T> &list, F &&task) {
  const std::vector<Piece<T>> pieces = cut(list);
  double elements = 0;
  for (const Piece<T> &piece : pieces) elements += double(piece.n);
  parallel_for(index(pieces.size()), 8.0 * elements, [&](index i) { task(pieces[std::size_t(i)]); });
}

}  // namespace

template <class T>
void scale_arrays(const KernelSet<T> &kernels, const ArrayList<T> &list, double coef) {
  if (coef == 1) return;
  for_pieces(list, [&](const Piece<T> &piece) { kernels.scale(piece.n, T(coef), piece.x); });
}

template <class T>
void clip_arrays(const KernelSet<T> &kernels, const ArrayList<T> &list, double clip_value) {
  for_pieces(list, [&](const Piece<T> &piece) { kernels.clamp(piece.n, T(clip_value), piece.x); });
}

template <class T>
void clip_grad_adaptive(const KernelSet<T> &kernels, index rows, index cols, const T *weight, T *grad, double clipping,
                        double eps) noexcept {
  for (index r = 0; r < rows; r++) {
    const double bound = clipping * std::max(norm2(kernels, cols, weight + r * cols), eps);
    const double norm = norm2(kernels, cols, grad + r * cols);
    if (norm > bound) kernels.scale(cols, T(bound / norm), grad + r * cols);
  }
}

#define GRADCORE_INSTANTIATE(T)                                                      \
  template void scale_arrays<T>(const KernelSet<T> &, const ArrayList<T> &, double); \
  template void clip_arrays<T>(const KernelSet<T> &, const ArrayList<T> &, double);  \
  template void clip_grad_adaptive<T>(const KernelSet<T> &, index, index, const T *, T *, double, double) noexcept;
GRADCORE_INSTANTIATE(float)
GRADCORE_INSTANTIATE(double)
#undef GRADCORE_INSTANTIATE

}  // namespace gradcore
