// From recorded passes to findings and a verdict: the rules of gradcore/analysis/judge.py, causes.py and checks.py,
// as far as passes at one state of the net can tell. What needs more is left to gc.analyze: steps tried on a copy
// (a learning rate that diverges), the targets' and the columns' scales, singular values, remedies.
#ifndef GRADCORE_ANALYSIS_JUDGE_HPP
#define GRADCORE_ANALYSIS_JUDGE_HPP

#include "analysis/slope.hpp"

namespace gradcore {

constexpr int kNoCause = -1;

struct Finding {
  int kind, severity, cause;  // gradcore_finding_kind, _severity, _cause or kNoCause
  int first, count;           // of the layers concerned, in Judgement::layers
  char text[400];
};

struct Judgement {
  int verdict;  // gradcore_verdict
  Slope slope;
  std::vector<Finding> findings;  // worst first
  std::vector<int32_t> layers;
};

// Of at least one pass; takes the place of what stood there. May throw std::bad_alloc.
void judge(const Evidence &evidence, Judgement *to);

}  // namespace gradcore

#endif
