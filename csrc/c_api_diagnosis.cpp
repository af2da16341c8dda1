// The C interface of the diagnosis: recorded passes in, a verdict and findings out. No exception passes.
#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "handles.hpp"

using namespace gradcore;

namespace {

constexpr const char *kVerdicts[] = {"healthy", "vanishing", "exploding", "non_finite"};
constexpr const char *kSeverities[] = {"info", "warning", "critical"};
constexpr const char *kKinds[] = {"vanishing",    "exploding",     "non_finite",           "dead_units",
                                  "saturation",   "zero_gradient", "loss_output_mismatch", "unscaled_input",
                                  "update_ratio", "underflow"};
constexpr const char *kCauses[] = {
    "weight_scale", "saturating_activation", "activation_slope", "depth",    "batch_norm",
    "narrow_layer", "input_scale",           "target_scale",     "overflow", "dead_units",
    "loss_output",  "learning_rate",         "precision"};
static_assert(sizeof kVerdicts / sizeof *kVerdicts == GRADCORE_NUM_VERDICTS);
static_assert(sizeof kSeverities / sizeof *kSeverities == GRADCORE_NUM_SEVERITIES);
static_assert(sizeof kKinds / sizeof *kKinds == GRADCORE_NUM_FINDING_KINDS);
static_assert(sizeof kCauses / sizeof *kCauses == GRADCORE_NUM_CAUSES);

template <std::size_t N>
const char *name_in(const char *const (&names)[N], int32_t code) noexcept {
  return code >= 0 && code < int32_t(N) ? names[code] : nullptr;
}

void activation(int activation, int64_t count, const double *x, double *y) {
  gradcore_op_activation(GRADCORE_FLOAT64, activation, x, count, y);
}

void derivative(int activation, int64_t count, const double *x, double *slopes) {
  for (int64_t i = 0; i < count; i++) slopes[i] = 1;
  gradcore_op_activation_backward(GRADCORE_FLOAT64, activation, slopes, x, count, slopes);
}

gradcore_status check_input(const gradcore_matrix &input, int64_t rows, int64_t cols) noexcept {
  if (!input.data) return null_argument("input.data");
  if (input.rows != rows || input.cols != cols || (rows > 1 && input.stride < cols))
    return fail(GRADCORE_INVALID_ARGUMENT,
                "input: expected that of the recorded pass, [%lld, %lld], got [%lld, %lld] with a stride of %lld",
                (long long)rows, (long long)cols, (long long)input.rows, (long long)input.cols,
                (long long)input.stride);
  return GRADCORE_OK;
}

gradcore_judgement as_struct(const gradcore_diagnosis &diagnosis) noexcept {
  const Judgement &judgement = diagnosis.judgement;
  const Slope &slope = judgement.slope;
  return {sizeof(gradcore_judgement),
          judgement.verdict,
          int32_t(judgement.findings.size()),
          diagnosis.recorder.passes(),
          slope.steps,
          slope.value,
          slope.low,
          slope.high,
          slope.systematic,
          slope.systematic_low,
          slope.systematic_high,
          slope.batch_error,
          slope.width_error,
          slope.band};
}

}  // namespace

const char *gradcore_verdict_name(int32_t verdict) { return name_in(kVerdicts, verdict); }
const char *gradcore_severity_name(int32_t severity) { return name_in(kSeverities, severity); }
const char *gradcore_finding_kind_name(int32_t kind) { return name_in(kKinds, kind); }
const char *gradcore_cause_name(int32_t cause) { return name_in(kCauses, cause); }

gradcore_status gradcore_diagnosis_create(const gradcore_net *net, int32_t loss, gradcore_diagnosis **diagnosis) {
  if (!diagnosis) return null_argument("diagnosis");
  *diagnosis = nullptr;
  if (!net) return null_argument("net");
  GRADCORE_TRY(check_loss(loss));
  return guarded([&] {
    *diagnosis = new gradcore_diagnosis(*net, activation, derivative, loss);
    return GRADCORE_OK;
  });
}
void gradcore_diagnosis_destroy(gradcore_diagnosis *diagnosis) { delete diagnosis; }

void gradcore_diagnosis_reset(gradcore_diagnosis *diagnosis) {
  if (diagnosis) diagnosis->recorder.reset();
}

gradcore_status gradcore_diagnosis_add(gradcore_diagnosis *diagnosis, const gradcore_matrix *input, double loss_value) {
  if (!diagnosis) return null_argument("diagnosis");
  const gradcore_net &net = diagnosis->net;
  Recorder &recorder = diagnosis->recorder;
  if (net.num_flow_layers() == 0)
    return fail(GRADCORE_INVALID_STATE, "diagnosis: expected a recorded pass (record = 1) before, got none");
  return guarded([&] {
    std::vector<gradcore_layer_flow> flows;
    for (int l = 0; l < net.num_flow_layers(); l++) flows.push_back(net.flow(l));
    const int64_t rows = flows[0].activation.count / net.architecture().layers[0].out;
    if (recorder.passes() > 0 && rows != recorder.rows())
      return fail(GRADCORE_INVALID_ARGUMENT, "diagnosis: expected a pass of %lld rows as those before, got %lld",
                  (long long)recorder.rows(), (long long)rows);
    if (input) GRADCORE_TRY(check_input(*input, rows, net.architecture().in_features()));
    recorder.add(flows.data(), net.gradients(), input, loss_value);
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_diagnosis_judge(gradcore_diagnosis *diagnosis, const gradcore_optimizer *optimizer,
                                         gradcore_judgement *judgement) {
  constexpr std::size_t kFirstJudgement = offsetof(gradcore_judgement, band) + sizeof(double);
  if (!diagnosis) return null_argument("diagnosis");
  if (!judgement) return null_argument("judgement");
  if (optimizer && &optimizer->net != &diagnosis->net)
    return fail(GRADCORE_INVALID_ARGUMENT, "optimizer: expected one of the diagnosed net, got another net's");
  if (diagnosis->recorder.passes() == 0)
    return fail(GRADCORE_INVALID_STATE, "diagnosis: expected gradcore_diagnosis_add before, got no pass");
  GRADCORE_TRY(check_size("judgement", *judgement, kFirstJudgement));
  return guarded([&] {
    Evidence &evidence = diagnosis->recorder.evidence(diagnosis->net.parameters());
    const gradcore_optimizer_config plain{sizeof plain, GRADCORE_SGD, 0, 0.01, 0, 0, 0, 0, 0, 1e-8};
    const gradcore_optimizer_config &config = optimizer ? optimizer->config() : plain;
    evidence.has_optimizer = optimizer != nullptr;
    evidence.trained = optimizer && gradcore_optimizer_get_step(optimizer) > 0;
    evidence.kind = config.kind, evidence.lr = config.lr, evidence.eps = config.eps;
    evidence.added_decay = config.kind == GRADCORE_ADAMW ? 0 : config.weight_decay;
    evidence.memory = 1 / std::max(1 - config.momentum, 0.0);
    Judgement made;
    judge(evidence, &made);
    diagnosis->judgement = std::move(made);
    give(as_struct(*diagnosis), judgement);
    return GRADCORE_OK;
  });
}

gradcore_status gradcore_diagnosis_finding(const gradcore_diagnosis *diagnosis, int32_t index,
                                           gradcore_finding *finding) {
  constexpr std::size_t kFirstFinding = offsetof(gradcore_finding, explanation) + sizeof(char *);
  if (!diagnosis) return null_argument("diagnosis");
  if (!finding) return null_argument("finding");
  GRADCORE_TRY(check_size("finding", *finding, kFirstFinding));
  const std::vector<Finding> &found = diagnosis->judgement.findings;
  if (index < 0 || index >= int32_t(found.size()))
    return fail(GRADCORE_INVALID_ARGUMENT, "index: expected one of the last judgement's %d findings, from 0 on, got %d",
                int(found.size()), index);
  const Finding &from = found[std::size_t(index)];
  const int32_t *layers = diagnosis->judgement.layers.data() + from.first;
  give({sizeof *finding, from.kind, from.severity, from.cause, from.count, layers, from.text}, finding);
  return GRADCORE_OK;
}
