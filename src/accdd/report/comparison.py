"""Several runs on one page: accuracies side by side, of one protocol only."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from accdd import files
from accdd.config import InputError
from accdd.report import charts, page, pictures, reading
from accdd.report.page import Scored, scored
from accdd.report.pictures import Sheet
from accdd.report.reading import Seen

STRIP_ROOM = 300_000
"""Bytes that the strips of images of all runs may take."""


class Entry(NamedTuple):
    """A set scored with one network."""

    seen: Seen
    score: Scored | None
    """None for a run that has not been scored."""
    others: dict[str, Scored]
    """Of real images beside it, by what they are called."""
    sheet: Sheet | None
    """The first images of the first classes."""


def compare(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page of several runs, the most accurate of each data set first.

    Raises:
        InputError: one is no run, they were scored by different protocols, or something that is no report is at `out`.
    """
    target = Path(out)
    page.refuse_taken(target)
    listed = [reading.read(path) for path in paths]
    refuse_mixed([str(path) for path in paths], listed)
    files.write_text(target, render([str(path) for path in paths], listed))
    return target


def refuse_mixed(names: Sequence[str], listed: Sequence[Seen]) -> None:
    """Accuracies by different protocols say nothing about which set is better.

    On one data set protocols must be the same to the letter. Across data sets a protocol may be suited to each (digits
    are not flipped), so there only its name counts.
    """
    by_data: dict[str, tuple[str, str]] = {}
    first: tuple[str, str] | None = None
    for name, seen in zip(names, listed, strict=True):
        for row in (*seen.scores, *(row for row in seen.others if row.set != "whole")):
            key = str(seen.origin.get("fingerprint") or seen.data)
            known = by_data.setdefault(key, (name, row.protocol))
            first = first or known
            if known[1] != row.protocol:
                raise _mixed(known, (name, row.protocol))
            if first[1].split(",")[0] != row.protocol.split(",")[0]:
                raise _mixed(first, (name, row.protocol))


def render(names: Sequence[str], listed: Sequence[Seen]) -> str:
    """The page."""
    groups: dict[str, list[Entry]] = {}
    for seen, sheet in zip(listed, _strips(listed), strict=True):
        groups.setdefault(seen.data, []).extend(_entries(seen, sheet))
    tables = []
    for data, entries in groups.items():
        ranked = sorted(entries, key=lambda entry: -entry.score.row.mean if entry.score else 1)
        points = [(entry.seen.name, entry.score.point) for entry in ranked if entry.score]
        beside = list(dict.fromkeys(name for entry in ranked for name in entry.others))
        chart = charts.intervals(points, "Accuracies; the numbers are in the table below.") if points else None
        tables.append((data, ranked, beside, chart))
    problems = [f"{name}: {problem}" for name, seen in zip(names, listed, strict=True) for problem in seen.problems]
    return page.template("comparison.html").render(
        generator=page.GENERATOR, count=len(listed), tables=tables, problems=problems
    )


def _mixed(mine: tuple[str, str], other: tuple[str, str]) -> InputError:
    return InputError(
        f"'{mine[0]}' was scored by the protocol '{mine[1]}' and '{other[0]}' by '{other[1]}', so their accuracies do "
        "not compare. Expected one protocol: leave one out, or score them alike with accdd evaluate."
    )


def _entries(seen: Seen, sheet: Sheet | None) -> list[Entry]:
    if not seen.scores:
        return [Entry(seen, None, {}, sheet)]
    return [
        Entry(seen, scored(row), {each.set: scored(each) for each in seen.others if each.network == row.network}, sheet)
        for row in seen.scores
    ]


def _strips(listed: Sequence[Seen]) -> list[Sheet | None]:
    """An image of each of the first ten classes of every run."""
    there = [seen.distilled for seen in listed if seen.distilled]

    def images_of(place: int, count: int) -> Tensor:
        labels = there[place].labels.tolist()
        firsts = [labels.index(label) for label in sorted(set(labels))]
        return there[place].images[firsts[:count]]

    drawn = iter(pictures.view(len(there), images_of, pictures.COLUMNS, STRIP_ROOM).sheets)
    return [next(drawn, None) if seen.distilled else None for seen in listed]
