"""Many nets measured at once: depth x width x activation x initialization x normalization x seeds.

    result = gc.sweep({"depth": [5, 10, 20, 40], "activation": ["tanh", "relu"], "seed": range(3)})
    print(result)
    result.save_html("sweep.html")

Each point of the grid is a fresh net, analysed by `gc.analyze`. Points are independent: they run in parallel on any
`concurrent.futures.Executor`, and an interrupted sweep resumes from its file of finished points. With the axes
`weight_var` and `bias_var`, a sweep measures the phase diagram of Poole et al. 2016 (arXiv:1606.05340) and Schoenholz
et al. 2017 (arXiv:1611.01232), shown with the critical line of the theory.
"""

from __future__ import annotations

from .critical import critical_line
from .grid import AXES, build
from .result import SweepResult, load
from .run import sweep

__all__ = ["AXES", "SweepResult", "build", "critical_line", "load", "sweep"]
