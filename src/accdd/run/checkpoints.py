"""Checkpoints: everything that a loop needs to go on after a kill, to the same bits.

    checkpoints/sweep-0000412/
      state.safetensors   images, velocity and, in the middle of an outer step, the network and its velocity
      state.json          positions, seconds, and how long metrics.jsonl was
      manifest.json       sizes and SHA-256

    checkpoints/failed/     the state before a step that was not finite, in the same form

A checkpoint appears whole or not at all. The newest two are kept; a damaged one is named, moved aside, and the one
before it used.
"""

import json
import math
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from accdd import files
from accdd.config import InputError
from accdd.loop import State
from accdd.training import Trained

FAILED = "failed"
KEPT = 2
VERSION = 1
"""Raised when an older checkpoint can no longer be gone on from."""

_NAME = re.compile(r"sweep-(\d{7,})")


class Checkpoint(NamedTuple):
    """A state with its place in the run."""

    state: State
    seconds: float
    """Of distilling behind it."""
    metrics: int
    """Bytes of metrics.jsonl that belong to it."""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write one into `folder`, durably, and drop all but the newest two."""
    state = checkpoint.state
    tensors = {"images": state.images, "velocity": state.velocity}
    if state.network is not None:
        for kind, values in state.network._asdict().items():
            tensors |= {f"network.{kind}/{name}": value for name, value in values.items()}
    # The file sorts them by name, but sums over a network's tensors are taken in their own order.
    names = list(state.network.parameters) if state.network else []
    position = {"version": VERSION, "sweep": state.sweep, "oldest": state.oldest, "names": names}
    position |= {"halvings": state.halvings} if state.halvings else {}
    target = folder / f"sweep-{state.sweep:07d}"
    if target.exists():  # gone on from this one and stopped before the next sweep
        return
    with files.commit_folder(target, manifest=True) as temporary:
        values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        files.save_tensors(values, temporary / "state.safetensors")
        about = position | {"seconds": checkpoint.seconds, "metrics": checkpoint.metrics}
        (temporary / "state.json").write_text(json.dumps(about))
    for old in listed(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path, where: torch.device) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, if there is any, and what was wrong with newer ones, which are moved aside.

    Raises:
        InputError: it is of another version.
    """
    problems = []
    for path in listed(folder):
        found = files.verify_folder(path)
        try:
            if not found:
                return _read(path, where), problems
        except InputError:
            raise
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            found = [str(error)]
        problems.append(f"{path}: {found[0]}")
        # Left in place, it would count as one of the newest and make later ones be dropped.
        path.rename(files.aside(path))
    return None, problems


def listed(folder: Path) -> list[Path]:
    """Checkpoints by their names, newest first; whatever else is there is not looked at."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("sweep-")), reverse=True)


def _read(path: Path, where: torch.device) -> Checkpoint:
    about = json.loads((path / "state.json").read_text())
    if about["version"] != VERSION:
        raise InputError(
            f"The checkpoint '{path}' has version {about['version']}. Expected {VERSION}: "
            "go on with the accdd that wrote it (env.json), or start anew."
        )
    tensors = load_file(path / "state.safetensors", device=str(where))
    images, velocity, names = tensors["images"], tensors["velocity"], about["names"]
    kinds = {kind: {name: tensors[f"network.{kind}/{name}"] for name in names} for kind in Trained._fields}
    network = Trained(**kinds) if names else None
    sweep, oldest, metrics = (int(about[name]) for name in ("sweep", "oldest", "metrics"))
    seconds, halvings = float(about["seconds"]), int(about.get("halvings", 0))
    if min(sweep, oldest, metrics, halvings) < 0 or not math.isfinite(seconds) or images.shape != velocity.shape:
        raise ValueError("state.json and state.safetensors hold no state")
    state = State(sweep, images, images.new_zeros(0), velocity, network, oldest, halvings=halvings)
    return Checkpoint(state, seconds, metrics)
