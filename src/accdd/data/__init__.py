"""DATA, as the user names it, to uint8 tensors with a class index."""

from functools import partial
from pathlib import Path
from typing import Any

from accdd.config import Data, InputError
from accdd.data import arrays, cache, folders, hub, parquet
from accdd.data.dataset import Dataset, build
from accdd.data.folders import class_folders

__all__ = ["Dataset", "build", "class_folders", "load"]


def load(source: Any, settings: Data | None = None) -> Dataset:
    """Loads labelled images from wherever they are.

    What a path holds is decoded once and kept in the cache; later loads of unchanged files map it from there.

    Args:
        source: "digits"; a folder of class folders (optionally below train/ and test/); a folder of parquet
            files; an .npz file; "hf:owner/name"; a tuple (images, labels) or (images, labels, test_images,
            test_labels) of numpy arrays or tensors; a `datasets.Dataset` or `DatasetDict`; or a `Dataset`,
            which is returned as it is.
        settings: the working size, the share kept aside for testing, and what to do with unreadable pictures.

    Returns:
        The data set: images uint8 (n, c, h, w) in [0, 255] with c 1 or 3 and h = w, labels int64 (n,).

    Raises:
        InputError: the source is missing, of an unknown kind, or holds something that cannot be used.
    """
    settings = settings or Data()
    return _read(source, settings).normalised(settings.mean, settings.std)


def _read(source: Any, settings: Data) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, tuple):
        return arrays.load_arrays("arrays", source, settings)
    if isinstance(source, str) and source == "digits":
        return arrays.load_digits(settings)
    if isinstance(source, str) and source.startswith("hf:"):
        return hub.load_hub(source.removeprefix("hf:"), settings)
    if isinstance(source, str | Path):
        return _load_path(Path(source).expanduser(), settings)
    if hub.is_object(source):
        return hub.load_object(source, settings)
    raise InputError(f"Data is a {type(source).__name__}; expected {_EXPECTED}.")


_EXPECTED = (
    f"digits, {folders.LAYOUT}, {parquet.LAYOUT}, {arrays.LAYOUT}, hf:owner/name, "
    "or in Python a tuple (images, labels) or a datasets.Dataset"
)


def _load_path(path: Path, settings: Data) -> Dataset:
    if not path.exists():
        raise InputError(f"No data at '{path}'. Expected {_EXPECTED}.")
    if path.is_dir():
        parts = parquet.find_parquet(path) or None
        read = (
            partial(parquet.load_parquet, path.resolve().name, parts) if parts else partial(folders.load_folder, path)
        )
    else:
        parts = [path]
        is_parquet = path.suffix == ".parquet"
        read = partial(parquet.load_parquet, path.stem, parts) if is_parquet else partial(arrays.load_npz, path)
    return cache.load(path, parts, settings, partial(read, settings))
