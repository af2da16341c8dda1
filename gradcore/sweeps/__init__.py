"""Many nets measured at once: depth x width x activation x initialization x normalization x seeds.

    result = gc.sweep({"depth": [5, 10, 20, 40], "activation": ["tanh", "relu"], "seed": range(3)})
    print(result)
    result.save_html("sweep.html")

Each point of the grid is a net, built anew and analysed by `gc.analyze`. Points are independent: they run in
parallel on any `concurrent.futures.Executor`, and a file of finished points lets a sweep that was cut short
go on where it stopped. With `weight_var` and `bias_var` as axes it is the phase diagram of Poole et al.
2016 (arXiv:1606.05340) and Schoenholz et al. 2017 (arXiv:1611.01232), measured beside the theory's line.
"""

from __future__ import annotations

from .critical import critical_line
from .grid import AXES, build
from .result import SweepResult, load
from .run import sweep

__all__ = ["AXES", "SweepResult", "build", "critical_line", "load", "sweep"]
