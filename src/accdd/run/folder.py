"""The folder of a run: what it was told, what happened, what it made."""

import contextlib
import dataclasses
import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import yaml
from pydantic import TypeAdapter
from torch import Tensor

from accdd import execution, files
from accdd.config import InputError, Settings, to_dict
from accdd.execution import Plan
from accdd.loop import State
from accdd.run import checkpoints, owner
from accdd.run.checkpoints import Checkpoint
from accdd.run.owner import NotOurs, Owner
from accdd.run.snapshot_files import write_snapshot

CONTENTS = {
    "config.yaml": "what was asked for, and what it became",
    "env.json": "versions, machine, and how the arithmetic was done",
    "metrics.jsonl": "loss and time, a line a second",
    "snapshots": "the images on the way, for accuracy curves",
    "checkpoints": "what --resume goes on from",
    "distilled": "the result: load it with accdd.load",
    "evaluation.json": "the scores, with protocol and n",
    "nearest.safetensors": "the real image most like each learned one",
    "tensorboard": "what --track tensorboard wrote",
    "report.html": "all of this on one page: look at it, forward it",
}
"""Everything that a run folder may hold, in the order in which a reader wants it."""

KIND = ("set", "network", "protocol")
"""What tells a score that is kept from others of the same run."""


class Record(NamedTuple):
    """What a run folder says of its run."""

    source: str | None
    """The data, as given; None for arrays."""
    fingerprint: str
    """Of the data."""
    given: dict[str, Any]
    """Dotted settings as asked for."""
    resolved: dict[str, Any]
    """All settings as they became, nested."""
    plan: Plan
    machine: str
    """Processor and torch."""


class Follower(Protocol):
    """Told of what is written; see `tracking`."""

    def scalars(self, sweep: int, values: Mapping[str, float]) -> None: ...
    def images(self, sweep: int, images: Tensor) -> None: ...


class RunFolder:
    """Writes a run folder. Whole files appear whole; only metrics.jsonl grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = Owner(path)
        self.tracker: Follower | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        source: str | None,
        fingerprint: str,
        given: Mapping[str, Any],
        resolved: Settings,
        device: torch.device,
        plan: Plan,
        foretold: Mapping[str, float] | None = None,
    ) -> "RunFolder":
        """Make the folder and record what the run is.

        Args:
            path: the folder.
            source, fingerprint: the data, as it is found again and as it was.
            given: dotted settings as asked for.
            resolved: all settings as they became.
            device, plan: how it is carried out.
            foretold: seconds of each phase, where they were probed.

        Raises:
            InputError: something is at `path` already.
        """
        path = Path(path)
        refuse_existing(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        config = {"data": source, "fingerprint": fingerprint, "given": dict(given), "resolved": to_dict(resolved)}
        try:
            (path / "snapshots").mkdir()  # of two processes that found no run here, one makes it
        except FileExistsError:
            raise InputError(
                f"Another process has just begun a run in '{path}'. Expected a new folder: use another --out."
            ) from None
        files.write_text(
            path / "env.json",
            json.dumps(
                environment(device)
                | {"plan": dataclasses.asdict(plan)}
                | ({"foretold": dict(foretold)} if foretold else {}),
                indent=1,
            ),
        )
        files.write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False))  # last: now it is a run
        return folder

    @classmethod
    def open(cls, path: str | Path) -> tuple["RunFolder", "Record"]:
        """The folder of a run, and what it says of itself.

        Raises:
            InputError: it is none.
        """
        folder = cls(Path(path))
        try:
            config = yaml.safe_load((folder.path / "config.yaml").read_text())
            about = json.loads((folder.path / "env.json").read_text())
            plan = TypeAdapter(Plan).validate_python(about["plan"])
            given, resolved = (
                TypeAdapter(dict[str, Any]).validate_python(config[name]) for name in ("given", "resolved")
            )
            made_by = f"{about['machine']}, torch {about['torch']}"
            record = Record(config["data"], config["fingerprint"], given, resolved, plan, made_by)
            if links := [name for name in (*CONTENTS, owner.FILE) if (folder.path / name).is_symlink()]:
                raise ValueError(f"{links[0]} is a link, which may lead anywhere")
        except FileNotFoundError as error:
            raise InputError(f"'{path}' is no run to go on with: {Path(error.filename).name} is missing.") from None
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise InputError(f"'{path}' is no run to go on with: config.yaml or env.json: {error}.") from None
        return folder, record

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, but for its page."""
        return (self.path / "evaluation.json").exists()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out for the length of a block, and say how to go on where the disk refuses in it.

        Raises:
            InputError: another process is at work here.
            OSError: the folder was taken over or removed, or the system refuses; whatever was saved is whole.
        """
        with self._owner.claimed():
            try:
                yield
            except NotOurs:
                raise
            except OSError as error:
                self.check()
                if error.filename is None or not Path(error.filename).absolute().is_relative_to(self.path.absolute()):
                    raise
                raise OSError(
                    f"{error.filename} cannot be written: {error.strerror}. The run stops; what it saved before is "
                    "whole. Once there is room and the folder can be written, go on with: accdd distill --resume "
                    f"{shlex.quote(str(self.path))}"
                ) from error

    def check(self) -> None:
        """Look whether this process still has the folder to itself; before everything that is written.

        Raises:
            OSError: it has not, or the folder is gone.
        """
        self._owner.check()

    def rewind(self, where: torch.device) -> tuple[Checkpoint | None, list[str]]:
        """The checkpoint to go on from, and what was wrong with newer ones; what came after it is taken back."""
        checkpoint, problems = checkpoints.newest(self.path / "checkpoints", where)
        self._take_back(checkpoint.state.sweep if checkpoint else -1, checkpoint.metrics if checkpoint else 0)
        return checkpoint, problems

    def written(self) -> int:
        """Bytes of metrics.jsonl."""
        metrics = self.path / "metrics.jsonl"
        return metrics.stat().st_size if metrics.exists() else 0

    def restored(self, sweep: int, metrics: int, failing: State, halvings: int) -> None:
        """Record that the run went back to an earlier state, and keep the one before the step that failed.

        Args:
            sweep: of the state that was restored.
            metrics: bytes of metrics.jsonl that belong to it.
            failing: after it came a step that was not finite.
            halvings: of the images' step size, with this one.
        """
        self.check()
        self._take_back(sweep, metrics)
        self._append({"sweep": sweep, "not finite": failing.sweep + 1, "halvings": halvings})
        checkpoints.save(self.path / "checkpoints" / checkpoints.FAILED, Checkpoint(failing, 0.0, 0))

    def _take_back(self, sweep: int, metrics: int) -> None:
        """Undo what was written after a sweep."""
        for later in (self.path / "snapshots").glob("sweep-*.safetensors"):
            if (number := later.stem.removeprefix("sweep-")).isdigit() and int(number) > sweep:
                later.unlink()
        if self.written():
            with (self.path / "metrics.jsonl").open("r+b") as file:
                kept = file.read(metrics)  # after a power cut it may be less, with a torn last line
                file.truncate(kept.rfind(b"\n") + 1)

    def _append(self, line: Mapping[str, Any]) -> None:
        metrics = self.path / "metrics.jsonl"
        with files.naming(metrics), metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def checkpoint(self, state: State, seconds: float) -> None:
        """Save all that is needed to go on after this state."""
        self.check()
        checkpoints.save(self.path / "checkpoints", Checkpoint(state, seconds, self.written()))

    def log(self, sweep: int, seconds: float, loss: float, overfit: float | None = None) -> None:
        """Append a line to metrics.jsonl."""
        self.check()
        line = {"sweep": sweep, "seconds": round(seconds, 3), "loss": loss}
        line |= {} if overfit is None else {"overfit": round(overfit, 4)}
        self._append(line)
        if self.tracker:
            self.tracker.scalars(sweep, {key: line[key] for key in ("loss", "overfit") if key in line})

    def snapshot(self, sweep: int, seconds: float, images: Tensor) -> None:
        """Keep the stored images, (classes, ipc, c, h, w), clamped to [0, 1], 16-bit float (2^-12 at most off)."""
        self.check()
        kept = write_snapshot(self.path, sweep, seconds, images)
        if self.tracker:
            self.tracker.images(sweep, kept.float())

    def keep(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """Add scores of a finished run to evaluation.json, for its report; they replace older ones of the same kind."""
        record = json.loads((self.path / "evaluation.json").read_text())
        kept = merged(record.get("kept", []), scores)
        files.write_text(self.path / "evaluation.json", json.dumps(record | {"kept": kept}, indent=1))

    def evaluation(self, record: Mapping[str, Any], sweep: int) -> None:
        """Write evaluation.json: the run is finished, after this sweep."""
        self.check()
        files.write_text(self.path / "evaluation.json", json.dumps(dict(record), indent=1))
        if self.tracker:
            self.tracker.scalars(
                sweep, {f"{s['set']}, {s['network']}, {s['protocol']}, %": s["mean"] for s in record["scores"]}
            )


def merged(kept: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Scores with newer ones behind them, which replace those of the same kind."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for score in [*kept, *scores]:
        kind = tuple(score[name] for name in KIND)
        found.pop(kind, None)  # so that it goes to the end
        found[kind] = dict(score)
    return list(found.values())


def refuse_existing(path: Path, given: Mapping[str, Any] | None = None) -> None:
    """An output folder must be new or empty, so that no run is ever written over another.

    Args:
        path: the folder.
        given: dotted settings of the run that was to be written there, which are compared with those of one there.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    beside = path if path.name.strip(".") else path.resolve()  # '.' and '..' have a name only in full
    free = next(p for n in range(2, 10_000) if not (p := Path(f"{beside}-{n}")).exists())
    what, hint = "is not empty" if path.is_dir() else "is a file", ""
    if (path / "config.yaml").exists():
        finished = RunFolder(path).finished
        what = f"holds {'a finished' if finished else 'an unfinished'} run{_differing(path, given)}"
        hint = "" if finished else f" To go on with it: --resume {shlex.quote(str(path))}."
    raise InputError(
        f"'{path}' {what}, and is not written over. Expected a new folder: use --out {shlex.quote(str(free))}, "
        f"or remove it first.{hint}"
    )


def alike(path: Path, given: Mapping[str, Any]) -> tuple[RunFolder, Record] | None:
    """The run at `path`, if it was asked for with these dotted settings."""
    with contextlib.suppress(InputError):
        folder, record = RunFolder.open(path)
        return (folder, record) if record.given == given else None
    return None


def _differing(path: Path, given: Mapping[str, Any] | None) -> str:
    """In which settings a run differs from one that was asked for."""
    with contextlib.suppress(InputError):
        there = RunFolder.open(path)[1].given
        wanted = given or {}
        keys = sorted(key for key in {**there, **wanted} if there.get(key) != wanted.get(key))
        if given is not None and keys:
            named = (f"{key}: {_said(there, key)} there, {_said(wanted, key)} wanted" for key in keys[:5])
            return f" with other settings ({'; '.join(named)})"
    return ""


def _said(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not given"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, ready for JSON."""
    packages = ("accdd", "torch", "numpy", "pillow", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "device": str(device),
        "machine": execution.machine(device),
        "threads": torch.get_num_threads(),
        "command": shlex.join(sys.argv),
    }


def tree(path: Path) -> list[tuple[str, str]]:
    """Names present in a run folder with a word for each."""
    present = []
    for name, word in CONTENTS.items():
        entry = path / name
        if entry.exists():
            count = len(list(entry.iterdir())) if entry.is_dir() and name == "snapshots" else None
            label = f"{name}/" if entry.is_dir() else name
            present.append((label, f"{word} ({count})" if count else word))
    return present
