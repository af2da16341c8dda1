#include "init/initialize.hpp"

#include <cmath>

#include "float_mode.hpp"
#include "init/random.hpp"
#include "ops/parallel.hpp"

namespace gradcore {

namespace {

// gain^2 of the weights before each activation.
//
//   identity, relu, leaky_relu  exact: chi = 1 and E[h^2] is kept, at every scale of z
//                               (relu: He et al. 2015, arXiv:1502.01852; leaky: 2 / (1 + slope^2))
//   tanh, hard_tanh             slope 1 at 0: chi = 1 in the limit z -> 0, where signals settle
//                               (Schoenholz et al. 2017, arXiv:1611.01232)
//   selu                        1, for its fixed point E[h] = 0, E[h^2] = 1 (Klambauer et al. 2017,
//                               arXiv:1706.02515); chi is then 1.07
//   most others                 have no stable fixed point with chi = 1, so chi = 1 on average over 32 layers:
//                               sum of ln chi_l = 0 along q_l, the variance of z in layer l, for inputs of
//                               mean square 1 (quadrature, to 4 decimals). Nets of 10 to 50 layers and width
//                               100 then keep |gradient| within a factor of 3 (silu: 50).
//   sigmoid                     has no usable critical point: chi = 1 needs a gain^2 of 106, which saturates
//                               every unit. This gain keeps the variance of z at 1; chi is then 0.153. Deep
//                               sigmoid nets lose their gradient under every scheme, and `gc.analyze` says so.
constexpr double kCriticalGainSquared[GRADCORE_NUM_ACTIVATIONS] = {
    1.0,                                      // identity
    2.0,                                      // relu
    2.0 / (1.0 + kLeakySlope * kLeakySlope),  // leaky_relu
    1.4486,                                   // elu
    1.0,                                      // selu
    2.1375,                                   // gelu
    2.1374,                                   // gelu_tanh
    2.4230,                                   // silu
    2.0706,                                   // mish
    2.3121,                                   // softplus
    1.0,                                      // tanh
    1.0,                                      // hard_tanh
    3.4086,                                   // sigmoid
};

double variance(int initializer, const LayerSpec &layer) noexcept {
  const double fan_in = double(layer.in), fan_out = double(layer.out);
  switch (initializer) {
    case GRADCORE_INIT_GLOROT_UNIFORM:
    case GRADCORE_INIT_GLOROT_NORMAL:
      return 2.0 / (fan_in + fan_out);
    case GRADCORE_INIT_HE_UNIFORM:
    case GRADCORE_INIT_HE_NORMAL:
      return 2.0 / fan_in;
    case GRADCORE_INIT_LECUN_UNIFORM:
    case GRADCORE_INIT_LECUN_NORMAL:
      return 1.0 / fan_in;
    default: {
      const double gain = std::sqrt(kCriticalGainSquared[layer.activation]);
      return gain * gain / fan_in;
    }
  }
}

bool is_uniform(int initializer) noexcept {
  return initializer == GRADCORE_INIT_GLOROT_UNIFORM || initializer == GRADCORE_INIT_HE_UNIFORM ||
         initializer == GRADCORE_INIT_LECUN_UNIFORM;
}

// ---- orthonormal columns ----

// Columns of equal length, stored one after another. Each step below works on eight at a time, so that the vector they
// are multiplied with is read once for all eight.
class Columns {
 public:
  static constexpr index kGroup = 8;

  Columns(index length, index count) : length_(length), count_(count), data_(std::size_t(length * count)) {}
  double *operator[](index j) noexcept { return &data_[std::size_t(j * length_)]; }
  index length() const noexcept { return length_; }
  index count() const noexcept { return count_; }

  // Calls work(first, last) for each group of columns from `begin` on.
  template <class Work>
  void for_groups(index begin, double flops, Work &&work) {
    const index groups = (count_ - begin + kGroup - 1) / kGroup;
    parallel_for(groups, flops, [&](index g) {
      const index first = begin + g * kGroup, last = first + kGroup < count_ ? first + kGroup : count_;
      work(first, last);
    });
  }

 private:
  const index length_, count_;
  std::vector<double> data_;
};

// Eight partial sums, so that the compiler may use vectors without changing the result.
double dot(const double *a, const double *b, index n) noexcept {
  double sums[8] = {};
  index i = 0;
  for (; i + 8 <= n; i += 8)
    for (int lane = 0; lane < 8; lane++) sums[lane] += a[i + lane] * b[i + lane];
  for (; i < n; i++) sums[i & 7] += a[i] * b[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Applies the reflection I - v v^T, |v|^2 = 2, which is the identity above row k; column k holds v from row k on.
void reflect(const double *v, double *column, index n) noexcept {
  const double along = dot(v, column, n);
  for (index i = 0; i < n; i++) column[i] -= along * v[i];
}

// Replaces the rest of a column by the reflection that clears it; true if the diagonal of R becomes negative.
bool make_reflection(double *v, index n) noexcept {
  const double norm = std::sqrt(dot(v, v, n));
  if (norm == 0) return false;  // v = 0 is the identity
  const bool positive = v[0] > 0;
  v[0] += positive ? norm : -norm;
  const double scale = std::sqrt(2.0 / dot(v, v, n));
  for (index i = 0; i < n; i++) v[i] *= scale;
  return positive;
}

// Q of A = Q R with a positive diagonal of R, by Householder reflections (Golub & Van Loan, 5.2).
void orthonormalize(Columns &a, Columns &q) {
  const index n = a.count(), length = a.length();
  std::vector<char> negative(std::size_t(n), 0);
  for (index panel = 0; panel < n; panel += Columns::kGroup) {
    const index end = panel + Columns::kGroup < n ? panel + Columns::kGroup : n;
    for (index k = panel; k < end; k++) {
      negative[std::size_t(k)] = make_reflection(a[k] + k, length - k);
      for (index j = k + 1; j < end; j++) reflect(a[k] + k, a[j] + k, length - k);
    }
    a.for_groups(end, 4.0 * double(end - panel) * double(length - panel) * double(n - end), [&](index from, index to) {
      for (index k = panel; k < end; k++)
        for (index j = from; j < to; j++) reflect(a[k] + k, a[j] + k, length - k);
    });
  }
  q.for_groups(0, 2.0 * double(n) * double(n) * double(length), [&](index from, index to) {
    for (index j = from; j < to; j++) q[j][j] = negative[std::size_t(j)] ? -1.0 : 1.0;
    for (index k = to - 1; k >= 0; k--)
      for (index j = k > from ? k : from; j < to; j++) reflect(a[k] + k, q[j] + k, length - k);
  });
}

// gain * Q with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014, arXiv:1312.6120). Q of a
// Gaussian matrix is uniform over the orthogonal group if the diagonal of R is positive (Mezzadri 2007,
// arXiv:math-ph/0609050).
void orthogonal(const LayerSpec &layer, RandomStream &random, double *weights) {
  const bool tall = layer.out >= layer.in;
  const index length = tall ? layer.out : layer.in, count = tall ? layer.in : layer.out;
  Columns a(length, count), q(length, count);
  for (index i = 0; i < length; i++)
    for (index j = 0; j < count; j++) a[j][i] = random.normal();
  orthonormalize(a, q);
  const double gain = std::sqrt(kCriticalGainSquared[layer.activation]);
  for (index o = 0; o < layer.out; o++)
    for (index i = 0; i < layer.in; i++) weights[o * layer.in + i] = gain * (tall ? q[i][o] : q[o][i]);
}

void draw(int initializer, const LayerSpec &layer, RandomStream &random, double *weights) {
  if (initializer == GRADCORE_INIT_ORTHOGONAL) return orthogonal(layer, random, weights);
  const index count = layer.in * layer.out;
  if (is_uniform(initializer)) {
    const double bound = std::sqrt(3.0 * variance(initializer, layer));
    for (index i = 0; i < count; i++) weights[i] = -bound + (bound + bound) * random.uniform();
  } else {
    const double deviation = std::sqrt(variance(initializer, layer));
    for (index i = 0; i < count; i++) weights[i] = deviation * random.normal();
  }
}

template <class T>
void store(const Architecture &net, const std::vector<std::vector<double>> &weights, T *parameters) noexcept {
  for (std::size_t l = 0; l < weights.size(); l++) {
    const LayerSpec &layer = net.layers[l];
    T *to = parameters + net.parameters[layer.weight].offset;
    for (std::size_t i = 0; i < weights[l].size(); i++) to[i] = T(weights[l][i]);
    if (layer.bias < 0) continue;
    T *bias = parameters + net.parameters[layer.bias].offset;
    for (index i = 0; i < layer.out; i++) bias[i] = 0;
  }
}

}  // namespace

double critical_gain_squared(int activation) noexcept { return kCriticalGainSquared[activation]; }

void initialize(Network &net, int initializer, const std::vector<uint32_t> &seed) {
  const DefaultFloatMode mode;  // the weights of a seed are the same in every host
  const Architecture &architecture = net.architecture();
  std::vector<std::vector<double>> weights;
  for (int l = 0; l < architecture.depth(); l++) {
    const LayerSpec &layer = architecture.layers[l];
    RandomStream random(seed, uint32_t(l));
    weights.emplace_back(std::size_t(layer.in * layer.out));
    draw(initializer, layer, random, weights.back().data());
  }
  if (architecture.dtype != GRADCORE_FLOAT64)
    store(architecture, weights, static_cast<float *>(net.parameters()));
  else
    store(architecture, weights, static_cast<double *>(net.parameters()));
  net.parameters_changed();
}

}  // namespace gradcore
