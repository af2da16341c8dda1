"""How many of the zoo's problem nets the remedies cure, and which remedies do.

    python bench/cures.py                    # every problem net, about five minutes on two CPUs
    python bench/cures.py --every 8          # a sample
    python bench/cures.py --only "batch norm"
    python bench/cures.py --file cures.jsonl --share 0/2 &      # two processes, which may be stopped
    python bench/cures.py --file cures.jsonl --share 1/2        # and started again

A net is cured if a remedy makes the re-analysed net healthy and if a training with the same budget on the same data
ends at a clearly lower loss on held-out rows: lower by at least 5 %, with the 95 % interval over seeds above zero, and
without divergence when the training is continued to five times its length. To silence the alarm is not enough.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from zoo_data import Model
from zoo_problems import problems

Record = dict[str, Any]


def cure(model: Model) -> Record:
    """The finding, and the best remedy that helped ("" if none did) with its numbers.

    To save time, the three most likely remedies are tried first, and all of them only if none of these helps.
    """
    start = time.monotonic()
    report = model.report()
    found = f"{report.verdict}, {report.findings[0].cause}" if report.findings else report.verdict
    helped = [remedy for remedy in report.remedies(limit=3, pairs=0) if remedy.helps]
    helped = helped or [remedy for remedy in report.remedies() if remedy.helps]
    record: Record = {"name": model.name, "found": found, "remedy": "", "seconds": time.monotonic() - start}
    if helped:
        best = helped[0]
        low, high = best.confidence
        record |= {"remedy": best.name, "effect": best.effect, "low": low, "high": high}
    return record


def line(record: Record) -> str:
    """A record as a line to read."""
    said = f"{'cured  ' if record['remedy'] else 'UNCURED'}  {record['name']} ({record['found']})"
    if not record["remedy"]:
        return said
    low, high = 100 * record["low"], 100 * record["high"]
    return f"{said}: {record['remedy']}: {100 * record['effect']:.0f} % less loss ({low:.0f} to {high:.0f})"


def done_before(path: Path | None) -> dict[str, Record]:
    """Records of a file by name; a line that was cut off is measured again."""
    records: dict[str, Record] = {}
    if path is not None and path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(text)
            except ValueError:
                continue
            records[record["name"]] = record
    return records


def append(path: Path | None, record: Record) -> None:
    """Append a line in one write, so that lines of several processes do not mix."""
    if path is not None:
        with path.open("ab", buffering=0) as file:
            file.write(b"\n" * _cut_off(path) + json.dumps(record).encode() + b"\n")


def _cut_off(path: Path) -> bool:
    """Whether the last line is incomplete, because a process was killed while writing."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - 1, 0))
        return size > 0 and file.read() != b"\n"


def table(records: list[Record]) -> str:
    """Counts by finding, and the total."""
    counts = collections.Counter((record["found"], bool(record["remedy"])) for record in records)
    lines = [f"{'found':40}{'nets':>6}{'cured':>7}"]
    for found in sorted({found for found, _ in counts}):
        cured = counts[found, True]
        lines.append(f"{found:40}{cured + counts[found, False]:6}{cured:7}")
    total = sum(bool(record["remedy"]) for record in records)
    seconds = sum(record["seconds"] for record in records)
    lines.append(f"{total} of {len(records)} cured: {100 * total / max(len(records), 1):.1f} % in {seconds:.0f} s")
    return "\n".join(lines)


def _share(text: str) -> tuple[int, int]:
    index, count = (int(part) for part in text.split("/"))
    if not 0 <= index < count:
        raise ValueError(text)
    return index, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try each N-th net")
    parser.add_argument("--only", default="", metavar="TEXT", help="nets whose name contains TEXT")
    parser.add_argument("--file", type=Path, help="JSON lines: nets in it are not tried again, others are added")
    parser.add_argument("--share", type=_share, default=(0, 1), metavar="I/N", help="try every N-th of these from I on")
    options = parser.parse_args()
    chosen = [model for model in problems() if options.only in model.name][:: options.every]
    index, count = options.share
    done = done_before(options.file)
    for model in chosen[index::count]:
        if model.name not in done:
            done[model.name] = record = cure(model)
            append(options.file, record)
            print(line(record), flush=True)
    done |= done_before(options.file)
    print(f"\n{table([done[model.name] for model in chosen if model.name in done])}")


if __name__ == "__main__":
    main()
