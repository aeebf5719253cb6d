"""The pictures of a page: the gallery of all classes, its slider, and the copy check, in the room that there is."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accdd.artifact import Distilled
from accdd.formation import WHOLE
from accdd.report import pictures
from accdd.report.pictures import Sheet, View
from accdd.report.reading import Seen
from accdd.run import Snapshot

ROOM: Mapping[str, int] = {"stored": 700_000, "nearest": 370_000, "decoded": 220_000, "snapshots": 280_000}
"""Bytes that the pictures of each view may take: with 430,000 of text, the page of 100 classes stays below 2 MB."""
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


def gallery(seen: Seen) -> tuple[list[Card], list[str], list[str]]:
    """The cards, what had to be left out, and what each step of the slider is called, the result last."""
    distilled, notes = seen.distilled, []
    if distilled is None:
        return [], ["There are no images to show."], []
    names, own = distilled.class_names, by_class(distilled)
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
    result = _result(seen)
    way = [each for each in seen.snapshots if each[0].sweep != result]
    kept, steps = _on_the_way(way, distilled, most, room)
    if way:
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
    if labels:
        last = [f"sweep {each.sweep}, {each.seconds:.1f} s" for each, _ in seen.snapshots if each.sweep == result]
        labels.append(": ".join(last + ["the result"] * seen.finished))
    if way and result is not None and result != seen.snapshots[-1][0].sweep:
        notes.append(f"The result is the snapshot after sweep {result}, chosen by training images that were held out.")
    return cards, notes, labels


def _result(seen: Seen) -> int | None:
    """The sweep that the images are of: the one that was chosen, or else the last."""
    chosen = seen.distilled.info.get("chosen") if seen.distilled else None
    sweep = chosen.get("sweep") if isinstance(chosen, Mapping) else None
    last = seen.snapshots[-1][0].sweep if seen.snapshots else None
    return sweep if isinstance(sweep, int) else last


def pairs(seen: Seen) -> list[Pairs]:
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
        sheets.append(Pairs(names[label], sheet, tuple((each, each <= near.limit) for each in found)))
    return sheets


def by_class(distilled: Distilled | None) -> Sequence[Tensor]:
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
