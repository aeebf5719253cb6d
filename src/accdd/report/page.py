"""report.html: a run on one page that opens anywhere and asks nothing of the network; a pure function of its folder."""

import base64
import functools
import hashlib
import json
import math
import shlex
import statistics
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from accdd import evaluation, files
from accdd.config import InputError
from accdd.keys import Key
from accdd.report import charts, gallery, pictures, reading
from accdd.report.charts import Point
from accdd.report.reading import Row, Seen
from accdd.text import duration, printable

FILE = "report.html"
GENERATOR = "accdd report"
"""By this name in its head a page is known as one that may be written over."""


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
        known = target.is_file() and _made_here(target)
        if not known:
            raise InputError(f"'{target}' exists, is no report, and is not written over. Expected another --out FILE.")


def _made_here(target: Path) -> bool:
    with target.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(2000)


def render(seen: Seen) -> str:
    """The page."""
    distilled, near = seen.distilled, seen.nearest
    cards, notes, labels = gallery.gallery(seen)
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
        across=max((min(len(images), pictures.COLUMNS) for images in gallery.by_class(distilled)), default=1),
        crisp=distilled is not None and distilled.images.shape[-1] <= 64,
        scores=scores,
        stores=any(each.row.bytes is not None for each in scores),
        score_charts=_score_charts(scores),
        absent=_absent(seen),
        quoted=shlex.quote(seen.name),
        per_class=per_class,
        classes_of=classes_of,
        accuracy_chart=_accuracy_chart(seen),
        loss_chart=_loss_chart(seen),
        pairs=gallery.pairs(seen) if distilled and near else (),
        near=near,
        costs=[(_PHASES.get(name, name), value, seen.foretold.get(name)) for name, value in seen.seconds.items()],
        total=sum(seen.seconds.values()),
        reproduce=reproduce(seen),
        settings=[(key, json.dumps(value, ensure_ascii=False), key in (seen.given or {}))
                  for key, value in seen.settings.items()],
        environment=[(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
                     for key, value in seen.environment.items() if key != "foretold"],
    )  # fmt: skip


_PHASES = {
    "pool": "early-stage models, whether made now or found in the cache",
    "targets": "targets, likewise",
    "distilling": "distilling",
    "choosing": "choosing a snapshot",
    "scoring": "scoring, likewise",
}


def scored(row: Row) -> Scored:
    """With its deviation and interval."""
    if len(row.accuracies) < 2:
        return Scored(row, None, None, None)
    within = evaluation.interval(row.accuracies, Key(0), within=evaluation.PERCENT)
    return Scored(row, statistics.stdev(row.accuracies), within.low, within.high)


def spread(accuracies: Sequence[float]) -> str:
    """As in ' ± 0.4', or nothing for one network."""
    return f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""


def reproduce(seen: Seen) -> str | None:
    """The command that makes the set again; None where the folder does not say."""
    if seen.given is None:
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


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _without_verdict(seen: Seen) -> str:
    if seen.finished:
        return f"A set of {len(seen.distilled.labels) if seen.distilled else 0} learned images of {seen.data}."
    last = seen.lines[-1] if seen.lines else None
    done = f"{last.sweep} sweeps done in {duration(last.seconds)}" if last else "no sweep is done yet"
    return f"Unfinished: {done}. Nothing has been scored."


def _per_class(seen: Seen) -> tuple[Row | None, list[tuple[str, float]]]:
    """The first score that has accuracies by class, and these with the classes' names, the worst first."""
    own = next((row for row in seen.scores if row.per_class), None)
    names = seen.distilled.class_names if seen.distilled else ()
    if own is None or own.per_class is None or len(names) != len(own.per_class):
        return None, []
    tested = [(name, value) for name, value in zip(names, own.per_class, strict=True) if value is not None]
    return own, sorted(tested, key=lambda pair: pair[1])


def _absent(seen: Seen) -> list[tuple[str, str]]:
    """What could stand on the page of a run and was not asked for, with the flag that asks for it."""
    if not seen.finished or seen.given is None or not seen.source:  # arrays are not found again
        return []
    if seen.settings.get("shard"):  # what is scored is the whole
        return []
    there = {row.set for row in seen.others}
    asked = {
        ("herding", "--baselines random,herding"): "herding" in there,
        ("the whole set", "--whole"): "whole" in there,
        ("other networks", "--networks NAMES"): len({row.network for row in seen.scores}) > 1,
    }
    return [each for each, is_there in asked.items() if not is_there]


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
    points = sorted(scored(row).point._replace(x=float(row.seconds or 0)) for row in rows)
    title = f"Accuracy from {points[0].y:.1f} to {points[-1].y:.1f} percent over {points[-1].x:.0f} seconds."
    return charts.lines(points, "seconds of distilling", "accuracy, %", title, dots=True)


def _loss_chart(seen: Seen) -> Markup | None:
    points = [Point(float(line.sweep), float(line.loss)) for line in seen.lines]
    if len(points) < 2:
        return None
    title = f"Loss from {points[0].y:.4g} at sweep {points[0].x:.0f} to {points[-1].y:.4g} at sweep {points[-1].x:.0f}."
    low, high = min(point.y for point in points), max(point.y for point in points)
    return charts.lines(points, "sweep", "loss", title, log=low > 0 and math.log10(high / low) > 1)
