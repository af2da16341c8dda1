"""`gradcore demo`: diagnoses, cures and trains a deep net that cannot learn real data."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from .._status import Status
from ..analysis.analyze import analyze
from ..analysis.report import Remedy, Report
from ..mlp import MLP
from ..optim import SGD, cosine
from ..show import text
from ..training import Callback
from .outputs import OK, UNHEALTHY, check_outputs, write_outputs
from .table import holdout, load

WIDTHS = [64, *[100] * 30, 10]
HELD_OUT = 0.25
GOAL = 0.95
CHANCE = 0.1
# Both nets are trained alike, and long enough that every remedy that helps passes the goal.
_EPOCHS, _BATCH, _MOMENTUM, _CLIP_NORM = 40, 64, 0.9, 1.0
_FIRST_LR, _MEAN_LR = 0.02, 0.01
_TRAINING = f"SGD, momentum {_MOMENTUM}, learning rate falling from {_FIRST_LR} to 0, clipped at norm {_CLIP_NORM:g}"

_NEXT = """  gradcore demo --html report.html      this report as a page with charts
  gradcore analyze --data FILE.csv --widths IN,100x10,OUT --activation relu
                                        the same for your own data and net
  print(gc.analyze(net, x, target))     in Python, for your own net; README.md has an example"""


class Demo:
    """The data, its split, the terminal, and the output and training that the stages share."""

    def __init__(self, seed: int, silent: bool, interrupted: Callable[[], bool]) -> None:
        self.seed, self.silent, self.interrupted = seed, silent, interrupted
        table = load("digits")
        train, test = holdout(table, HELD_OUT, seed)
        self.notes, self.classes = table.notes, len(table.classes)
        self.train_data = table.x[train], table.target[train]
        self.test_data = table.x[test], table.target[test]
        self.terminal = text.Terminal.of(sys.stdout)
        self.start = time.monotonic()

    def say(self, *lines: str) -> None:
        """Print, unless stdout is kept for JSON."""
        if not self.silent:
            print("\n".join(lines), flush=True)

    def heading(self, title: str) -> None:
        """Print the heading of a part, with the time since the start; raise KeyboardInterrupt after Ctrl-C."""
        if self.interrupted():
            raise KeyboardInterrupt
        self.say(self.terminal.rule(f"{title} [{time.monotonic() - self.start:.0f} s]"))

    def train(self, net: MLP) -> float:
        """Train until the goal or `_EPOCHS`, and print the accuracy on the way; returns the final held-out accuracy."""
        x, labels = self.train_data
        total_steps = _EPOCHS * max(len(x) // _BATCH, 1)
        optimizer = SGD(net, lr=cosine(_FIRST_LR, total_steps=total_steps), momentum=_MOMENTUM)
        history = net.fit(
            x,
            labels,
            epochs=_EPOCHS,
            batch_size=_BATCH,
            optimizer=optimizer,
            clip_norm=_CLIP_NORM,
            validation=self.test_data,
            callbacks=[_Accuracy(self)],
            drop_last=True,  # the cure may be batch norm, and the last batch may be small
            progress=False,
            seed=self.seed,
        )
        return history["val_accuracy"][-1]

    def compare(self, rows: list[tuple[str, float, str]]) -> None:
        """Print the summary: each net, its accuracy on held-out digits, and the verdict."""
        self.say(f"  {'net':54} {'held-out accuracy':>17}  gradients")
        for name, accuracy, verdict in rows:
            style = "green" if accuracy > GOAL else "red"
            self.say(f"  {name:54.54} {self.terminal.style(f'{accuracy:17.1%}', style)}  {verdict}")


class _Accuracy(Callback):
    """Prints the progress eight times per training and at its end; stops at the goal."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo

    def on_epoch(self, logs: dict[str, float]) -> bool:
        """True once the goal is reached."""
        epoch, accuracy = int(logs["epoch"]) + 1, logs["val_accuracy"]
        done = accuracy > GOAL
        if done or epoch == 1 or epoch % (_EPOCHS // 8) == 0:
            bar = self.demo.terminal.bar(accuracy, 24)
            self.demo.say(f"  epoch {epoch:2}  loss {logs['loss']:6.3f}  held-out accuracy {accuracy:6.1%}  {bar}")
        return done


def run_demo(arguments: argparse.Namespace) -> int:
    """`gradcore demo`."""
    check_outputs(arguments)
    report, worked = run(
        seed=arguments.seed,
        quick=arguments.quick,
        silent=arguments.json == "-",
        interrupted=lambda: arguments.interrupts.seen,
    )
    write_outputs(report, arguments)
    return OK if worked else UNHEALTHY


def run(
    seed: int, quick: bool, silent: bool = False, interrupted: Callable[[], bool] = lambda: False
) -> tuple[Report, bool]:
    """Run the whole demo.

    Args:
        seed: seed of the split, the weights and the batches.
        quick: try the remedies for fewer steps.
        silent: print nothing but progress.
        interrupted: called before each part; if it returns True, KeyboardInterrupt is raised.

    Returns:
        (report of the original net with the remedies tried, whether the cured net passed 95 % on the held-out digits
        while the original stayed near chance).
    """
    demo = Demo(seed, silent, interrupted)
    demo.heading("1. A deep net that does not learn")
    net = MLP(WIDTHS, activation="sigmoid", seed=seed)
    demo.say(*demo.notes, f"{net!r}", f"trained with {_TRAINING}:")
    sick = demo.train(net.copy())

    demo.heading("2. Why: its gradients at the start of training")
    report = _diagnose(demo, net)

    demo.heading("3. What cures it: remedies tried on the training rows")
    helped = _cures(demo, report, quick)
    if not helped:
        return report, False
    best = helped[0]

    demo.heading(f"4. The cure: {best.name}")
    demo.say(f"Why: {best.reason}.")
    cured = demo.train(best.apply())

    demo.heading("Summary")
    verdict = best.after.verdict if best.after else "not measured"
    demo.compare([("original", sick, report.verdict), (f"cured: {best.name}", cured, verdict)])
    demo.say("", "Next steps:", _NEXT)
    return report, cured > GOAL and sick < 2 * CHANCE


def _diagnose(demo: Demo, net: MLP) -> Report:
    optimizer = SGD(net, lr=_MEAN_LR, momentum=_MOMENTUM)
    with Status(sys.stderr) as status:
        report = analyze(net, *demo.train_data, optimizer=optimizer, seed=demo.seed, progress=status)
    demo.say(text.render(report, color=None, max_layers=12))
    return report


def _cures(demo: Demo, report: Report, quick: bool) -> list[Remedy]:
    with Status(sys.stderr) as status:
        # `seconds` is for slow machines: remedies that were not tried by then are listed as such
        report.remedies(steps=40 if quick else 60, seconds=40.0, progress=status)
    demo.say(*text.remedies(report, demo.terminal)[1:])
    return [remedy for remedy in report.tried if remedy.helps]
