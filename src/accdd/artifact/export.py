"""A distilled set in other programs' formats."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from accdd import files
from accdd.artifact.distilled import Distilled
from accdd.config import InputError, choose


def export(distilled: Distilled, fmt: str, dest: str | Path) -> None:
    """Write the set in another format, atomically.

    Args:
        fmt: a name from `FORMATS`.
        dest: the file to create; taken as it is, no ending is added.

    Raises:
        InputError: an unknown format, or something is at `dest` already.
    """
    write = choose("export format", fmt, FORMATS)
    dest = Path(dest)
    if dest.exists() or dest.is_symlink():
        raise InputError(f"{dest} exists already and is not overwritten. Choose another name or remove it.")
    with files.commit_file(dest) as temporary:
        write(distilled, temporary)


def _npz(distilled: Distilled, file: Path) -> None:
    """What accdd reads as DATA: decoded `images` and `labels`; beside them the set as it is stored."""
    images, labels = distilled.decode()
    arrays = {
        "images": images.numpy(),  # float32 (m, c, h, w) in [0, 1]
        "labels": labels.numpy(),
        "class_names": np.array(distilled.class_names, dtype=np.str_),  # objects would need pickle
        "mean": np.array(distilled.mean),
        "std": np.array(distilled.std),
        "factor": np.array(distilled.factor),
        "formation": np.array(distilled.formation),
        "stored_images": distilled.images.numpy(),
        "stored_labels": distilled.labels.numpy(),
    }
    with file.open("wb") as stream:  # given a name instead, numpy would add an ending
        np.savez(stream, **arrays)


FORMATS: dict[str, Callable[[Distilled, Path], None]] = {"npz": _npz}
"""Export formats by name. Signature: `(distilled, file to write) -> None`."""
