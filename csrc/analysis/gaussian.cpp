#include "analysis/gaussian.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gradcore {

namespace {

constexpr double kTail = 12.0;  // in standard deviations; the mass beyond is 4e-33
constexpr double kInvRootTwoPi = 0.3989422804014327;

// The upper half of the 20 nodes of Gauss-Legendre quadrature on [-1, 1]; the lower half mirrors it.
constexpr int kHalf = 10;
constexpr double kNodes[kHalf] = {0.07652652113349734, 0.22778585114164507, 0.37370608871541955, 0.5108670019508271,
                                  0.636053680726515,   0.7463319064601508,  0.8391169718222188,  0.912234428251326,
                                  0.9639719272779138,  0.993128599185095};
constexpr double kWeights[kHalf] = {0.15275338713072628,  0.14917298647260424, 0.1420961093183824,  0.1316886384491769,
                                    0.1181945319615186,   0.1019301198172407,  0.08327674157670471, 0.06267204833410879,
                                    0.040601429800386446, 0.017614007139150893};

// The ends of the panels: in order, without duplicates and without those beyond kTail.
class Edges {
 public:
  void add(double z) noexcept {
    if (!(z >= -kTail && z <= kTail)) return;
    int at = count_;
    while (at > 0 && z_[at - 1] > z) at--;
    if ((at > 0 && z - z_[at - 1] <= 1e-14) || (at < count_ && z_[at] - z <= 1e-14)) return;
    for (int i = count_++; i > at; i--) z_[i] = z_[i - 1];
    z_[at] = z;
  }
  int count() const noexcept { return count_; }
  double operator[](int i) const noexcept { return z_[i]; }

 private:
  double z_[320];  // 13, and 95 around 0 and around each of two kinks at the largest scale
  int count_ = 0;
};

// Panels end at every kink and shrink geometrically towards it, down to 1/8 of the unit scale on which activations
// vary. Gauss-Hermite nodes would lose all accuracy at a kink, and where a large scale turns a smooth sigmoid into a
// step.
Edges panel_edges(int activation, double scale) noexcept {
  const int largest = std::max(1, int(std::ceil(std::log2(std::max(kTail * scale, 1.0)))) + 1);
  const double kink = activation == GRADCORE_HARD_TANH ? 1 / scale : 0;  // the others' is 0, or they have none
  Edges edges;
  for (double z = -kTail; z <= kTail; z += 2) edges.add(z);
  for (const double centre : {0.0, kink, -kink}) {
    edges.add(centre);
    for (int k = -3; k < largest; k++)
      for (const double sign : {-1.0, 1.0}) edges.add(centre + sign * std::exp2(k) / scale);
  }
  return edges;
}

}  // namespace

double Moments::kurtosis() const noexcept {
  return square > 0 ? fourth / (square * square) : std::numeric_limits<double>::infinity();
}

Moments moments(Elementwise function, int activation, double q) noexcept {
  if (std::isnan(q)) return {q, q};
  const double scale = std::sqrt(std::min(std::max(q, 1e-24), 1e24));
  const Edges edges = panel_edges(activation, scale);
  Moments sum{0, 0};
  for (int panel = 1; panel < edges.count(); panel++) {
    const double half = 0.5 * (edges[panel] - edges[panel - 1]), centre = edges[panel - 1] + half;
    double x[2 * kHalf], values[2 * kHalf];
    for (int i = 0; i < kHalf; i++)
      x[i] = scale * (centre - half * kNodes[i]), x[kHalf + i] = scale * (centre + half * kNodes[i]);
    function(activation, 2 * kHalf, x, values);
    for (int i = 0; i < 2 * kHalf; i++) {
      const double z = x[i] / scale, square = values[i] * values[i];
      const double weight = half * kWeights[i % kHalf] * std::exp(-0.5 * z * z) * kInvRootTwoPi;
      sum.square += weight * square;
      sum.fourth += weight * square * square;
    }
  }
  return sum;
}

}  // namespace gradcore
