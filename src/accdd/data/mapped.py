"""Pixels that may outgrow memory: tensors mapped from files, whose pages the system reads and drops as needed."""

import errno
import math
import mmap
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from accdd import execution, files

SHARE = 0.25
"""Of the free memory: what would take more goes to the disk. Splitting and cleaning make up to two copies."""

_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
"""Linux's MAP_NORESERVE, which Python names from 3.13 on. Without it a private mapping that is larger than the
memory is refused, though its pages take none before they are written to."""


def empty(*shape: int) -> Tensor:
    """An uninitialised uint8 tensor on the CPU: in memory, or in a file of the cache folder that nobody else sees.

    The file has no name and is gone with the tensor. Where there is no room for it, memory has to do.
    """
    size = math.prod(shape)
    if size > SHARE * execution.free_memory(torch.device("cpu")):
        try:
            return _in_file(size).view(shape)
        except OSError:
            pass
    return torch.empty(shape, dtype=torch.uint8)


def _in_file(size: int) -> Tensor:
    folder = files.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(folder).free // 2:
        raise OSError(errno.ENOSPC, "too little room", str(folder))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # writing to a page that the disk has no room for kills
        else:
            file.truncate(size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)


def load(path: Path) -> Tensor:
    """The tensor of an .npy file, mapped copy-on-write: what is changed in place stays in this process."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not array.size or os.name == "nt":
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    begin = path.stat().st_size - array.nbytes  # the header comes first, and nothing after the numbers
    with path.open("rb") as file:
        flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        whole = mmap.mmap(file.fileno(), 0, flags=flags, prot=access)
    return torch.from_numpy(np.frombuffer(whole, array.dtype, offset=begin).reshape(array.shape))


def take(images: Tensor, rows: Tensor) -> Tensor:
    """`images[rows]` for images uint8 (n, c, h, w) on the CPU and rows int64 (m,) or bool (n,)."""
    rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    taken = empty(len(rows), *images.shape[1:])
    some = chunk(images)
    for target, few in zip(taken.split(some), rows.split(some), strict=True):
        torch.index_select(images, 0, few, out=target)
    return taken


def join(first: Tensor, second: Tensor) -> Tensor:
    """Images of both, one after the other, uint8 (n, c, h, w) each."""
    if first.device.type != "cpu":
        return torch.cat([first, second])
    joined = empty(len(first) + len(second), *first.shape[1:])
    joined[: len(first)], joined[len(first) :] = first, second
    return joined


def chunk(images: Tensor) -> int:
    """How many images to look at together: 16 MiB, at least one."""
    return max(1, 2**24 // max(1, math.prod(images.shape[1:])))
