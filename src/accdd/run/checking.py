"""What of a folder that accdd made is whole: `accdd check`. Nothing is changed, and nothing in a file is run."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from safetensors import SafetensorError, safe_open

from accdd import artifact, files
from accdd.artifact.format import HEADER, TENSORS
from accdd.config import InputError
from accdd.run import checkpoints, owner
from accdd.run.folder import CONTENTS
from accdd.run.snapshot_files import digest, listed_snapshots

State = Literal["whole", "damaged", "missing", "unknown"]
"""Whole: it matches its checksum. Unknown: there is none, or accdd did not write it; nothing speaks against it."""


class Part(NamedTuple):
    """Something in the folder."""

    name: str
    """Path below the folder that was checked."""
    state: State
    detail: str


class Checked(NamedTuple):
    """What was found."""

    kind: str
    """What the folder is."""
    parts: tuple[Part, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not any(part.state in ("damaged", "missing") for part in self.parts)


_RUN = ("config.yaml", "env.json", "metrics.jsonl", "snapshots", "checkpoints")


def check(path: str | Path) -> Checked:
    """What of a run, a distilled set, an export, a pool, a target bank or another entry of the cache is whole.

    Raises:
        InputError: there is no such folder, or accdd knows nothing like it.
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"'{path}' is no folder. Expected that of a run, a set, an export, a pool or a target bank.")
    present = {entry.name for entry in path.iterdir()}
    if HEADER in present or TENSORS in present:
        return Checked("distilled set", (_set(path, "."),))
    if files.MANIFEST in present or "key.json" in present:
        return Checked("folder with a manifest", tuple(_listed(path)))
    for index, kind in (("bank.json", "target bank"), ("pool.json", "pool")):
        if index in present:
            return Checked(kind, tuple(_growing(path, index)))
    if present.intersection(_RUN):
        finished = "evaluation.json" in present
        return Checked("finished run" if finished else "unfinished run", tuple(_run(path, finished)))
    if (path / "train" / "metadata.jsonl").is_file() or any(path.glob("data/train-*.parquet")):
        return Checked("export", tuple(Part(name, "unknown", "exports have no checksums") for name in sorted(present)))
    what = "a study, whose cells each have a run" if "study.json" in present else "nothing that accdd made"
    raise InputError(f"'{path}' is {what}. Expected the folder of a run, a set, an export, a pool or a target bank.")


def _run(path: Path, finished: bool) -> Iterator[Part]:
    yield _readable(path, "config.yaml", lambda text: isinstance(yaml.safe_load(text), dict))
    yield _readable(path, "env.json", lambda text: isinstance(json.loads(text), dict))
    yield from _metrics(path)
    for file in listed_snapshots(path / "snapshots"):
        yield _snapshot(path, file)
    for folder in reversed(checkpoints.listed(path / "checkpoints")):
        problems = files.verify_folder(folder)
        yield _part(path, folder, problems, "matches its checksums")
    if finished or (path / "distilled").exists():
        yield _set(path / "distilled", "distilled")
    if finished:
        yield _readable(path, "evaluation.json", lambda text: isinstance(json.loads(text), dict))
    for name in ("distilled/preview.png", "distilled/README.md", "nearest.safetensors", "report.html", "tensorboard"):
        if (path / name).exists():
            yield Part(name, "unknown", "without a checksum, not looked into")
    known = {*CONTENTS, owner.FILE}
    inside = (
        path.glob(pattern) for pattern in ("checkpoints/*", "checkpoints/failed/.*", "snapshots/.*", "distilled/.*")
    )
    for entry in sorted([*path.iterdir(), *itertools.chain(*inside)]):
        if entry.parent == path and entry.name in known:
            continue
        if entry.parent.name != "checkpoints" or entry not in checkpoints.listed(path / "checkpoints"):
            failed = entry.parent.name == "checkpoints" and entry.name == checkpoints.FAILED
            why = "before a step that was not finite" if failed else _why(entry.name)
            yield Part(_name(path, entry), "unknown", why)


def _metrics(path: Path) -> Iterator[Part]:
    """Lines of JSON; the last may be torn by a kill, and is cut when the run goes on."""
    file = path / "metrics.jsonl"
    if not file.is_file():
        return  # none is written before the first second has passed
    *lines, last = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            yield Part(file.name, "damaged", f"line {number} is not JSON")
            return
    torn = "; the last line is torn, as a kill leaves it" if last else ""
    yield Part(file.name, "unknown", f"{len(lines)} lines, all readable, without a checksum{torn}")


def _snapshot(path: Path, file: Path) -> Part:
    try:
        with safe_open(file, framework="pt") as tensors:
            found, told = digest(tensors.get_tensor("images")), (tensors.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: numbers of a kind that no snapshot has
        return Part(_name(path, file), "damaged", str(error))
    if told is None:
        return Part(_name(path, file), "unknown", "readable, without a checksum")
    problems = [] if told == found else ["has changed (other SHA-256)"]
    return _part(path, file, problems, "matches its checksum")


def _set(folder: Path, name: str) -> Part:
    try:
        distilled = artifact.load(folder)
    except InputError as error:
        return Part(name, "damaged" if folder.exists() else "missing", str(error))
    return Part(name, "whole", f"{len(distilled.labels)} stored images match their checksum")


def _growing(path: Path, index: str) -> Iterator[Part]:
    """The blocks of a bank or the networks of a pool."""
    yield _readable(path, index, lambda text: isinstance(json.loads(text), dict))
    for folder in sorted(each for each in path.iterdir() if each.is_dir()):
        if re.fullmatch(r"\d{6,}", folder.name):
            yield _part(path, folder, files.verify_folder(folder), "matches its checksums")
        else:
            yield Part(folder.name, "unknown", _why(folder.name))


def _listed(path: Path) -> Iterator[Part]:
    """All that a manifest lists."""
    problems = files.verify_folder(path)
    for problem in problems:
        name, _, detail = problem.partition(": ")
        yield Part(name, "missing" if detail == "is missing" else "damaged", detail)
    if not problems:
        yield Part(".", "whole", "all files match their checksums")


def _readable(path: Path, name: str, holds: Callable[[str], bool]) -> Part:
    file = path / name
    if not file.is_file():
        return Part(name, "missing", "there is no such file")
    try:
        sound = holds(file.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return Part(name, "damaged", str(error).partition("\n")[0])
    return Part(name, "unknown", "readable, without a checksum") if sound else Part(name, "damaged", "is no mapping")


def _part(path: Path, found: Path, problems: list[str], well: str) -> Part:
    return Part(_name(path, found), "damaged" if problems else "whole", "; ".join(problems[:3]) or well)


def _name(path: Path, found: Path) -> str:
    return found.relative_to(path).as_posix()


def _why(name: str) -> str:
    if files.ASIDE.fullmatch(name):
        return "was damaged and moved aside; it can be deleted"
    if files.LEFT_OVER.fullmatch(name):
        return "left by a process that was killed; it can be deleted once nothing works here"
    return "not made by accdd"
