"""The folder of a run: what it was told, what happened, what it made."""

import dataclasses
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from accdd import execution, files
from accdd.config import InputError, Settings, to_dict
from accdd.execution import Plan

CONTENTS = {
    "config.yaml": "what was asked for, and what it became",
    "env.json": "versions, machine, and how the arithmetic was done",
    "metrics.jsonl": "loss and time, a line a second",
    "snapshots": "the images on the way, for accuracy curves",
    "distilled": "the result: load it with accdd.load",
    "evaluation.json": "the scores, with protocol and n",
}
"""Everything that a run folder may hold, in the order in which a reader wants it."""


class Snapshot(NamedTuple):
    """Images at a moment of a run."""

    sweep: int
    """Sweeps done."""
    seconds: float
    """Wall-clock seconds of distilling so far."""
    path: Path


class RunFolder:
    """Writes a run folder. Whole files appear whole; only metrics.jsonl grows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls,
        path: str | Path,
        source: str,
        given: Mapping[str, Any],
        resolved: Settings,
        device: torch.device,
        plan: Plan,
    ) -> "RunFolder":
        """Make the folder and record what the run is.

        Raises:
            InputError: something is at `path` already.
        """
        path = Path(path)
        refuse_existing(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        config = {"data": source, "given": dict(given), "resolved": to_dict(resolved)}
        files.write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        files.write_text(
            path / "env.json", json.dumps(environment(device) | {"plan": dataclasses.asdict(plan)}, indent=1)
        )
        (path / "snapshots").mkdir()
        return folder

    def log(self, sweep: int, seconds: float, loss: float, overfit: float | None = None) -> None:
        """Append a line to metrics.jsonl."""
        line = {"sweep": sweep, "seconds": round(seconds, 3), "loss": loss}
        line |= {} if overfit is None else {"overfit": round(overfit, 4)}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def snapshot(self, sweep: int, seconds: float, images: Tensor) -> None:
        """Keep the stored images, (classes, ipc, c, h, w), clamped to [0, 1], 16-bit float (2^-12 at most off)."""
        with files.commit_file(self.path / "snapshots" / f"sweep-{sweep:07d}.safetensors") as file:
            tensors = {"images": images.detach().clamp(0, 1).half().cpu().contiguous()}
            save_file(tensors, file, metadata={"sweep": str(sweep), "seconds": f"{seconds:.3f}"})

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Write evaluation.json."""
        files.write_text(self.path / "evaluation.json", json.dumps(dict(record), indent=1))


def refuse_existing(path: Path) -> None:
    """An output folder must be new or empty, so that no run is ever written over another."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    what = "holds a run" if (path / "config.yaml").exists() else "is not empty" if path.is_dir() else "is a file"
    beside = path if path.name.strip(".") else path.resolve()  # '.' and '..' have a name only in full
    free = next(p for n in range(2, 10_000) if not (p := Path(f"{beside}-{n}")).exists())
    raise InputError(
        f"'{path}' {what}, and is not written over. Expected a new folder: use --out {shlex.quote(str(free))}, "
        "or remove it first. Continuing an unfinished run is not possible yet."
    )


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


def snapshots(path: str | Path) -> list[Snapshot]:
    """The snapshots of a run, in order.

    Raises:
        InputError: there are none.
    """
    found = sorted((Path(path) / "snapshots").glob("sweep-*.safetensors"))
    if not found:
        raise InputError(f"'{path}' holds no snapshots. Expected a run folder made with loop.snapshots above 0.")
    listed = []
    for file in found:
        with safe_open(file, framework="pt") as tensors:
            about = tensors.metadata()
        listed.append(Snapshot(int(about["sweep"]), float(about["seconds"]), file))
    return listed


def read_snapshot(snapshot: Snapshot) -> Tensor:
    """Stored images of a snapshot, float32 (classes, ipc, c, h, w) in [0, 1]."""
    with safe_open(snapshot.path, framework="pt") as tensors:
        return tensors.get_tensor("images").float()


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
