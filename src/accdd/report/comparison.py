"""Several runs on one page: accuracies side by side, of one protocol only."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from accdd import files
from accdd.config import InputError
from accdd.evaluation import rule_of
from accdd.report import charts, page, pictures, reading
from accdd.report.page import Scored, scored
from accdd.report.pictures import Sheet
from accdd.report.reading import Row, Seen

STRIP_ROOM = 300_000
"""Bytes that the strips of images of all runs may take."""


class Entry(NamedTuple):
    """A set scored with one network."""

    seen: Seen
    score: Scored | None
    """None for a run that has not been scored."""
    network: str
    """What scored it, with the shape that it has from the run."""
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
    called = apart(paths)
    listed = [dataclasses.replace(reading.read(path), name=name) for path, name in zip(paths, called, strict=True)]
    files.write_text(target, render([str(path) for path in paths], listed))
    return target


def apart(paths: Sequence[str | Path]) -> list[str]:
    """What to call each path: its last name, and as many before it as tell it from all others."""
    parts = [Path(path).resolve().parts for path in paths]

    def shortest(own: tuple[str, ...]) -> tuple[str, ...]:
        ends = (own[-length:] for length in range(1, len(own)))
        return next((end for end in ends if sum(each[-len(end) :] == end for each in parts) == 1), own[-1:])

    return ["/".join(shortest(own)) for own in parts]


def protocols(names: Sequence[str], listed: Sequence[Seen]) -> dict[str, str]:
    """The protocol by which the runs on each data set are compared: that of all of them which was scored last.

    On one data set it is the same to the letter. Across data sets a protocol may be suited to each (digits are not
    flipped), so there only its name counts.

    Raises:
        InputError: no protocol is common to all: accuracies by different ones do not say which set is better.
    """
    scored_ = [(name, seen) for name, seen in zip(names, listed, strict=True) if seen.scores]
    for base in dict.fromkeys(rule_of(row.protocol) for _, seen in scored_[:1] for row in reversed(seen.scores)):
        common: dict[str, list[str]] = {}
        for _, seen in scored_:
            own = [row.protocol for row in seen.scores if rule_of(row.protocol) == base]
            common[seen.key] = [each for each in common.get(seen.key, own) if each in own]
        if all(common.values()):
            return {key: found[-1] for key, found in common.items()}
    if not scored_:
        return {}
    mine, *others = ((name, list(dict.fromkeys(row.protocol for row in seen.scores))) for name, seen in scored_)
    other = next((each for each in others if not set(each[1]) & set(mine[1])), others[-1])
    raise InputError(
        f"'{mine[0]}' was scored by the protocol '{', '.join(mine[1])}' and '{other[0]}' by '{', '.join(other[1])}', "
        "so their accuracies do not compare. Expected one protocol: leave one out, or score them alike with "
        "accdd evaluate --keep."
    )


def render(names: Sequence[str], listed: Sequence[Seen]) -> str:
    """The page."""
    groups: dict[str, list[Entry]] = {}
    chosen = protocols(names, listed)
    for seen, sheet in zip(listed, _strips(listed), strict=True):
        groups.setdefault(seen.key, []).extend(_entries(seen, sheet, chosen.get(seen.key, "")))
    tables = []
    for entries in groups.values():
        data = entries[0].seen.data
        ranked = sorted(entries, key=lambda entry: -entry.score.row.mean if entry.score else 1)
        points = [(f"{entry.seen.name}, {entry.network}", entry.score.point) for entry in ranked if entry.score]
        beside = list(dict.fromkeys(name for entry in ranked for name in entry.others))
        chart = charts.intervals(points, "Accuracies; the numbers are in the table below.") if points else None
        tables.append((data, ranked, beside, chart))
    problems = [f"{name}: {problem}" for name, seen in zip(names, listed, strict=True) for problem in seen.problems]
    return page.template("comparison.html").render(
        generator=page.GENERATOR, count=len(listed), tables=tables, problems=problems
    )


def _entries(seen: Seen, sheet: Sheet | None, protocol: str) -> list[Entry]:
    own = [row for row in seen.scores if row.protocol == protocol]
    found = []
    for row in own:
        beside = (each for each in seen.others if each.network == row.network and _goes_with(each, protocol))
        found.append(Entry(seen, scored(row), _shaped(seen, row), {each.set: scored(each) for each in beside}, sheet))
    return found or [Entry(seen, None, "", {}, sheet)]


def _goes_with(row: Row, protocol: str) -> bool:
    """The whole set has its own protocol, by whatever name."""
    return row.set == "whole" or row.protocol == protocol


def _shaped(seen: Seen, row: Row) -> str:
    """A score's network as it is typed; one that is the run's own has the run's shape where its name leaves it open."""
    base, *options = row.network.split("/")
    if base != seen.settings.get("network.name"):
        return row.network
    given = {option.partition("=")[0] for option in options}
    own = {key: seen.settings.get(f"network.{key}") for key in ("width", "depth") if key not in given}
    return "/".join([row.network, *(f"{key}={value}" for key, value in own.items() if value is not None)])


def _strips(listed: Sequence[Seen]) -> list[Sheet | None]:
    """An image of each of the first ten classes of every run."""
    there = [seen.distilled for seen in listed if seen.distilled]

    def images_of(place: int, count: int) -> Tensor:
        labels = there[place].labels.tolist()
        firsts = [labels.index(label) for label in sorted(set(labels))]
        return there[place].images[firsts[:count]]

    drawn = iter(pictures.view(len(there), images_of, pictures.COLUMNS, STRIP_ROOM).sheets)
    return [next(drawn, None) if seen.distilled else None for seen in listed]
