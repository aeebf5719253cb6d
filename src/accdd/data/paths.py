"""Data at a path, in any of the layouts that are known."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from accdd.config import Data
from accdd.data import arrays, cache, folders, originals, parquet
from accdd.data.dataset import Dataset

LAYOUTS = f"{folders.LAYOUT}, {parquet.LAYOUT}, {arrays.LAYOUT}, or {originals.LAYOUT}"


def holds_all_below(path: Path) -> bool:
    """Whether whatever is put below a path becomes a part of the data, as in a folder of class folders."""
    return path.is_dir() and not parquet.find_parquet(path) and not originals.find(path)


def load(path: Path, settings: Data, only: Sequence[str] = ()) -> Dataset:
    """The data at a path that exists, from the cache if it was decoded before.

    Args:
        path: a folder or a file.
        settings: the working size and the rest.
        only: the class folders to take, in this order; empty is all, by name.

    Raises:
        InputError: there is something that cannot be used.
    """
    if only:
        parts = folders.parts(path, only)
        return cache.load(path, parts, settings, partial(folders.load_folder, path, settings, only))
    if path.is_dir():
        parts = parquet.find_parquet(path) or None
        if parts:
            read = partial(parquet.load_parquet, path.resolve().name, parts)
        elif found := originals.find(path):
            parts, read = found
        else:
            read = partial(folders.load_folder, path)
    else:
        parts = [path]
        is_parquet = path.suffix == ".parquet"
        read = partial(parquet.load_parquet, path.stem, parts) if is_parquet else partial(arrays.load_npz, path)
    return cache.load(path, parts, settings, partial(read, settings))
