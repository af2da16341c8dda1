/* Part of gradcore.h, which includes it. Tells from recorded passes whether a net's gradients vanish or explode, where
 * and why.
 *
 *   gradcore_diagnosis_create(net, loss, &diagnosis);
 *   for each of several batches (for example 8; more batches give smaller error bars):
 *     gradcore_net_loss_and_gradients(net, &input, &target, loss, 1, &value), or a step that records;
 *     gradcore_diagnosis_add(diagnosis, &input, value);
 *   gradcore_diagnosis_judge(diagnosis, optimizer, &judgement);
 *
 * Rules and limits are those of gc.analyze. It omits what needs more than passes: trial steps on a copy (whether a
 * learning rate diverges), the scales of targets and of single columns, singular values, predictions of theory, and
 * remedies. */
#ifndef GRADCORE_DIAGNOSIS_H
#define GRADCORE_DIAGNOSIS_H

#include <gradcore/gradcore.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gradcore_diagnosis gradcore_diagnosis;

/* From best to worst. */
typedef enum gradcore_verdict {
  GRADCORE_VERDICT_HEALTHY = 0,
  GRADCORE_VERDICT_VANISHING = 1,
  GRADCORE_VERDICT_EXPLODING = 2,
  GRADCORE_VERDICT_NON_FINITE = 3,
  GRADCORE_NUM_VERDICTS = 4
} gradcore_verdict;

typedef enum gradcore_severity {
  GRADCORE_INFO = 0, /* changes no verdict */
  GRADCORE_WARNING = 1,
  GRADCORE_CRITICAL = 2,
  GRADCORE_NUM_SEVERITIES = 3
} gradcore_severity;

typedef enum gradcore_finding_kind {
  GRADCORE_FINDING_VANISHING = 0,
  GRADCORE_FINDING_EXPLODING = 1,
  GRADCORE_FINDING_NON_FINITE = 2,
  GRADCORE_FINDING_DEAD_UNITS = 3,
  GRADCORE_FINDING_SATURATION = 4,
  GRADCORE_FINDING_ZERO_GRADIENT = 5,
  GRADCORE_FINDING_LOSS_OUTPUT_MISMATCH = 6,
  GRADCORE_FINDING_UNSCALED_INPUT = 7,
  GRADCORE_FINDING_UPDATE_RATIO = 8,
  GRADCORE_FINDING_UNDERFLOW = 9,
  GRADCORE_NUM_FINDING_KINDS = 10
} gradcore_finding_kind;

typedef enum gradcore_cause {
  GRADCORE_CAUSE_WEIGHT_SCALE = 0,
  GRADCORE_CAUSE_SATURATING_ACTIVATION = 1,
  GRADCORE_CAUSE_ACTIVATION_SLOPE = 2,
  GRADCORE_CAUSE_DEPTH = 3,
  GRADCORE_CAUSE_BATCH_NORM = 4,
  GRADCORE_CAUSE_NARROW_LAYER = 5,
  GRADCORE_CAUSE_INPUT_SCALE = 6,
  GRADCORE_CAUSE_TARGET_SCALE = 7,
  GRADCORE_CAUSE_OVERFLOW = 8,
  GRADCORE_CAUSE_DEAD_UNITS = 9,
  GRADCORE_CAUSE_LOSS_OUTPUT = 10,
  GRADCORE_CAUSE_LEARNING_RATE = 11,
  GRADCORE_CAUSE_PRECISION = 12,
  GRADCORE_NUM_CAUSES = 13
} gradcore_cause;

/* The slope is the growth of ln |delta|^2 (with skip connections: of ln |dL/dh|^2) per layer towards the input, with
 * 95 % intervals; NaN with fewer than two hidden layers. `systematic` excludes the luck of this draw of random weights;
 * after steps of the given optimizer it excludes nothing. Gradients vanish or explode if the slope is outside
 * +-band by more than batch noise, the slope of a typical draw is outside too, and learning suffers from it. */
typedef struct gradcore_judgement {
  size_t size;     /* sizeof(gradcore_judgement) of the caller */
  int32_t verdict; /* gradcore_verdict */
  int32_t num_findings;
  int32_t num_passes;
  int32_t num_steps; /* hidden layers that the slope covers */
  double slope, slope_low, slope_high;
  double systematic, systematic_low, systematic_high;
  double batch_error; /* standard error from the spread over passes; NaN for one pass */
  double width_error; /* standard error from the finite widths of the layers */
  double band;
} gradcore_judgement;

typedef struct gradcore_finding {
  size_t size;      /* sizeof(gradcore_finding) of the caller */
  int32_t kind;     /* gradcore_finding_kind */
  int32_t severity; /* gradcore_severity */
  int32_t cause;    /* gradcore_cause, or -1 */
  int32_t num_layers;
  const int32_t *layers;   /* the dense layers concerned, 0 at the input */
  const char *explanation; /* sentences; this and `layers` live until the next judgement or destroy */
} gradcore_finding;

/* loss: gradcore_loss of the coming passes. The net must outlive its diagnoses. */
GRADCORE_API gradcore_status gradcore_diagnosis_create(const gradcore_net *net, int32_t loss,
                                                       gradcore_diagnosis **diagnosis);
GRADCORE_API void gradcore_diagnosis_destroy(gradcore_diagnosis *diagnosis);
/* Adds the pass that the net has just recorded: its flow, gradients and loss. All passes must have the same number of
 * rows. input: the input of that pass; NULL: inputs are assumed to be standardized. */
GRADCORE_API gradcore_status gradcore_diagnosis_add(gradcore_diagnosis *diagnosis, const gradcore_matrix *input,
                                                    double loss_value);
/* Discards all passes. */
GRADCORE_API void gradcore_diagnosis_reset(gradcore_diagnosis *diagnosis);
/* Judges all passes added, for this optimizer (NULL: plain SGD at a learning rate of 0.01) and the current parameters
 * of the net. *judgement is filled up to its size; members unknown to this library are not changed. */
GRADCORE_API gradcore_status gradcore_diagnosis_judge(gradcore_diagnosis *diagnosis,
                                                      const gradcore_optimizer *optimizer,
                                                      gradcore_judgement *judgement);
/* The findings of the last judgement, worst first; *finding is filled likewise. */
GRADCORE_API gradcore_status gradcore_diagnosis_finding(const gradcore_diagnosis *diagnosis, int32_t index,
                                                        gradcore_finding *finding);

/* Names as in the Python interface; NULL if out of range. */
GRADCORE_API const char *gradcore_verdict_name(int32_t verdict);
GRADCORE_API const char *gradcore_severity_name(int32_t severity);
GRADCORE_API const char *gradcore_finding_kind_name(int32_t kind);
GRADCORE_API const char *gradcore_cause_name(int32_t cause);

#ifdef __cplusplus
}
#endif

#endif
