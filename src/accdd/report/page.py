"""report.html: a run on one page that opens anywhere and asks nothing of the network; a pure function of its folder."""

import base64
import functools
import hashlib
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch
from markupsafe import Markup
from torch import Tensor

from accdd import evaluation, files
from accdd.artifact import Distilled
from accdd.config import InputError
from accdd.formation import WHOLE
from accdd.keys import Key
from accdd.report import charts, pictures, reading
from accdd.report.charts import Point
from accdd.report.pictures import Sheet, View
from accdd.report.reading import Row, Seen
from accdd.run import Snapshot

FILE = "report.html"
GENERATOR = "accdd report"
"""By this name in its head a page is known as one that may be written over."""
ROOM: Mapping[str, int] = {"stored": 800_000, "nearest": 420_000, "decoded": 250_000, "snapshots": 330_000}
"""Bytes that the pictures of each view may take: with the text, a page stays below 2 MB."""
MAX_STEPS = 12
"""Snapshots that can be slid through, at most; of more, some in between are left out."""
PAIRS = 10
"""Nearest pairs shown of a class, at most: those that are nearest."""


class Card(NamedTuple):
    """A class in the gallery."""

    name: str
    stored: Sheet
    decoded: Sheet | None
    steps: tuple[Sheet, ...]


class Pairs(NamedTuple):
    """A class in the copy check."""

    name: str
    sheet: Sheet
    distances: tuple[tuple[float, bool], ...]
    """From left to right, and whether it is as near as a copy."""


class Scored(NamedTuple):
    """A score as it is shown."""

    row: Row
    deviation: float | None
    low: float | None
    high: float | None
    """Of the 95 % bootstrap interval; None for one network."""

    @property
    def point(self) -> Point:
        return Point(0, self.row.mean, self.low, self.high)


def write(path: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run, and say where: to `out`, or into the run's folder.

    Raises:
        InputError: it is no run, or something that is no report is at `out`.
    """
    seen = reading.read(path)
    target = Path(path) / FILE if out is None else Path(out)
    refuse_taken(target)
    files.write_text(target, render(seen))
    return target


def refuse_taken(target: Path) -> None:
    """Only a report is ever written over."""
    if target.is_dir():
        raise InputError(f"'{target}' is a folder. Expected a file to write, as in {target / FILE}.")
    if not target.parent.is_dir():
        raise InputError(f"'{target.parent}' is no folder, so nothing can be written there. Expected one that exists.")
    if target.exists():
        with target.open("rb") as file:
            known = f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(2000)
        if not known:
            raise InputError(f"'{target}' exists, is no report, and is not written over. Expected another --out FILE.")


def render(seen: Seen) -> str:
    """The page."""
    distilled, near = seen.distilled, seen.nearest
    cards, notes, labels = gallery(seen)
    classes_of, per_class = _per_class(seen)
    scores = [scored(row) for row in (*seen.scores, *seen.others)]
    return template("page.html").render(
        generator=GENERATOR,
        seen=seen,
        sentence=seen.verdict or _without_verdict(seen),
        distilled=distilled,
        cards=cards,
        notes=notes,
        steps=labels,
        across=max((min(len(images), pictures.COLUMNS) for images in _by_class(distilled)), default=1),
        crisp=distilled is not None and distilled.images.shape[-1] <= 64,
        scores=scores,
        stores=any(each.row.bytes is not None for each in scores),
        score_charts=_score_charts(scores),
        per_class=per_class,
        classes_of=classes_of,
        accuracy_chart=_accuracy_chart(seen),
        loss_chart=_loss_chart(seen),
        pairs=_pairs(seen) if distilled and near else (),
        near=near,
        costs=[(_PHASES.get(name, name), value) for name, value in seen.seconds.items()],
        total=sum(seen.seconds.values()),
        reproduce=reproduce(seen),
        settings=[(key, json.dumps(value, ensure_ascii=False), key in seen.given)
                  for key, value in seen.settings.items()],
        environment=[(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
                     for key, value in seen.environment.items()],
    )  # fmt: skip


_PHASES = {
    "pool": "early-stage models, whether made now or found in the cache",
    "targets": "targets, likewise",
    "distilling": "distilling",
    "scoring": "scoring",
}


def scored(row: Row) -> Scored:
    """With its deviation and interval."""
    if len(row.accuracies) < 2:
        return Scored(row, None, None, None)
    within = evaluation.interval(row.accuracies, Key(0))
    return Scored(row, statistics.stdev(row.accuracies), within.low, within.high)


def spread(accuracies: Sequence[float]) -> str:
    """As in ' ± 0.4', or nothing for one network."""
    return f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""


def gallery(seen: Seen) -> tuple[list[Card], list[str], list[str]]:
    """The cards, what had to be left out, and what each step of the slider is called, the result last."""
    distilled, notes = seen.distilled, []
    if distilled is None:
        return [], ["There are no images to show."], []
    names, own = distilled.class_names, _by_class(distilled)
    most = max(len(images) for images in own)
    stored = pictures.view(len(names), lambda label, count: own[label][:count], most, ROOM["stored"])
    notes += _left_out("The gallery", stored, most, len(names))
    decoded = View((), None, 0)
    each = distilled.count // len(distilled.labels)
    if each > 1:
        across = each * max(1, 8 // each) if each <= pictures.COLUMNS else pictures.COLUMNS
        decoded = pictures.view(
            len(names), lambda label, count: _decoded(distilled, own[label][:count]), most, ROOM["decoded"], across
        )
        notes += _left_out("The decoded view", decoded, most, len(names))
    room = sum(ROOM.values()) - stored.bytes - decoded.bytes - (ROOM["nearest"] if seen.nearest else 0)
    kept, steps = _on_the_way(seen.snapshots[:-1], distilled, most, room)  # the last is the result
    if len(seen.snapshots) > 1:
        notes += _left_out("What is on the way", steps, most, len(steps.sheets))
    shown = len(kept) if steps.sheets else 0
    cards = [
        Card(
            names[label], sheet, decoded.sheets[label] if label < len(decoded.sheets) else None,
            steps.sheets[label * shown : (label + 1) * shown],
        )
        for label, sheet in enumerate(stored.sheets)
    ]  # fmt: skip
    labels = [f"sweep {snapshot.sweep}, {snapshot.seconds:.1f} s" for snapshot, _ in kept] if shown else []
    for last, _ in seen.snapshots[-1:] if labels else ():
        labels.append(f"sweep {last.sweep}, {last.seconds:.1f} s" + (": the result" if seen.finished else ""))
    return cards, notes, labels


def reproduce(seen: Seen) -> str | None:
    """The command that makes the set again; None where the folder does not say."""
    if not seen.given:
        return None
    told = {**seen.given, **({"seed": seen.settings["seed"]} if "seed" in seen.settings else {})}
    words = ["accdd", "distill", seen.source or "DATA", "--out", "again"]
    for key, value in told.items():
        words += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template with everything escaped, and the style and script that its content policy allows by their hashes."""
    folder = resources.files("accdd.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda each: (folder / each).read_text(encoding="utf-8")),
        autoescape=True, finalize=_printable, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for kind in ("css", "js"):
        text = (folder / f"page.{kind}").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        environment.globals |= {kind: Markup(text), f"{kind}_hash": Markup(f"sha256-{digest}")}
    environment.filters["duration"] = duration
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """As in '2 h 05 min', '3 min 20 s' or '4.2 s'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _printable(value: Any) -> Any:
    """Names may hold characters that print nothing and turn the text around: they are replaced."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value)


def _without_verdict(seen: Seen) -> str:
    if seen.finished:
        return f"A set of {len(seen.distilled.labels) if seen.distilled else 0} learned images of {seen.data}."
    last = seen.lines[-1] if seen.lines else None
    done = f"{last.sweep} sweeps done in {duration(last.seconds)}" if last else "no sweep is done yet"
    return f"Unfinished: {done}. Nothing has been scored."


def _by_class(distilled: Distilled | None) -> Sequence[Tensor]:
    if distilled is None:
        return ()
    return pictures.by_class(distilled.images, distilled.labels, distilled.num_classes)


def _decoded(distilled: Distilled, stored: Tensor) -> Tensor:
    """All training images of the first stored one, then those of the next, (n each, c, h, w)."""
    if not len(stored):
        return stored
    made = WHOLE[distilled.formation](stored, distilled.factor, 0).clamp(0, 1)
    return made.unflatten(0, (-1, len(stored))).transpose(0, 1).flatten(0, 1)


def _on_the_way(
    snapshots: Sequence[tuple[Snapshot, Tensor]], distilled: Distilled, most: int, room: int
) -> tuple[list[tuple[Snapshot, Tensor]], View]:
    """As many snapshots as there is room for, and their sheets: all of the first class, then all of the next."""
    names = distilled.num_classes
    for few in (MAX_STEPS, 4, 1) if snapshots else ():
        kept = _evenly(snapshots, few)
        by_class = [pictures.by_class(images, distilled.labels, names) for _, images in kept]
        ways = [images for label in range(names) for images in (each[label] for each in by_class)]
        view = pictures.view(len(ways), partial(_first, ways), most, room)
        if len(view.sheets) == len(ways):
            return kept, view
    return [], View((), None, 0)


def _first(images: Sequence[Tensor], place: int, count: int) -> Tensor:
    return images[place][:count]


def _evenly(values: Sequence[Any], most: int) -> list[Any]:
    """At most that many, the first among them, and with more than one the last."""
    count = len(values)
    if count <= most:
        return list(values)
    return [values[round(place * (count - 1) / max(most - 1, 1))] for place in range(most)]


def _left_out(what: str, view: View, most: int, classes: int) -> list[str]:
    """What a page of 2 MB has no room for."""
    if not view.sheets:
        return [f"{what} is left out: there is no room for it."]
    found = []
    if len(view.sheets) < classes:
        found.append(f"{what}: the first {len(view.sheets)} of {classes} classes.")
    if view.shown < most:
        found.append(f"{what}: the first {view.shown} of {most} images of each class.")
    if view.quality is not None:
        found.append(f"{what}: compressed with loss (WebP, quality {view.quality}).")
    return found


def _pairs(seen: Seen) -> list[Pairs]:
    distilled, near = seen.distilled, seen.nearest
    assert distilled and near
    names, ranked = distilled.class_names, []
    for label in range(len(names)):
        own = (distilled.labels == label).nonzero()[:, 0]
        ranked.append(own[near.distances[own].argsort(stable=True)][:PAIRS])

    def images_of(label: int, count: int) -> Tensor:
        some = ranked[label][:count]
        decoded = _decoded(distilled, distilled.images[some]).unflatten(0, (len(some), -1)) if len(some) else None
        learned = distilled.images[some] if decoded is None else decoded[torch.arange(len(some)), near.decoded[some]]
        return torch.cat([learned, near.images[some] / 255])

    sheets: list[Pairs] = []
    most = max(len(each) for each in ranked)
    made = pictures.view(len(names), images_of, most, ROOM["nearest"], columns=None)
    for label, sheet in enumerate(made.sheets):
        found = near.distances[ranked[label][: made.shown]].tolist()
        sheets.append(Pairs(names[label], sheet, tuple((each, each < near.limit) for each in found)))
    return sheets


def _per_class(seen: Seen) -> tuple[Row | None, list[tuple[str, float]]]:
    """The first score that has accuracies by class, and these with the classes' names, the worst first."""
    own = next((row for row in seen.scores if row.per_class), None)
    names = seen.distilled.class_names if seen.distilled else ()
    if own is None or own.per_class is None or len(names) != len(own.per_class):
        return None, []
    return own, sorted(zip(names, own.per_class, strict=True), key=lambda pair: pair[1])


def _score_charts(scores: Sequence[Scored]) -> list[tuple[str, Markup]]:
    """One for each protocol, as different ones do not compare; the whole set, which has its own, is on all."""
    named = dict.fromkeys(each.row.protocol for each in scores if each.row.set != "whole")
    found = []
    for protocol in named:
        rows = [each for each in scores if each.row.protocol == protocol or each.row.set == "whole"]
        points = [(f"{each.row.set}, {each.row.network}", each.point) for each in rows]
        title = f"Accuracies by protocol {protocol}; the numbers are in the table below."
        found.append((protocol, charts.intervals(points, title)))
    return found


def _accuracy_chart(seen: Seen) -> Markup | None:
    first = seen.course[0] if seen.course else None
    rows = [row for row in seen.course if first and (row.network, row.protocol) == (first.network, first.protocol)]
    rows = list({row.sweep: row for row in rows}.values())
    if first is None or len(rows) < 2:
        return None
    points = [scored(row).point._replace(x=float(row.seconds or 0)) for row in rows]
    title = f"Accuracy from {points[0].y:.1f} to {points[-1].y:.1f} percent over {points[-1].x:.0f} seconds."
    return charts.lines(points, "seconds of distilling", "accuracy, %", title, dots=True)


def _loss_chart(seen: Seen) -> Markup | None:
    points = [Point(float(line.sweep), line.loss) for line in seen.lines]
    if len(points) < 2:
        return None
    title = f"Loss from {points[0].y:.4g} at sweep {points[0].x:.0f} to {points[-1].y:.4g} at sweep {points[-1].x:.0f}."
    low, high = min(point.y for point in points), max(point.y for point in points)
    return charts.lines(points, "sweep", "loss", title, log=low > 0 and math.log10(high / low) > 1)
