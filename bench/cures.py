"""How many of the zoo's problem nets the remedies cure, and by what.

    python bench/cures.py                    # every problem net, half an hour
    python bench/cures.py --every 8          # a sample
    python bench/cures.py --only "batch norm"

A net is cured when a remedy makes the re-analysed net healthy and its training, of the same budget on the same
data, ends at a clearly lower loss on held-out rows: by 5 % at least, with the 95 % interval over seeds above
zero, and without diverging when trained on five times as long. Nothing else counts; a silenced alarm does not.
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from zoo_data import Model
from zoo_problems import problems


def cured_by(model: Model) -> tuple[str, str]:
    """(what was found, the best remedy that helped); the second is empty where none did.

    To save time the likeliest three are tried alone first, and all of them only where none of those helps.
    """
    report = model.report()
    found = f"{report.verdict}, {report.findings[0].cause}" if report.findings else report.verdict
    helped = [remedy for remedy in report.remedies(limit=3, pairs=0) if remedy.helps]
    helped = helped or [remedy for remedy in report.remedies() if remedy.helps]
    if not helped:
        return found, ""
    best = helped[0]
    low, high = best.confidence
    return found, f"{best.name}: {100 * best.effect:.0f} % less loss ({100 * low:.0f} to {100 * high:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try each N-th net")
    parser.add_argument("--only", default="", metavar="TEXT", help="nets whose name contains TEXT")
    options = parser.parse_args()
    chosen = [model for model in problems() if options.only in model.name][:: options.every]
    counts: collections.Counter[tuple[str, bool]] = collections.Counter()
    start = time.monotonic()
    for model in chosen:
        found, remedy = cured_by(model)
        counts[found, bool(remedy)] += 1
        print(f"{'cured  ' if remedy else 'UNCURED'}  {model.name} ({found}): {remedy}", flush=True)
    print(f"\n{'found':40}{'nets':>6}{'cured':>7}")
    for found in sorted({found for found, _ in counts}):
        cured = counts[found, True]
        print(f"{found:40}{cured + counts[found, False]:6}{cured:7}")
    total = sum(number for (_, cured), number in counts.items() if cured)
    print(f"{total} of {len(chosen)} cured: {100 * total / max(len(chosen), 1):.1f} % "
          f"in {time.monotonic() - start:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
