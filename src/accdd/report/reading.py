"""A run folder as far as it can be read: unfinished and damaged ones too, with a sentence for all that is missing."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
import yaml
from torch import Tensor

from accdd import artifact, config, run
from accdd.artifact import Distilled
from accdd.config import InputError
from accdd.evaluation import BASELINES
from accdd.formation import decoded_by
from accdd.report import nearest
from accdd.report.nearest import Nearest
from accdd.run import Snapshot

OTHERS = (*BASELINES, "whole")
"""What scores of real images are called."""

_MAX_TEXT = 20_000_000  # bytes of a file of text that is still read
_MAX_VALUES = 2_000_000  # values and characters of them; aliases of YAML blow 400 bytes up to more than memory holds
_MAX_DEPTH = 20
_SNAPSHOT = re.compile(r".*@(\d{1,12})@(\d{1,12}(?:\.\d{1,12})?)s")  # what `accdd evaluate --snapshots` calls one


@dataclasses.dataclass(frozen=True)
class Row:
    """A score as it is kept."""

    set: str
    network: str
    protocol: str
    epochs: int
    accuracies: tuple[float, ...]
    """Percent."""
    bytes: int | None = None
    beside: str | None = None
    """The set that a baseline stands beside; None for a set."""
    sweep: int | None = None
    """Of a scored snapshot."""
    seconds: float | None = None
    """Of distilling behind a scored snapshot."""
    per_class: tuple[float | None, ...] | None = None
    """Percent of each class's test images, mean over networks; None of a class without any."""

    @property
    def mean(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of metrics.jsonl."""

    sweep: int
    seconds: float
    loss: float
    overfit: float | None = None
    """The loss on targets that were never used over that on the bank, where it was looked at."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a run folder, or the folder of a set, holds."""

    name: str
    """Of the folder."""
    source: str | None
    """The data, as given; None for arrays, or where it is not recorded."""
    given: Mapping[str, Any] | None
    """Dotted settings as asked for, if only the defaults; None where the folder does not say."""
    settings: Mapping[str, Any]
    """Dotted settings as they became."""
    environment: Mapping[str, Any]
    lines: tuple[Line, ...]
    distilled: Distilled | None
    """The set; of an unfinished run its newest snapshot, whose classes have no names."""
    finished: bool
    """Whether `distilled` is what the run was to make."""
    snapshots: tuple[tuple[Snapshot, Tensor], ...]
    """With their stored images, float32 (n, c, h, w), in the order of the set's."""
    nearest: Nearest | None
    verdict: str | None
    rows: tuple[Row, ...]
    """Scores: the run's own, then those kept by `accdd evaluate --keep`; of networks that are in both, the larger."""
    seconds: Mapping[str, float]
    """Of each phase."""
    problems: tuple[str, ...]
    """What is missing or damaged, a sentence each."""

    @property
    def scores(self) -> tuple[Row, ...]:
        """Those of the set itself, a row per network and protocol; the run's own first."""
        return tuple(row for row in self.rows if row.set not in OTHERS and row.sweep is None)

    @property
    def others(self) -> tuple[Row, ...]:
        """Those of real images beside it."""
        return tuple(row for row in self.rows if row.set in OTHERS)

    @property
    def course(self) -> tuple[Row, ...]:
        """Those of snapshots, in their order."""
        return tuple(sorted((row for row in self.rows if row.sweep is not None), key=lambda row: row.sweep or 0))

    @property
    def foretold(self) -> Mapping[str, float]:
        """Seconds of the phases that were still to be done when the run began, where it probed how long they take."""
        return {name: s for name, s in _part(self.environment, "foretold").items() if is_number(s) and s > 0}

    @property
    def data(self) -> str:
        """What to call the data."""
        return str(self.origin.get("name") or self.source or "data that is not recorded")

    @property
    def key(self) -> str:
        """The same for runs on the same data."""
        return str(self.origin.get("fingerprint") or self.data)

    @property
    def origin(self) -> Mapping[str, Any]:
        """What the set says about its data: name, path, fingerprint."""
        said = self.distilled.info.get("source") if self.distilled else None
        return said if isinstance(said, Mapping) else {}


def read(path: str | Path) -> Seen:
    """Look at a folder. Never runs code from a file.

    Raises:
        InputError: it is neither that of a run nor of a distilled set.
    """
    folder, problems = Path(path), []
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"'{path}' {what}. Expected the folder of a run or of a distilled set.")
    bare = not (folder / "config.yaml").exists() and (folder / "distilled.json").exists()
    if not bare and not any((folder / name).exists() for name in ("config.yaml", "distilled")):
        raise InputError(
            f"'{path}' is no run: it holds neither config.yaml nor distilled/. Expected a folder that "
            "'accdd distill --out' made, or one of a distilled set."
        )
    told = {} if bare else mapping(folder / "config.yaml", yaml.safe_load, problems)
    given = config.flatten(_part(told, "given")) if "given" in told else None
    settings = config.flatten(_part(told, "resolved"))
    environment = {} if bare else mapping(folder / "env.json", json.loads, problems)
    lines = () if bare else read_lines(folder / "metrics.jsonl", problems)
    outcome = {} if bare else _outcome(folder, problems)
    distilled = _distilled(folder, problems)
    if distilled and not settings:
        settings = config.flatten(_part(distilled.info, "settings"))
    outcome = outcome or (distilled.info if distilled else {})
    snapshots = _snapshots(folder / "snapshots", problems)
    finished = distilled is not None
    distilled = distilled or _unfinished(settings, snapshots)
    snapshots = _in_order(snapshots, distilled, problems)
    rows = read_rows([*_list(outcome, "scores"), *_list(outcome, "kept")], problems)
    seconds = {name: float(s) for name, s in _part(outcome, "seconds").items() if is_number(s) and s >= 0}
    source, verdict = told.get("data"), outcome.get("verdict")
    if bare:
        problems.append("This is a distilled set without its run: no loss, no snapshots, no environment.")
    return Seen(
        folder.resolve().name, source if isinstance(source, str) else None, given, settings, environment, lines,
        distilled, finished, snapshots, _nearest(folder, distilled, bare or not finished, problems),
        verdict if isinstance(verdict, str) else None, rows, seconds, tuple(problems),
    )  # fmt: skip


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError
    if path.stat().st_size > _MAX_TEXT:
        raise ValueError(f"has more than {_MAX_TEXT:,} bytes")
    return path.read_text(encoding="utf-8")


def mapping(path: Path, parse: Any, problems: list[str]) -> Mapping[str, Any]:
    """A file of keys and values; what is wrong with it is added to `problems`."""
    try:
        found = parse(_text(path))
        if not isinstance(found, Mapping):
            raise ValueError("holds no keys and values")
        _check_plain(found)
        return found
    except FileNotFoundError:
        problems.append(f"{path.name} is missing.")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}.")
    return {}


def _check_plain(tree: Any) -> None:
    """Refuse what JSON cannot say, and what is too large or too deep to show, with a `ValueError`."""
    room, waiting = _MAX_VALUES, [(tree, 0)]
    while waiting:
        value, depth = waiting.pop()
        room -= 1 + (len(value) if isinstance(value, str) else 0)
        if room < 0 or depth > _MAX_DEPTH:
            raise ValueError("holds too many values, or too deep ones")
        if isinstance(value, Mapping):
            below = [*value, *value.values()]
            if not all(isinstance(key, str) for key in value):
                raise ValueError("holds a key that is no text")
        elif isinstance(value, list | tuple):
            below = value
        elif isinstance(value, float | str | None) or (isinstance(value, int) and abs(value) < 10**300):
            continue
        else:
            raise ValueError(f"holds a {type(value).__name__} where text, numbers and lists belong")
        if len(below) > room:
            raise ValueError("holds too many values, or too deep ones")
        waiting += [(each, depth + 1) for each in below]


def _outcome(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    if (folder / "evaluation.json").exists():
        return mapping(folder / "evaluation.json", json.loads, problems)
    problems.append("evaluation.json is missing: the run is not finished.")
    return {}


def read_lines(path: Path, problems: list[str]) -> tuple[Line, ...]:
    """All whole lines; a last one that is torn is normal while a run writes, or after a kill."""
    try:
        written = _text(path).splitlines()
    except FileNotFoundError:
        problems.append("metrics.jsonl is missing: there is no loss to show.")
        return ()
    except (OSError, ValueError) as error:
        problems.append(f"metrics.jsonl cannot be read: {error}.")
        return ()
    found, damaged = [], 0
    for number, text in enumerate(written):
        try:
            line = json.loads(text)
            if "not finite" in line:  # the run went back, as its verdict says
                continue
            made = Line(line["sweep"], line["seconds"], line["loss"], line.get("overfit"))
            numbers = (made.sweep, made.seconds, made.loss, made.loss if made.overfit is None else made.overfit)
            if not all(map(is_number, numbers)):
                raise ValueError
            found.append(made)
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += number + 1 < len(written)
    if damaged:
        problems.append(f"metrics.jsonl: {damaged} of {len(written)} lines are damaged and left out.")
    return tuple(sorted(found, key=lambda line: line.sweep))


def _distilled(folder: Path, problems: list[str]) -> Distilled | None:
    if not (folder / "distilled").exists() and not (folder / "distilled.json").exists():
        problems.append("distilled/ is missing: the images shown are those of the newest snapshot.")
        return None
    try:
        found = artifact.load(folder)
        _check_plain(found.info)
        return found
    except ValueError as error:  # an InputError among them
        problems.append(f"The distilled set cannot be used. {error}")
        return None


def _snapshots(folder: Path, problems: list[str]) -> tuple[tuple[Snapshot, Tensor], ...]:
    """With images as they are kept, (classes, ipc, c, h, w)."""
    found = []
    for file in run.listed_snapshots(folder):
        try:
            snapshot = run.snapshot(file)
            images = run.read_snapshot(snapshot)
            if images.ndim != 5 or not images.numel() or not images.isfinite().all():
                raise InputError(f"The snapshot '{file}' holds no images.")
            found.append((snapshot, images.clamp(0, 1)))
        except InputError as error:
            problems.append(str(error).replace(str(file), f"snapshots/{file.name}"))  # others may read this page
    return tuple(found)


def _unfinished(settings: Mapping[str, Any], snapshots: tuple[tuple[Snapshot, Tensor], ...]) -> Distilled | None:
    """The newest snapshot as a set."""
    if not snapshots:
        return None
    images = snapshots[-1][1]
    classes, ipc, channels = images.shape[:3]
    factor, formation = settings.get("images.factor"), settings.get("images.formation")
    try:
        return Distilled(
            images=images.flatten(0, 1), labels=torch.arange(classes).repeat_interleave(ipc),
            class_names=tuple(f"class {label}" for label in range(classes)), mean=(0.0,) * channels,
            std=(1.0,) * channels, factor=factor if isinstance(factor, int) else 1,
            formation=decoded_by(formation if isinstance(formation, str) else None),
        )  # fmt: skip
    except InputError:
        return None


def _in_order(
    snapshots: tuple[tuple[Snapshot, Tensor], ...], distilled: Distilled | None, problems: list[str]
) -> tuple[tuple[Snapshot, Tensor], ...]:
    """Snapshots as (n, c, h, w), without those that are not of the set's shape."""
    flat = [(snapshot, images.flatten(0, 1)) for snapshot, images in snapshots]
    fitting = [each for each in flat if distilled and each[1].shape == distilled.images.shape]
    if len(fitting) < len(flat):
        problems.append(f"{len(flat) - len(fitting)} snapshots are not of the set's shape and left out.")
    return tuple(fitting)


def _nearest(folder: Path, distilled: Distilled | None, expected: bool, problems: list[str]) -> Nearest | None:
    if distilled is None or not (folder / nearest.FILE).exists():
        if not expected:
            problems.append(f"{nearest.FILE} is missing: the nearest real images were not looked for.")
        return None
    try:
        return nearest.read(folder, distilled.images, distilled.count // len(distilled.labels))
    except (OSError, ValueError) as error:
        problems.append(f"{nearest.FILE} cannot be used: it {str(error).splitlines()[0]}.")
        return None


def read_rows(listed: list[Any], problems: list[str]) -> tuple[Row, ...]:
    """Scores from JSON, each network once; damaged ones are counted among the problems."""
    rows = [_row(each) for each in listed]
    if damaged := rows.count(None):
        problems.append(f"evaluation.json: {damaged} of {len(rows)} scores are damaged and left out.")
    return _once([row for row in rows if row])


def _once(rows: list[Row]) -> tuple[Row, ...]:
    """Without those whose networks another has, too, perhaps with more of them: a run's own, evaluated again."""

    def kind(row: Row) -> tuple[str, str, str]:
        own = row.set not in OTHERS and row.sweep is None  # of the set itself, whatever it is called
        return "" if own else row.set, row.network, row.protocol

    # In this order a score stands right before those that begin with its accuracies; of equal ones the first is last.
    order = sorted(range(len(rows)), key=lambda place: (kind(rows[place]), rows[place].accuracies, -place))
    told = set()
    for place, following in itertools.pairwise(order):
        row, other = rows[place], rows[following]
        if kind(row) == kind(other) and other.accuracies[: len(row.accuracies)] == row.accuracies:
            told.add(place)
    return tuple(row for place, row in enumerate(rows) if place not in told)


def _row(each: Any) -> Row | None:
    """A score from JSON, or None where it is not one."""
    if not isinstance(each, Mapping):
        return None
    texts = {name: each.get(name) for name in ("set", "network", "protocol")}
    accuracies, listed = _percent(each.get("accuracies")), each.get("per_class")
    tested = [value for value in listed if value is not None] if isinstance(listed, list | tuple) else []
    per_class = tuple(listed) if isinstance(listed, list | tuple) and _percent(tested) else None
    epochs, size, beside = each.get("epochs"), each.get("bytes"), each.get("beside")
    if not all(isinstance(text, str) for text in texts.values()) or not accuracies or not isinstance(epochs, int):
        return None
    snapshot = _SNAPSHOT.fullmatch(str(texts["set"]))
    return Row(
        set=str(texts["set"]), network=str(texts["network"]), protocol=str(texts["protocol"]), epochs=epochs,
        accuracies=accuracies, bytes=size if isinstance(size, int) else None,
        beside=beside if isinstance(beside, str) else None, sweep=int(snapshot[1]) if snapshot else None,
        seconds=float(snapshot[2]) if snapshot else None, per_class=per_class,
    )  # fmt: skip


def _percent(values: Any) -> tuple[float, ...]:
    """Accuracies, or nothing where it is something else."""
    listed = values if isinstance(values, list | tuple) else []
    return tuple(listed) if all(is_number(value) and 0 <= value <= 100 for value in listed) else ()


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is one that can be drawn: finite, and so that differences and products stay so."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e30


def _part(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _list(tree: Mapping[str, Any], name: str) -> list[Any]:
    found = tree.get(name)
    return found if isinstance(found, list) else []
