"""Decoded data sets in accdd's cache: four mapped .npy files, and the rest as JSON.

A set is decoded, split and measured once. Later starts map the tensors, so that pages are read when they are
used and a set may be larger than memory. The mapping is copy-on-write: what a caller changes in place stays
in this process.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import PIL
import torch

from accdd import files, keys
from accdd.config import Data, Notice
from accdd.data import mapped
from accdd.data.dataset import Dataset
from accdd.data.folders import OF_SYSTEMS

VERSION = 4
"""Part of the key; rises whenever the same files would become other tensors, notes or names."""

HASHED_UP_TO = 256 * 2**20
"""Bytes. Of larger files only the size is verified: hashing reads about 1 GB a second, and all of the file."""

_Part = Path | os.DirEntry[str]
"""A file or folder. Of tens of thousands, making a `Path` of each takes longer than all that is asked of it."""

_TENSORS = ("images", "labels", "test_images", "test_labels")


def load(path: Path, parts: Iterable[Path] | None, settings: Data, decode: Callable[[], Dataset]) -> Dataset:
    """The data set of a path, from the cache or decoded now and kept there.

    A cache that cannot be written stops nothing: the decoded data is returned as it is, with a warning.

    Args:
        path: what the user named.
        parts: the files that the result depends on; None is whatever is below the path.
        settings: of these the working size, the share kept aside and what happens to unreadable pictures count.
        decode: reads the data set, measuring its own mean and std.
    """
    if files.cache_folder().resolve().is_relative_to(path.resolve()):
        return decode()  # what is kept would become part of the data
    return keep(_key_parts(path, parts), settings, decode)


def keep(key_parts: Mapping[str, object], settings: Data, decode: Callable[[], Dataset]) -> Dataset:
    """What `decode` returns, from the cache or decoded now and kept there.

    Args:
        key_parts: what tells this data from others, as JSON values.
        settings, decode: as for `load`.
    """
    decoded: list[Dataset] = []

    def write(folder: Path) -> None:
        decoded.append(decode())
        _write(decoded[0], folder)

    key = {**key_parts, **_how(settings)}
    try:
        return _of_chosen_size(key) or _open(files.cached("data", key, write, hashed_up_to=HASHED_UP_TO))
    except OSError as error:
        # Where decoding itself was what failed, it fails here again, with nothing said about the cache.
        data = decoded[0] if decoded else decode()
        warnings.warn(
            f"The decoded data cannot be kept in the cache ({error}), so the next start decodes it again. "
            "Make room there, or set ACCDD_CACHE to a folder that can be written.",
            Notice,
            stacklevel=6,  # the caller of `accdd.data.load`
        )
        return data


def _of_chosen_size(key: Mapping[str, object]) -> Dataset | None:
    """What was decoded with no size named, if it came out at this one: a run is scored at the size that it found."""
    entry = files.cache_entry("data", {**key, "size": None})
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        same = key["size"] is not None and mapped.load(entry / "images.npy").shape[-1] == key["size"]
        if same and files.usable(entry, hashed_up_to=HASHED_UP_TO):
            return _open(entry)
    return None


def _key_parts(path: Path, parts: Iterable[Path] | None) -> dict[str, object]:
    root = path.absolute()
    found = _everything_below(root) if parts is None else [part.absolute() for part in parts]
    stamps = [(os.fspath(part)[len(str(root)) :], _stamp(part)) for part in found]
    return {
        "path": str(path.resolve()),
        "called": root.name,  # a link's name differs from that of what it leads to
        "parts": len(stamps),
        "stamps": hashlib.sha256(json.dumps(stamps).encode()).hexdigest(),
    }


def _how(settings: Data) -> dict[str, object]:
    return {
        "version": VERSION,
        "scheme": keys.SCHEME,
        "size": settings.size,
        "test_fraction": settings.test_fraction,
        "skip_unreadable": settings.skip_unreadable,
        "decoded by": ["pillow", PIL.__version__],
        "split by": ["torch", torch.__version__],
    }


def _everything_below(folder: _Part, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[_Part]:
    """All files and folders below a folder, through links too, in order of their names.

    Args:
        folder: where to begin; one that may not be read has nothing below it.
        above: device and inode of the folders that led here, so that a link back to one of them ends.
    """
    status = Path(folder).stat()  # an entry's own stat() has no inode on Windows
    if (identity := (status.st_dev, status.st_ino)) in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if entry.name in OF_SYSTEMS:
            continue
        yield entry
        if (found := _status(entry)) and stat.S_ISDIR(found.st_mode):
            yield from _everything_below(entry, above | {identity})


def _stamp(part: _Part) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in nanoseconds; None for a folder or a link that leads nowhere."""
    status = _status(part)
    return (status.st_size, status.st_mtime_ns) if status and stat.S_ISREG(status.st_mode) else None


def _status(part: _Part) -> os.stat_result | None:
    try:
        return part.stat()
    except OSError:  # among others a link that leads nowhere, or to itself
        return None


def _write(data: Dataset, folder: Path) -> None:
    tensors = {name: getattr(data, name).contiguous() for name in _TENSORS}
    needed = sum(tensor.nbytes for tensor in tensors.values())
    if needed > shutil.disk_usage(folder).free // 2:  # the run that follows needs room too
        raise OSError(errno.ENOSPC, f"its {needed:,} bytes would take more than half of what is free", str(folder))
    for name, tensor in tensors.items():
        np.save(folder / f"{name}.npy", tensor.numpy(), allow_pickle=False)
    record = {
        "name": data.name,
        "class_names": data.class_names,
        "notes": data.notes,
        "kept_aside": data.kept_aside,
        "moments": data.moments,
        "fingerprint": data.fingerprint,
    }
    (folder / "data.json").write_text(json.dumps(record, indent=1))


def _open(folder: Path) -> Dataset:
    record = json.loads((folder / "data.json").read_text())
    images, labels, test_images, test_labels = (mapped.load(folder / f"{name}.npy") for name in _TENSORS)
    mean, std = record["moments"]
    data = Dataset(
        name=record["name"],
        images=images,
        labels=labels,
        class_names=tuple(record["class_names"]),
        test_images=test_images,
        test_labels=test_labels,
        notes=tuple(record["notes"]),
        kept_aside=record["kept_aside"],
    )
    return data.with_measured(moments=(tuple(mean), tuple(std)), fingerprint=record["fingerprint"])
