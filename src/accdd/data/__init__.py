"""DATA, as the user names it, to uint8 tensors with a class index."""

from pathlib import Path
from typing import Any

from accdd.config import Data, InputError, nearest
from accdd.data import arrays, by_name, folders, hub, paths
from accdd.data.dataset import Dataset, build
from accdd.data.folders import class_folders
from accdd.data.named import NAMED, Named, mirrors
from accdd.data.paths import holds_all_below

__all__ = [
    "NAMED",
    "Dataset",
    "Named",
    "build",
    "class_folders",
    "holds_all_below",
    "is_gone",
    "is_name",
    "load",
    "mirrors",
]


def load(source: Any, settings: Data | None = None) -> Dataset:
    """Loads labelled images from wherever they are.

    What a path holds is decoded once and kept in the cache; later loads of unchanged files map it from there.

    Args:
        source: a name from `NAMED`, as "digits" or "cifar10" (see `by_name.load`); a folder of class folders
            (optionally below train/ and test/); a folder of parquet files, or of the files that a data set's authors
            distribute (see `originals`); an .npz file; "hf:owner/name"; a tuple (images, labels) or (images, labels,
            test_images, test_labels) of numpy arrays or tensors; a `datasets.Dataset` or `DatasetDict`; or a
            `Dataset`, whose pixels stay as they are.
        settings: the working size, the share kept aside for testing or held out to choose by, and what to do with
            unreadable pictures.

    Returns:
        The data set: images uint8 (n, c, h, w) in [0, 255] with c 1 or 3 and h = w, labels int64 (n,).

    Raises:
        InputError: the source is missing, of an unknown kind, or holds something that cannot be used.
    """
    settings = settings or Data()
    real = _read(source, settings).normalised(settings.mean, settings.std)
    if settings.held_out and not real.tests_on_held_out:
        real = real.testing_on_held_out(settings.held_out)
    return real.renamed(settings.name) if settings.name else real


def _read(source: Any, settings: Data) -> Dataset:
    if isinstance(source, Dataset):
        return source
    if isinstance(source, tuple):
        return arrays.load_arrays("arrays", source, settings)
    if is_name(source):
        return by_name.load(source, settings)
    if isinstance(source, str) and source.startswith("hf:"):
        return hub.load_hub(source.removeprefix("hf:"), settings)
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not path.exists():
            raise InputError(f"No data at '{path}'.{nearest(path.name, NAMED)} Expected {_EXPECTED}.")
        folders.check_text("path of the data", str(path.absolute()))
        return paths.load(path, settings)
    if hub.is_object(source):
        return hub.load_object(source, settings)
    raise InputError(f"Data is a {type(source).__name__}; expected {_EXPECTED}.")


def is_gone(source: Any) -> bool:
    """Whether data is said to be at a path where nothing is."""
    if not isinstance(source, str | Path) or is_name(source) or str(source).startswith("hf:"):
        return False
    return not Path(source).expanduser().exists()


def is_name(source: Any) -> bool:
    """Whether the user names a data set of the table, and not a path: "cifar10" does, "./cifar10" does not."""
    return isinstance(source, str) and source in NAMED


_EXPECTED = (
    f"{', '.join(NAMED)}, {paths.LAYOUTS}, hf:owner/name, or in Python a tuple (images, labels) or a datasets.Dataset"
)
