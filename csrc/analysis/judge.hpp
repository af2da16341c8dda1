// From recorded passes to findings and a verdict: those rules of judge.py, silence.py, harm.py, causes.py, steps.py and
// checks.py in gradcore/analysis that need only passes with fixed parameters. gc.analyze does the rest: trial steps on a
// copy (a learning rate that diverges), the scales of targets and columns, singular values, remedies.
#ifndef GRADCORE_ANALYSIS_JUDGE_HPP
#define GRADCORE_ANALYSIS_JUDGE_HPP

#include "analysis/slope.hpp"

namespace gradcore {

constexpr int kNoCause = -1;

struct Finding {
  int kind, severity, cause;  // gradcore_finding_kind, _severity, _cause or kNoCause
  int first, count;           // where the layers concerned are in Judgement::layers
  char text[400];
};

struct Judgement {
  int verdict;  // gradcore_verdict
  Slope slope;
  std::vector<Finding> findings;  // worst first
  std::vector<int32_t> layers;
};

// Judges at least one pass and overwrites the result. May throw std::bad_alloc.
void judge(const Evidence &evidence, Judgement *to);

}  // namespace gradcore

#endif
