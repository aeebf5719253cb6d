"""Snapshots: the images of a run at some of its sweeps, a file each."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from accdd import files
from accdd.config import InputError


class Snapshot(NamedTuple):
    """Images at a moment of a run."""

    sweep: int
    """Sweeps done."""
    seconds: float
    """Wall-clock seconds of distilling so far."""
    path: Path


def write_snapshot(path: Path, sweep: int, seconds: float, images: Tensor) -> Tensor:
    """Keep stored images, (classes, ipc, c, h, w), of a run, and return what is kept."""
    kept = images.detach().clamp(0, 1).half().cpu().contiguous()
    about = {"sweep": str(sweep), "seconds": f"{seconds:.3f}", "sha256": digest(kept)}
    with files.commit_file(path / "snapshots" / f"sweep-{sweep:07d}.safetensors") as file:
        files.save_tensors({"images": kept}, file, about)
    return kept


def digest(tensor: Tensor) -> str:
    """Hexadecimal SHA-256 of a tensor's numbers; the tensor is on the CPU and contiguous."""
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def listed_snapshots(folder: Path) -> list[Path]:
    """What is called like a snapshot, by its sweep, oldest first: numbers have seven digits, or more."""
    return sorted(folder.glob("sweep-*.safetensors"), key=lambda file: (len(file.name), file.name))


def snapshots(path: str | Path) -> list[Snapshot]:
    """The snapshots of a run, in order.

    Raises:
        InputError: there are none, or one is damaged.
    """
    listed = listed_snapshots(Path(path) / "snapshots")
    found = [file for file in listed if file.is_file()]  # reading a pipe might never end
    if not found:
        raise InputError(f"'{path}' holds no snapshots. Expected a run folder made with loop.snapshots above 0.")
    return [snapshot(file) for file in found]


def newest_snapshot(path: Path) -> tuple[Snapshot, Tensor] | None:
    """The newest snapshot that can be read, with its images, (classes, ipc, c, h, w); None where there is none.

    A run at work writes them, and takes back those of sweeps that it repeats.
    """
    for file in reversed(listed_snapshots(path / "snapshots")):
        try:
            found = snapshot(file)
            images = read_snapshot(found)
        except InputError:
            continue
        if images.ndim == 5 and images.numel():
            return found, images
    return None


def snapshot(file: Path) -> Snapshot:
    """What a file of images says of itself.

    Raises:
        InputError: it cannot be read.
    """
    with _reading(file):
        if not file.is_file():  # reading a pipe might never end
            raise ValueError("it is no file")
        with safe_open(file, framework="pt") as tensors:
            about = tensors.metadata()
        return Snapshot(int(about["sweep"]), float(about["seconds"]), file)


def read_snapshot(snapshot: Snapshot) -> Tensor:
    """Stored images of a snapshot, float32 (classes, ipc, c, h, w) in [0, 1].

    Raises:
        InputError: it cannot be read.
    """
    with _reading(snapshot.path), safe_open(snapshot.path, framework="pt") as tensors:
        images, told = tensors.get_tensor("images"), (tensors.metadata() or {}).get("sha256")
        if told not in (None, digest(images)):
            raise ValueError("it has changed (other SHA-256)")
        return images.float()


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Say which snapshot it is that cannot be read."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The snapshot '{file}' cannot be read: {why}. Expected it as the run wrote it.") from None
