"""The analysis of a net's gradients: measure, predict, judge, explain, cure.

    report = gc.analyze(net, x, target)
    print(report)
    for remedy in report.remedies():
        print(remedy.name, remedy.effect, remedy.confidence)

`measure` makes numbers, `mean_field` and `predict` say what to expect of them, `slope` estimates, `judge`
(with `checks`, `causes` and `wording`) makes findings, `remedies` tries cures, `report` holds it all.
"""

from __future__ import annotations

from . import mean_field
from .analyze import analyze
from .history import TrainingFinding, TrainingReport
from .predict import predict
from .repair import Repair, repair
from .report import Finding, GainFactors, LayerRecord, Outcome, Prediction, Remedy, Report, Slope
from .subject import Thresholds

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
