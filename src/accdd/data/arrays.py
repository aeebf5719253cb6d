"""Images that are arrays already: .npz files, Python tuples, and the digits that come with scikit-learn."""

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accdd.config import Data, InputError
from accdd.data.dataset import Dataset, Split, build
from accdd.data.pictures import describe, resize, working_size

LAYOUT = "an .npz file (images, labels, optionally test_images, test_labels, class_names)"

_BROKEN = (
    ValueError, TypeError, AttributeError, OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What numpy and zipfile raise for files that are damaged, encrypted, something else, or claim more than there is."""
_SPARE = 64 * 2**20
"""Bytes that arrays may take beyond three times their file."""
_SHAPES = "(n, c, h, w) with c 1 or 3, or (n, h, w)"
_CHUNK = 4096
"""Float images rounded together, so that no float copy of the whole is made."""


def load_digits(settings: Data) -> Dataset:
    """Scikit-learn's 1,797 scanned digits: grey, 8 x 8, values 0 to 16 stretched to 0 to 255."""
    # Imported here: scikit-learn takes a second that other data does not need to pay.
    from sklearn import datasets

    digits: Any = datasets.load_digits()
    images = (digits.images * 255 / 16).round().astype(np.uint8)
    return load_arrays("digits", (images, digits.target), settings)


def load_npz(path: Path, settings: Data) -> Dataset:
    """An .npz file: `images`, `labels`, and optionally `test_images`, `test_labels` and `class_names`.

    Raises:
        InputError: not an .npz file, missing or pickled arrays, or arrays that `load_arrays` refuses.
    """
    members = _members(path)
    parts = [members.get(key) for key in ("images", "labels", "test_images", "test_labels")]
    if parts[0] is None or parts[1] is None or (parts[2] is None) != (parts[3] is None):
        raise InputError(
            f"'{path}' holds the arrays {', '.join(members) or 'none'}; expected images and labels, "
            "and test_images together with test_labels or neither."
        )
    names = members.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise InputError(f"class_names in '{path}' is {_kind(names)}; expected one text per class.")
    arrays = tuple(part for part in parts if part is not None)
    return load_arrays(path.stem, arrays, settings, class_names=None if names is None else names.tolist())


def _members(path: Path) -> dict[str, np.ndarray]:
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except InputError:
        raise
    except _BROKEN as error:
        if "Object arrays" in str(error):
            raise InputError(
                f"'{path}' holds Python objects (pickle), which could run code; expected plain arrays. "
                "Save images as uint8, labels as int64 and class_names as an array of text."
            ) from None
        raise InputError(
            f"'{path}' is not a readable .npz file (nor a folder); expected one written by "
            "np.savez(path, images=..., labels=...)."
        ) from None


def _check_archive(path: Path) -> None:
    """Refuse what would take far more memory than its file, before it does, and what has changed since it was written.

    numpy reads as much of an array as its header claims, and so may miss the checksum at its end.
    """
    with zipfile.ZipFile(path) as archive:
        size, claimed = path.stat().st_size, sum(member.file_size for member in archive.infolist())
        if claimed > 3 * size + _SPARE:
            raise InputError(
                f"'{path}' has {size:,} bytes and claims arrays of {claimed:,}; expected at most three times the file "
                f"and {_SPARE // 2**20} MB. If that is right, save it uncompressed: np.savez instead of "
                "np.savez_compressed."
            )
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(damaged)


def load_arrays(
    name: str, arrays: Sequence[Any], settings: Data, *, class_names: Sequence[str] | None = None
) -> Dataset:
    """Numpy arrays or tensors: `(images, labels)` or `(images, labels, test_images, test_labels)`.

    Images are uint8 in [0, 255] or float in [0, 1], shaped (n, c, h, w) with c 1 or 3, or (n, h, w); labels
    are integers (n,). Sizes that are not the working size are resized and cropped as pictures are.

    Raises:
        InputError: another number of arrays, another kind, shape or range, or data that `build` refuses.
    """
    if len(arrays) not in (2, 4):
        raise InputError(
            f"Got a tuple of {len(arrays)}; expected (images, labels) or (images, labels, test_images, test_labels)."
        )
    kinds = ("images", "labels", "test_images", "test_labels")
    given = [_as_numpy(value, kind) for value, kind in zip(arrays, kinds, strict=False)]
    splits: list[Split] = []
    for position in range(0, len(given), 2):
        images = _images(given[position], kinds[position])
        splits.append((images, _labels(given[position + 1], kinds[position + 1], len(images))))
    sizes = Counter[tuple[int, int]]()
    for images, _ in splits:
        sizes[images.shape[3], images.shape[2]] += len(images)
    size = working_size(sizes, settings.size)
    notes = [describe(sizes.total(), sizes, size, splits[0][0].shape[1])]
    if any(array.dtype.kind == "f" for array in given[::2]):
        notes.append("float pixels rounded to 8 bits")
    splits = [(resize(images, size), labels) for images, labels in splits]
    return build(
        name,
        splits[0],
        splits[1] if len(splits) > 1 else None,
        class_names=class_names,
        notes=notes,
        test_fraction=settings.test_fraction,
    )


def _as_numpy(value: Any, kind: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # numpy has no bfloat16
    if isinstance(value, np.ndarray):
        return value
    raise InputError(f"{kind} is a {type(value).__name__}; expected a numpy array or a tensor.")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _images(array: np.ndarray, kind: str) -> torch.Tensor:
    """Checked and 8-bit: uint8 (n, c, h, w)."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(f"{kind} is {_kind(array)}; expected uint8 in [0, 255] or float in [0, 1].")
    if array.ndim not in (3, 4):
        raise InputError(f"{kind} is {_kind(array)}; expected {_SHAPES}.")
    if array.ndim == 3:
        array = array[:, None]
    if array.shape[1] not in (1, 3):
        hint = f" Type {kind}.transpose(0, 3, 1, 2) to bring the channels forward." if array.shape[3] in (1, 3) else ""
        raise InputError(f"{kind} is {_kind(array)}; expected {_SHAPES}.{hint}")
    if 0 in array.shape:
        raise InputError(f"{kind} is {_kind(array)}, which is empty; expected {_SHAPES}.")
    return torch.from_numpy(np.array(array, order="C") if array.dtype == np.uint8 else _rounded(array, kind))


def _rounded(array: np.ndarray, kind: str) -> np.ndarray:
    rounded = np.empty(array.shape, dtype=np.uint8)
    not_finite = outside = 0
    for start in range(0, len(array), _CHUNK):
        chunk = array[start : start + _CHUNK]
        finite = np.isfinite(chunk)
        not_finite += int((~finite).sum())
        outside += int((finite & ((chunk < 0) | (chunk > 1))).sum())
        if not not_finite and not outside:
            rounded[start : start + _CHUNK] = (chunk.astype(np.float32) * 255).round()
    if not_finite:
        raise InputError(f"{kind} has {not_finite} pixels that are NaN or infinite; expected floats in [0, 1].")
    if outside:
        raise InputError(
            f"{kind} has {outside} pixels outside [0, 1] ({array.min():g} to {array.max():g}); expected floats in "
            "[0, 1] or uint8. Divide by 255, or undo the normalisation."
        )
    return rounded


def _labels(array: np.ndarray, kind: str, count: int) -> torch.Tensor:
    if array.dtype.kind not in "iu":
        raise InputError(f"{kind} is {_kind(array)}; expected integers. Type {kind}.astype('int64') if they are whole.")
    if array.ndim != 1:
        raise InputError(f"{kind} is {_kind(array)}; expected (n,), one integer per image (argmax(1) if one-hot).")
    if len(array) != count:
        raise InputError(f"{kind} has {len(array)} entries for {count} images; expected one label per image.")
    return torch.from_numpy(array.astype(np.int64))
