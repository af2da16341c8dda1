// The diagnosis: whatever a net's weights, its data and what its passes record, a judgement is one of the verdicts,
// with findings that name layers of the net and say why. The input is a small net, its numbers, then passes, some of
// which have other gradients and flows written over them than those that they measured.
#include <vector>

#include "handles.hpp"
#include "input.hpp"

namespace {

constexpr int64_t kRows = 2;

// Any number; most of those that bytes make are of no size that a net has.
double number(Input &input) {
  const int kind = input.choose(8);
  if (kind == 0) return input.take<double>();
  if (kind == 1) return 0;
  const double mantissa = input.take<int8_t>() / 64.0;
  return kind == 2 ? mantissa * __builtin_ldexp(1.0, input.take<int16_t>() % 1100) : mantissa;
}

// Elements of the net's type, from few numbers.
void fill(Input &input, int32_t dtype, void *elements, int64_t count) {
  const double numbers[] = {number(input), number(input), number(input)};
  for (int64_t i = 0; i < count; i++) {
    const double value = numbers[i % 3];
    const double largest = 3.4e38;
    if (dtype == GRADCORE_FLOAT64)
      static_cast<double *>(elements)[i] = value;
    else
      static_cast<float *>(elements)[i] = value > largest    ? __builtin_inff()
                                          : value < -largest ? -__builtin_inff()
                                                             : float(value);
  }
}

std::vector<double> filled(Input &input, int32_t dtype, int64_t count) {
  std::vector<double> elements(static_cast<std::size_t>(count));  // large enough for either type
  fill(input, dtype, elements.data(), count);
  return elements;
}

// One member of a layer's flow: any number, or a count within its array.
void disturb(Input &input, gradcore_layer_flow *flow) {
  gradcore_array_stats &array = input.choose(2) ? flow->delta : input.choose(2) ? flow->activation : flow->weight_grad;
  double *const numbers[] = {&array.mean,        &array.variance,         &array.norm,
                             &array.max_abs,     &flow->grad_output_norm, &flow->grad_preact_norm,
                             &flow->weight_norm, &flow->bias_grad_norm,   &flow->mean_squared_derivative,
                             &flow->update_norm};
  int64_t *const counts[] = {&array.zeros,      &array.subnormals, &array.nonfinite, &array.flushed[0],
                             &array.flushed[1], &flow->act_zeros,  &flow->saturated, &flow->dead_units};
  if (input.choose(2))
    *numbers[input.choose(sizeof numbers / sizeof *numbers)] = number(input);
  else
    *counts[input.choose(sizeof counts / sizeof *counts)] = input.choose(2) ? array.count : input.choose(4);
}

gradcore_net *make_net(Input &input, std::vector<int64_t> *widths) {
  const int depth = 1 + input.choose(7);
  std::vector<int32_t> activations;
  for (int i = 0; i <= depth; i++) widths->push_back(1 + input.choose(6));
  for (int i = 1; i < depth; i++) activations.push_back(input.choose(GRADCORE_NUM_ACTIVATIONS));
  gradcore_net_config config{};
  config.size = sizeof config;
  config.widths = widths->data(), config.num_widths = depth + 1;
  config.activations = activations.data();
  config.normalization = input.choose(4), config.residual = input.choose(2);
  config.bias = input.choose(2), config.dtype = input.choose(3);
  gradcore_net *net = nullptr;
  require(gradcore_net_create(&config, &net) == GRADCORE_OK);
  if (const int scheme = input.choose(GRADCORE_NUM_INITIALIZERS + 1)) {
    require(gradcore_net_initialize(net, scheme - 1, input.take<uint8_t>()) == GRADCORE_OK);
    const double scale = input.choose(4) ? 1 : number(input);
    const int64_t size = gradcore_net_flat_size(net);
    for (int64_t i = 0; i < size; i++) {
      if (config.dtype == GRADCORE_FLOAT64)
        static_cast<double *>(gradcore_net_parameters(net))[i] *= scale;
      else if (scale > -3e38 && scale < 3e38)
        static_cast<float *>(gradcore_net_parameters(net))[i] *= float(scale);
    }
  } else {
    fill(input, config.dtype, gradcore_net_parameters(net), gradcore_net_flat_size(net));
  }
  gradcore_net_parameters_changed(net);
  return net;
}

// A pass, recorded and added; refused where its numbers are.
void add_pass(Input &input, gradcore_net *net, const std::vector<int64_t> &widths, int32_t dtype, int32_t loss,
              gradcore_optimizer *optimizer, gradcore_diagnosis *diagnosis) {
  const int64_t in = widths.front(), out = widths.back();
  const std::vector<double> x = filled(input, dtype, kRows * in), y = filled(input, dtype, kRows * out);
  const int64_t labels[kRows] = {0, out - 1};
  const gradcore_matrix batch{x.data(), kRows, in, in};
  gradcore_target_data target{};
  target.values = {y.data(), kRows, out, out};
  if (loss == GRADCORE_CROSS_ENTROPY) target.labels = labels, target.num_labels = kRows;
  gradcore_step step{};
  const bool stepped = input.choose(2);
  const gradcore_status status = stepped
                                     ? gradcore_net_train_step(net, &batch, &target, loss, optimizer, 0, 0, 1, &step)
                                     : gradcore_net_loss_and_gradients(net, &batch, &target, loss, 1, &step.loss);
  if (status != GRADCORE_OK) return require_text(gradcore_last_error());
  if (input.choose(4) == 0) fill(input, dtype, gradcore_net_gradients(net), gradcore_net_flat_size(net));
  std::vector<gradcore_layer_flow> flows(widths.size() - 1);
  for (std::size_t l = 0; l < flows.size(); l++) require(gradcore_net_flow(net, int32_t(l), &flows[l]) == GRADCORE_OK);
  const int disturbances = input.choose(8) - 4;
  for (int i = 0; i < disturbances; i++) disturb(input, &flows[std::size_t(input.choose(int(flows.size())))]);
  const double value = input.choose(4) ? step.loss : number(input);
  const gradcore_matrix *measured = input.choose(4) ? &batch : nullptr;
  if (disturbances <= 0)
    require(gradcore_diagnosis_add(diagnosis, measured, value) == GRADCORE_OK);
  else
    diagnosis->recorder.add(flows.data(), gradcore_net_gradients(net), measured, value);
}

void judge(gradcore_diagnosis *diagnosis, const gradcore_optimizer *optimizer, int depth) {
  gradcore_judgement judgement{};
  judgement.size = sizeof judgement;
  const gradcore_status status = gradcore_diagnosis_judge(diagnosis, optimizer, &judgement);
  if (status != GRADCORE_OK) {
    require(status == GRADCORE_INVALID_STATE);  // every pass was refused
    return require_text(gradcore_last_error());
  }
  require(gradcore_verdict_name(judgement.verdict) && judgement.num_passes > 0);
  require(judgement.verdict == GRADCORE_VERDICT_HEALTHY || judgement.num_findings > 0);
  for (int i = 0; i < judgement.num_findings; i++) {
    gradcore_finding finding{};
    finding.size = sizeof finding;
    require(gradcore_diagnosis_finding(diagnosis, i, &finding) == GRADCORE_OK);
    require(gradcore_finding_kind_name(finding.kind) && gradcore_severity_name(finding.severity));
    require(finding.cause == -1 || gradcore_cause_name(finding.cause));
    for (int l = 0; l < finding.num_layers; l++) require(finding.layers[l] >= 0 && finding.layers[l] < depth);
    require_text(finding.explanation);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, std::size_t size) {
  Input input(data, size);
  std::vector<int64_t> widths;
  gradcore_net *net = make_net(input, &widths);
  gradcore_net_config config{};
  config.size = sizeof config;
  require(gradcore_net_get_config(net, &config) == GRADCORE_OK);
  gradcore_optimizer_config rule{};
  rule.size = sizeof rule;
  rule.kind = input.choose(GRADCORE_NUM_OPTIMIZERS);
  rule.lr = input.choose(2) ? 1e-3 : __builtin_fabs(number(input));
  rule.alpha = 0.99, rule.beta1 = 0.9, rule.beta2 = 0.999, rule.eps = 1e-8;
  gradcore_optimizer *optimizer = nullptr;
  gradcore_diagnosis *diagnosis = nullptr;
  if (gradcore_optimizer_create(net, &rule, &optimizer) != GRADCORE_OK) {  // a learning rate that is no number
    rule.lr = 1;
    require(gradcore_optimizer_create(net, &rule, &optimizer) == GRADCORE_OK);
  }
  const int32_t loss = input.choose(GRADCORE_NUM_LOSSES);
  require(gradcore_diagnosis_create(net, loss, &diagnosis) == GRADCORE_OK);
  for (int pass = input.choose(4); pass >= 0; pass--)
    add_pass(input, net, widths, config.dtype, loss, optimizer, diagnosis);
  judge(diagnosis, input.choose(2) ? optimizer : nullptr, int(widths.size()) - 1);
  gradcore_diagnosis_destroy(diagnosis);
  gradcore_optimizer_destroy(optimizer);
  gradcore_net_destroy(net);
  return 0;
}
