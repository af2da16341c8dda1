"""Analysis of a net's gradients: measure, predict, judge, explain, cure.

    report = gc.analyze(net, x, target)
    print(report)
    for remedy in report.remedies():
        print(remedy.name, remedy.effect, remedy.confidence)

`analyze` leads through it. `measure` measures a `case`, and `propagation` what it does to small changes of its inputs;
`rehearsal` and `outlook` try steps of the optimizer, whose losses `doubt` reads; `slope` estimates the slope;
`mean_field` and `predict` compute what theory expects, `depth` how many layers the design can carry. `judge` turns a
`subject` into findings (with `silence`, `harm`, `steps`, `checks`, `causes` and `wording`). `remedies` tries the
`candidates` of `proposals` (with `verification`, `trials` and `weights`); `repair` applies the best. `report` holds the
results. `in_training` does the same for a net while it is trained.
"""

from __future__ import annotations

from . import mean_field
from .analyze import analyze
from .predict import predict
from .repair import Repair, repair
from .report import (
    DepthLimit,
    Finding,
    GainFactors,
    Jacobian,
    LayerRecord,
    Outcome,
    Prediction,
    Remedy,
    Report,
    Slope,
)
from .subject import Thresholds
from .training_report import TrainingFinding, TrainingReport

__all__ = [
    "DepthLimit",
    "Finding",
    "GainFactors",
    "Jacobian",
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
