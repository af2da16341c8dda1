"""Analysis of a net's gradients: measure, predict, judge, explain, cure.

    report = gc.analyze(net, x, target)
    print(report)
    for remedy in report.remedies():
        print(remedy.name, remedy.effect, remedy.confidence)

`measure` measures a `case`; `mean_field` and `predict` compute the expected values; `slope` estimates the slope;
`judge` (with `checks`, `causes` and `wording`) produces findings; `remedies` tries cures; `report` holds the results.
"""

from __future__ import annotations

from . import mean_field
from .analyze import analyze
from .predict import predict
from .repair import Repair, repair
from .report import Finding, GainFactors, LayerRecord, Outcome, Prediction, Remedy, Report, Slope
from .subject import Thresholds
from .training_report import TrainingFinding, TrainingReport

__all__ = [
    "Finding",
    "GainFactors",
    "LayerRecord",
    "Outcome",
    "Prediction",
    "Remedy",
    "Repair",
    "Report",
    "Slope",
    "Thresholds",
    "TrainingFinding",
    "TrainingReport",
    "analyze",
    "mean_field",
    "predict",
    "repair",
]
