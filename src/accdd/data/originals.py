"""Data sets in the files that their authors distribute: IDX, CIFAR's binary version, SVHN's .mat, Tiny-ImageNet."""

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdd.config import Data, InputError
from accdd.data import arrays
from accdd.data.dataset import Dataset, build
from accdd.data.pictures import of_files, read

LAYOUT = "the authors' files of MNIST or Fashion-MNIST (IDX, also .gz), CIFAR (binary version), SVHN or Tiny-ImageNet"

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10 = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR100 = ("train.bin", "test.bin")
SVHN = ("train_32x32.mat", "test_32x32.mat")

# Below the folder that is named: where archives and torchvision put them.
_BELOW_IDX = (".", "raw", "MNIST/raw", "FashionMNIST/raw")
_BELOW_CIFAR10 = (".", "cifar-10-batches-bin")
_BELOW_CIFAR100 = (".", "cifar-100-binary")
_BELOW_TINY = (".", "tiny-imagenet-200")
_PICKLED = (("data_batch_1", "data_batch_2"), ("train", "meta"))
_BELOW_PICKLED = (".", "cifar-10-batches-py", "cifar-100-python")

_PIXELS = 3 * 32 * 32
_BLOCK = 2**20


class Original(NamedTuple):
    """Files that were recognised."""

    parts: list[Path] | None
    """What the result depends on; None is everything below the folder."""
    read: Callable[[Data], Dataset]
    """Reads them."""


def find(root: Path) -> Original | None:
    """What of the above a folder holds, or None.

    Raises:
        InputError: some files of a set without the others, or CIFAR's pickled version, which could run code.
    """
    name = root.resolve().name
    for below in _BELOW_IDX:
        if files := _all_or_none(root / below, IDX, (".gz", "")):
            return Original(files, partial(_load_idx, name, files))
    for below in _BELOW_CIFAR10:
        if files := _all_or_none(root / below, CIFAR10):
            meta = files[0].with_name("batches.meta.txt")
            return Original([*files, *_present(meta)], partial(_load_cifar, name, files, meta, before=0, classes=10))
    for below in _BELOW_CIFAR100:
        files = [root / below / file for file in CIFAR100]
        if all(file.is_file() for file in files):  # one of them alone may be anything
            meta = files[0].with_name("fine_label_names.txt")
            # The first of two labels is the superclass.
            return Original([*files, *_present(meta)], partial(_load_cifar, name, files, meta, before=1, classes=100))
    if files := _all_or_none(root, SVHN):
        return Original(files, partial(_load_svhn, name, files))
    for below in _BELOW_TINY:
        if (root / below / "val" / "val_annotations.txt").is_file():
            return Original(None, partial(_load_tiny_imagenet, name, root / below))
    for folder in (root / below for below in _BELOW_PICKLED):
        if any(all((folder / file).is_file() for file in files) for files in _PICKLED):
            raise InputError(
                f"'{folder}' is CIFAR's Python version, which is pickled and could run code, so it is not opened. "
                "Expected the binary version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz), parquet files, class "
                "folders or an .npz file."
            )
    return None


def _all_or_none(folder: Path, names: Sequence[str], endings: Sequence[str] = ("",)) -> list[Path] | None:
    """The files of all names, each with one of the endings; None if there is none of them."""
    found = {name: path for name in names for end in endings if (path := folder / f"{name}{end}").is_file()}
    if not found:
        return None
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"'{folder}' has {', '.join(path.name for path in found.values())}, but not {', '.join(missing)}. "
            "Expected all of them: download or unpack it again."
        )
    return [found[name] for name in names]


def _present(path: Path) -> list[Path]:
    return [path] if path.is_file() else []


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"'{path}' {what}. It is damaged or something else: download it again.")


# IDX: two zeros, the type, the number of dimensions, each dimension as a big-endian int32, the numbers. --------------


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes, plain or gzipped: uint8 with as many dimensions.

    Raises:
        InputError: something else, or not as long as it says.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            expected = bytes((0, 0, 8, dimensions))
            if head[:4] != expected or len(head) < 4 + 4 * dimensions:
                raise _broken(path, f"begins with {head[:4].hex(' ') or 'nothing'}; expected {expected.hex(' ')}")
            shape = np.frombuffer(head[4:], ">u4").tolist()
            size = math.prod(shape)
            content = bytearray()  # grows by what is there, whatever the header says
            while len(content) <= size and (more := file.read(_BLOCK)):
                content += more
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, f"cannot be read ({error or type(error).__name__})") from None
    if len(content) != size:
        found = f"more than {size}" if len(content) > size else f"{len(content)}"
        raise _broken(path, f"announces {' x '.join(map(str, shape))} numbers and has {found}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _load_idx(name: str, files: Sequence[Path], settings: Data) -> Dataset:
    images, labels, test_images, test_labels = (read_idx(path, 3 if "idx3" in path.name else 1) for path in files)
    labels, test_labels = labels.astype(np.int64), test_labels.astype(np.int64)
    return arrays.load_arrays(name, (images, labels, test_images, test_labels), settings)


# CIFAR's binary version: records of the label (CIFAR-100: superclass, class) and 3 x 32 x 32 pixels. -----------------


def read_records(path: Path, before: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A file of CIFAR's binary version: images uint8 (n, 3, 32, 32) and labels int64 (n,).

    Args:
        path: the file.
        before: bytes before each label.
        classes: labels are below this.

    Raises:
        InputError: not whole records, or other labels.
    """
    length = before + 1 + _PIXELS
    size = path.stat().st_size
    if not size or size % length:
        raise _broken(path, f"has {size} bytes; expected a multiple of {length}, the length of a record")
    records = np.fromfile(path, np.uint8).reshape(-1, length)
    labels = records[:, before].astype(np.int64)
    if labels.max() >= classes:
        raise _broken(path, f"has the label {labels.max()}; expected 0 to {classes - 1}")
    return records[:, before + 1 :].reshape(-1, 3, 32, 32), labels


def _load_cifar(name: str, files: Sequence[Path], meta: Path, settings: Data, *, before: int, classes: int) -> Dataset:
    splits = [read_records(path, before, classes) for path in files]
    images, labels = (np.concatenate(parts) for parts in zip(*splits[:-1], strict=True))
    names = meta.read_text(errors="replace").split() if meta.is_file() else []
    given = (images, labels, *splits[-1])
    return arrays.load_arrays(name, given, settings, class_names=names if len(names) == classes else None)


# SVHN: a MATLAB file (version 5) with X, uint8 (32, 32, 3, n), and y, (n, 1), where 10 stands for the digit 0. -------


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    # Imported here: only this data needs it. It comes with scikit-learn, and reads numbers without running anything.
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=["X", "y"])
        images, labels = np.asarray(found["X"]), np.asarray(found["y"]).reshape(-1)
    except Exception as error:  # whatever a damaged file makes the reader stumble on
        raise _broken(path, f"cannot be read as SVHN's .mat ({str(error) or type(error).__name__})") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3 or labels.dtype.kind not in "iuf":
        raise _broken(path, f"has X {images.dtype} {images.shape}; expected uint8 (32, 32, 3, n), and numbers in y")
    return images.transpose(3, 2, 0, 1), labels.astype(np.int64) % 10


def _load_svhn(name: str, files: Sequence[Path], settings: Data) -> Dataset:
    train, test = (_read_mat(path) for path in files)
    return arrays.load_arrays(name, (*train, *test), settings)


# Tiny-ImageNet: train/ID/images/*.JPEG, and val/images/*.JPEG whose classes are in val/val_annotations.txt. ----------


def _load_tiny_imagenet(name: str, root: Path, settings: Data) -> Dataset:
    """Classes are in order of their WordNet ids, as in folders; wnids.txt has another order, which is not used."""
    names = sorted(entry.name for entry in (root / "train").glob("n*") if entry.is_dir())
    label_of = {wordnet_id: label for label, wordnet_id in enumerate(names)}
    train = [
        (label, path)
        for wordnet_id, label in label_of.items()
        for path in sorted((root / "train" / wordnet_id / "images").glob("*.JPEG"))
    ]
    annotations = root / "val" / "val_annotations.txt"
    test = []
    for number, line in enumerate(annotations.read_text(errors="replace").splitlines(), start=1):
        file, wordnet_id = [*line.split("\t"), ""][:2]
        if wordnet_id not in label_of or Path(file).name != file:
            raise _broken(annotations, f"says in line {number} '{line}'; expected a picture's name, a tab and a class")
        test.append((label_of[wordnet_id], root / "val" / "images" / file))
    splits, notes = read([of_files(train), of_files(test)], settings)
    return build(name, splits[0], splits[1], class_names=names, notes=notes)
