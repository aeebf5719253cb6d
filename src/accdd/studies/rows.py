"""What a study found, a row per combination and network, as text, CSV, Markdown, LaTeX and JSON."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdd import files
from accdd.evaluation import PERCENT, STYLES, Interval, Score, interval
from accdd.keys import Key
from accdd.studies.cells import Outcome, text

PHASES = {"pool": "models", "targets": "targets", "distilling": "distilling", "choosing": "choosing"}
"""Those that have a column, and what it is called."""
SUFFIXES = {"csv": "csv", "markdown": "md", "latex": "tex"}


class Row(NamedTuple):
    """A combination on a network. With several sets, each counts by its mean, since their networks are no replicates
    of the distillation; with one, its networks are all there is."""

    what: Mapping[str, Any]
    """What distinguishes it: column to value."""
    network: str
    protocol: str
    sets: int
    """Distilled sets, each of its own seed; 0 for real images."""
    networks: int
    """Trained on each."""
    values: tuple[float, ...]
    """Accuracies in percent, last epoch: a set's mean each, or one set's networks."""
    seconds: Mapping[str, float]
    """Wall-clock time of each phase (pool, targets, distilling), mean over sets, whether it was spent here or when what
    the cache holds was made; empty for real images."""
    differences: tuple[float, ...] = ()
    """Of each value from its partner in the first row of the network; none in that row and without partners."""
    tested: str | None = None
    """The test images, as `Score.tested`."""
    shared: bool = False
    """Whether several sets share early-stage models or targets, so that deviation and interval are over starts and
    the networks that score."""
    diverged: int = 0
    """Networks, of all sets, that ended with a weight that is no number, and guess."""

    @property
    def replicates(self) -> str:
        """What the values are of, in words."""
        if self.sets > 1:
            return f"n = {self.sets} sets{' of one pool' if self.shared else ''}, each by {self.networks} networks"
        return f"n = {self.networks} networks on {'one set' if self.sets else 'real images'}"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Over sets, or over the networks of the only set; None for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, bootstrap; None for one value."""
        if len(self.values) < 2:
            return None
        found = interval(self.values, Key(0), within=PERCENT)
        return found.low, found.high

    @property
    def difference(self) -> Interval | None:
        """Mean of the differences and its 95 % interval, bootstrap; None without two of them."""
        return interval(self.differences, Key(0)) if len(self.differences) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        deviation = None if self.deviation is None else round(self.deviation, 2)
        found = {"mean": round(self.mean, 2), "deviation": deviation, "interval": _rounded(self.interval)}
        between = self.difference and (self.difference.low, self.difference.high)
        listed = {"values": list(self.values), "differences": _rounded(self.differences)}
        taken = {"what": dict(self.what), "seconds": dict(self.seconds)}
        return self._asdict() | taken | listed | found | {"difference_interval": _rounded(between)}


def summary(what: Mapping[str, Any], outcomes: Sequence[Outcome], independent: bool = False) -> list[Row]:
    """The rows of a combination from those of its seeds that are done, one per network."""
    rows = []
    own = [[score for score in outcome.scores if score.beside is None] for outcome in outcomes]
    phases = dict.fromkeys(phase for outcome in outcomes for phase in outcome.seconds)
    seconds = {phase: round(statistics.fmean(each.seconds.get(phase, 0) for each in outcomes), 1) for phase in phases}
    for number, first in enumerate(own[0]):
        scores = [each[number] for each in own]
        values = tuple(score.mean for score in scores) if len(scores) > 1 else first.accuracies
        row = Row(
            what, first.network, first.protocol, len(scores), first.n, values, seconds, tested=first.tested,
            shared=len(scores) > 1 and not independent and any(outcome.prepared for outcome in outcomes),
            diverged=sum(score.diverged or 0 for score in scores),
        )  # fmt: skip
        rows.append(row)
    return rows


def with_differences(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with its differences from the first of its network, value by value: of sets of the same seeds,
    scored by networks of the same seeds, so that what they have in common cancels."""
    firsts: dict[str, Row] = {}
    found = []
    for row in rows:
        first = firsts.setdefault(row.network, row)
        mine, theirs = (
            (each.protocol, each.tested, max(each.sets, 1), each.networks, len(each.values)) for each in (row, first)
        )
        if mine == theirs and row is not first:
            row = row._replace(differences=tuple(a - b for a, b in zip(row.values, first.values, strict=True)))
        found.append(row)
    return found


def beside(column: str, scores: Sequence[Score]) -> list[Row]:
    """The rows of baselines, which are real images."""
    return [
        Row({column: score.set}, score.network, score.protocol, 0, score.n, score.accuracies, {})._replace(
            tested=score.tested, diverged=score.diverged or 0
        )
        for score in scores
        if score.beside is not None
    ]


def protocols(rows: Iterable[Row | Score]) -> list[str]:
    """Each once."""
    return list(dict.fromkeys(row.protocol for row in rows))


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """The header and a line per row, without the columns that no row fills."""
    columns: dict[str, Callable[[Row], str]] = {
        **{key: lambda row, key=key: text(row.what[key]) for key in rows[0].what},
        "network": lambda row: row.network,
        "protocol": lambda row: row.protocol,
        "sets": lambda row: str(row.sets),
        "models and targets": lambda row: "shared" if row.shared else "own" if row.sets > 1 else "",
        "networks each": lambda row: str(row.networks),
        "diverged": lambda row: str(row.diverged or ""),
        "accuracy, last epoch": lambda row: f"{row.mean:.2f}",
        "deviation": lambda row: "" if row.deviation is None else f"{row.deviation:.2f}",
        "95 % interval": lambda row: "" if row.interval is None else "{:.2f} to {:.2f}".format(*row.interval),
        "from the first": lambda row: _points(statistics.fmean(row.differences)) if row.differences else "",
        "its deviation": lambda row: f"{statistics.stdev(row.differences):.2f}" if row.difference else "",
        "its 95 % interval": lambda row: " to ".join(map(_points, row.difference[1:3])) if row.difference else "",
        **{f"{called}, s": lambda row, phase=phase: _seconds(row, phase) for phase, called in PHASES.items()},
    }
    cells = {name: [read(row) for row in rows] for name, read in columns.items()}
    kept = {name: column for name, column in cells.items() if any(column) or name == "deviation"}
    return [list(kept), *(list(line) for line in zip(*kept.values(), strict=True))]


def aligned(rows: Sequence[Row]) -> str:
    """For a terminal: columns one below the other."""
    table = lines(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    written = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in table]
    return "\n".join(line.rstrip() for line in written)


def write(folder: Path, rows: Sequence[Row]) -> None:
    """table.csv, table.md, table.tex and table.json."""
    for style, suffix in SUFFIXES.items():
        files.write_text(folder / f"table.{suffix}", STYLES[style](lines(rows)))
    files.write_text(folder / "table.json", json.dumps([row.to_dict() for row in rows], indent=1))


def _seconds(row: Row, phase: str) -> str:
    """None of a phase that a row has not."""
    return f"{row.seconds[phase]:g}" if row.seconds.get(phase) else ""


def _points(value: float) -> str:
    """A difference."""
    return f"{round(value, 2) + 0.0:+.2f}"  # no minus before 0


def _rounded(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [round(value, 2) + 0.0 for value in values]
