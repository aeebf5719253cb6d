"""What a study found, a row per combination and network, as text, CSV, Markdown, LaTeX and JSON."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdd import files
from accdd.evaluation import STYLES, Score, interval
from accdd.keys import Key
from accdd.studies.cells import Outcome, text

SUFFIXES = {"csv": "csv", "markdown": "md", "latex": "tex"}


class Row(NamedTuple):
    """A combination on a network. With several sets, each counts by its mean, since their networks are no replicates
    of the distillation; with one, its networks are all there is."""

    what: Mapping[str, Any]
    """What distinguishes it: column to value."""
    network: str
    protocol: str
    sets: int
    """Distilled sets, each of its own seed; 0 for real images. They share early-stage models and targets, which
    `pool.seed` decides."""
    networks: int
    """Trained on each."""
    values: tuple[float, ...]
    """Accuracies in percent, last epoch: a set's mean each, or one set's networks."""
    seconds: float | None
    """Of distilling, mean over sets, without pool and targets; None for real images."""
    differences: tuple[float, ...] = ()
    """Of each value from its partner in the first row of the network; none in that row and without partners."""

    @property
    def replicates(self) -> str:
        """What the values are of, in words."""
        if self.sets > 1:
            return f"n = {self.sets} sets, each by {self.networks} networks"
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
        found = interval(self.values, Key(0))
        return found.low, found.high

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        within = self.interval and [round(bound, 2) for bound in self.interval]
        deviation = None if self.deviation is None else round(self.deviation, 2)
        found = {"mean": round(self.mean, 2), "deviation": deviation, "interval": within}
        listed = {"values": list(self.values), "differences": [round(each, 2) + 0.0 for each in self.differences]}
        return self._asdict() | {"what": dict(self.what)} | listed | found


def summary(what: Mapping[str, Any], outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of a combination from those of its seeds that are done, one per network."""
    rows = []
    own = [[score for score in outcome.scores if score.beside is None] for outcome in outcomes]
    seconds = round(statistics.fmean(outcome.seconds["distilling"] for outcome in outcomes), 1)
    for number, first in enumerate(own[0]):
        scores = [each[number] for each in own]
        values = tuple(score.mean for score in scores) if len(scores) > 1 else first.accuracies
        rows.append(Row(what, first.network, first.protocol, len(scores), first.n, values, seconds))
    return rows


def with_differences(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with its differences from the first of its network, value by value: of sets of the same seeds,
    scored by networks of the same seeds, so that what they have in common cancels."""
    firsts: dict[str, Row] = {}
    found = []
    for row in rows:
        first = firsts.setdefault(row.network, row)
        mine, theirs = ((each.protocol, max(each.sets, 1), each.networks, len(each.values)) for each in (row, first))
        if mine == theirs and row is not first:
            row = row._replace(differences=tuple(a - b for a, b in zip(row.values, first.values, strict=True)))
        found.append(row)
    return found


def beside(column: str, scores: Sequence[Score]) -> list[Row]:
    """The rows of baselines, which are real images."""
    return [
        Row({column: score.set}, score.network, score.protocol, 0, score.n, score.accuracies, None)
        for score in scores
        if score.beside is not None
    ]


def protocols(rows: Iterable[Row | Score]) -> list[str]:
    """Each once."""
    return list(dict.fromkeys(row.protocol for row in rows))


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """The header and a line per row."""
    compared = any(row.differences for row in rows)
    header = [
        *rows[0].what, "network", "protocol", "sets", "networks each", "accuracy, last epoch", "deviation",
        "95 % interval", *(["from the first", "its deviation"] if compared else []), "seconds",
    ]  # fmt: skip
    return [header, *(_line(row, compared) for row in rows)]


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


def _line(row: Row, compared: bool) -> list[str]:
    within = "" if row.interval is None else "{:.2f} to {:.2f}".format(*row.interval)
    deviation = "" if row.deviation is None else f"{row.deviation:.2f}"
    seconds = "" if row.seconds is None else f"{row.seconds:g}"
    difference = f"{round(statistics.fmean(row.differences), 2) + 0.0:+.2f}" if row.differences else ""
    spread = f"{statistics.stdev(row.differences):.2f}" if len(row.differences) > 1 else ""
    differing = [difference, spread] if compared else []
    facts = [str(row.sets), str(row.networks), f"{row.mean:.2f}", deviation, within, *differing, seconds]
    return [*(text(value) for value in row.what.values()), row.network, row.protocol, *facts]
