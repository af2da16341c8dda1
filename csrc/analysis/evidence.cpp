#include "analysis/evidence.hpp"

#include <algorithm>
#include <cmath>

namespace gradcore {

namespace {

using Flow = gradcore_layer_flow;
using Field = double (*)(const Flow &);

double share_of_deltas(const Flow &flow, int format) noexcept {
  const gradcore_array_stats &delta = flow.delta;
  const int64_t nonzero = delta.count - delta.zeros - delta.nonfinite;
  return double(delta.flushed[format]) / double(std::max<int64_t>(nonzero, 1));
}

struct Number {
  double LayerEvidence::*to;
  Field of;
};
constexpr Number kNorms[] = {{&LayerEvidence::activation, [](const Flow &f) { return f.activation.norm; }},
                             {&LayerEvidence::delta, [](const Flow &f) { return f.delta.norm; }},
                             {&LayerEvidence::grad_output, [](const Flow &f) { return f.grad_output_norm; }},
                             {&LayerEvidence::grad_preact, [](const Flow &f) { return f.grad_preact_norm; }},
                             {&LayerEvidence::weight, [](const Flow &f) { return f.weight_norm; }},
                             {&LayerEvidence::weight_grad, [](const Flow &f) { return f.weight_grad.norm; }}};
constexpr Number kMeans[] = {
    {&LayerEvidence::squared_slope, [](const Flow &f) { return f.mean_squared_derivative; }},
    {&LayerEvidence::saturated, [](const Flow &f) { return double(f.saturated) / double(f.activation.count); }},
    {&LayerEvidence::subnormal, [](const Flow &f) { return double(f.delta.subnormals) / double(f.delta.count); }},
    {&LayerEvidence::lost_in_fp16, [](const Flow &f) { return share_of_deltas(f, 0); }},
    {&LayerEvidence::lost_in_bf16, [](const Flow &f) { return share_of_deltas(f, 1); }},
    {&LayerEvidence::update_ratio, [](const Flow &f) { return f.update_norm / f.weight_norm; }}};

double mean(const Evidence &evidence, int layer, Field of) noexcept {
  double sum = 0;
  for (int pass = 0; pass < evidence.passes(); pass++) sum += of(evidence.flow(pass, layer));
  return sum / evidence.passes();
}

double rms(const Evidence &evidence, int layer, Field of) noexcept {
  const auto norm = [&](index pass) { return of(evidence.flow(int(pass), layer)); };
  return root_of_squares(evidence.passes(), norm) / std::sqrt(evidence.passes());
}

// E act'^4 / (E act'^2)^2 at the variance of the layer's pre-activations, kept between 1e-6 and 1e6; a variance of NaN
// (infinity times 0) counts as 1e6.
double kurtosis(const Evidence &evidence, const LayerEvidence &layer) noexcept {
  const double q = layer.spec->normalization ? 1.0 : std::max(std::min(1e6, layer.preact_square), 1e-6);
  return std::min(moments(evidence.derivative, layer.spec->activation, q).kurtosis(), 50.0);
}

// Sets what describes the step from the layer above to this one: the gain of the weights for random directions,
// |W|_F^2 / out_features, and the noise of finite width, (M.6) of gradcore/analysis/mean_field.py. A skip connection
// beside the branch dilutes the noise.
void set_step(const Evidence &evidence, const LayerEvidence &above, LayerEvidence *layer) noexcept {
  const double width = double(layer->spec->out), entering = above.delta / above.grad_output;
  layer->weight_gain = above.weight * above.weight / double(above.spec->out);
  layer->branch_gain = layer->weight_gain * entering * entering;
  const double share = above.spec->residual ? layer->branch_gain / (layer->branch_gain + 1) : 1.0;
  const double kappa = kurtosis(evidence, *layer), mixed = 4 * share * (1 - share) / width;
  layer->width_noise = share * share * (3 * kappa - 1) / width + mixed;
  layer->alignment = share * share * 2 * kappa / width + mixed;
}

}  // namespace

double Evidence::mean_loss() const noexcept {
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum / passes();
}

bool Evidence::starved(int layer) const noexcept {
  const LayerEvidence &own = layers[std::size_t(layer)];
  const double arriving = own.delta / std::sqrt(rows() * double(own.spec->out));
  if (layer == 0) return input_rms < arriving;
  return layers[std::size_t(layer - 1)].activation / std::sqrt(rows() * double(own.spec->in)) < arriving;
}

double Evidence::increment(int pass, int layer) const noexcept {
  const gradcore_layer_flow &below = flow(pass, layer), &above = flow(pass, layer + 1);
  return net->any_residual ? 2 * std::log(below.grad_output_norm) - 2 * std::log(above.grad_output_norm)
                           : 2 * std::log(below.delta.norm) - 2 * std::log(above.delta.norm);
}

void Evidence::summarize() noexcept {
  double square = input_rms * input_rms;
  for (int l = 0; l < depth(); l++) {
    LayerEvidence &layer = layers[std::size_t(l)];
    for (const Number &norm : kNorms) layer.*norm.to = rms(*this, l, norm.of);
    for (const Number &share : kMeans) layer.*share.to = mean(*this, l, share.of);
    layer.dead_units = double(layer.spec->out);
    for (int pass = 0; pass < passes(); pass++)
      layer.dead_units = std::min(layer.dead_units, double(flow(pass, l).dead_units));
    layer.preact_square = layer.weight_var * square + layer.bias_var;
    square = layer.activation * layer.activation / (rows() * double(layer.spec->out));
  }
  for (int l = 0; l + 2 < depth(); l++) {
    LayerEvidence &layer = layers[std::size_t(l)];
    set_step(*this, layers[std::size_t(l + 1)], &layer);
    layer.usable = true;
    for (int pass = 0; pass < passes(); pass++) layer.usable &= std::isfinite(increment(pass, l));
  }
}

}  // namespace gradcore
