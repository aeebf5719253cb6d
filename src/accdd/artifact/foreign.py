"""Tensors of other programs' files, brought to what a distilled set has: pixels in [0, 1] and hard labels."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accdd.artifact import torch_file
from accdd.artifact.torch_archive import refused
from accdd.artifact.torch_file import Stored
from accdd.config import LARGEST, SMALLEST, InputError
from accdd.data import NAMED

MAX_OUTSIDE = 1 / 3
"""Share of pixels that may lie outside [0, 1]; about half of what is still normalised does."""

_MAX_CLASSES = 100_000  # each becomes a name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What the user says of a file, as for `import_set`."""

    labels: Path | None = None
    index: int | None = None
    factor: int | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zca: Path | None = None
    as_is: bool = False


@dataclasses.dataclass(kw_only=True)
class Contents:
    """What a file holds."""

    images: Tensor
    """float32 (n, c, h, w): pixels, in [0, 1] but for some."""
    labels: Tensor
    """int64 (n,)."""
    classes: int | None = None
    """As soft labels or class folders tell; None follows from the labels."""
    class_names: tuple[str, ...] | None = None
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and std that go with the images; None is what the user says, or is measured."""
    notes: list[str] = dataclasses.field(default_factory=list)


def pair(path: Path, entry: Any, label_file: Path | None = None) -> Contents:
    """Images and labels as they come, checked for kind and shape."""
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(isinstance(each, Stored) for each in entry):
        raise refused(path, "it holds no pair of tensors, images and labels, where such a set has one")
    stored, stored_labels = entry
    shape, n = stored.shape, (stored.shape or (0,))[0]
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or not SMALLEST <= shape[2] <= LARGEST:
        expected = f"(n, c, h, w) with c 1 or 3 and h = w, {SMALLEST} to {LARGEST}"
        raise refused(path, f"images have the shape {list(shape)}; expected {expected}")
    if not stored.dtype.is_floating_point:
        raise refused(path, f"images are {stored.dtype}; expected floating-point numbers")
    labels_shape = stored_labels.shape
    if len(labels_shape) not in (1, 2) or labels_shape[0] != n or max(labels_shape[1:], default=0) > _MAX_CLASSES:
        raise refused(label_file or path, f"labels have the shape {list(labels_shape)} for {n} images")
    found = Contents(images=stored.read().float(), labels=stored_labels.read())
    _settle_labels(label_file or path, found)
    return found


def _settle_labels(path: Path, found: Contents) -> None:
    """Whole numbers, from soft labels by their largest entry."""
    labels = found.labels
    if labels.ndim == 2:
        found.classes = labels.shape[1]
        found.labels = labels.float().argmax(1)
        found.notes.append("soft labels replaced by their largest entry: accdd's sets have hard labels")
    elif labels.is_floating_point():
        raise refused(path, f"labels are {labels.dtype} of shape (n,); expected integers, or (n, classes)")
    else:
        found.labels = labels.long()


def denormalise(path: Path, found: Contents, told: Told) -> None:
    """Undo (pixels - mean) / std, in place."""
    channels = found.images.shape[1]
    if told.mean is None or told.std is None:
        raise InputError(f"{path} holds normalised images. Expected {constants(channels)}.")
    _check_channels(told, channels)
    mean, std = (torch.tensor(each)[:, None, None] for each in (told.mean, told.std))
    found.images.mul_(std).add_(mean)


def _check_channels(told: Told, channels: int) -> None:
    if told.mean is not None and told.std is not None and not len(told.mean) == len(told.std) == channels:
        raise InputError(
            f"--mean and --std have {len(told.mean)} and {len(told.std)} numbers for images of {channels} channels. "
            "Expected one per channel."
        )


def constants(channels: int) -> str:
    """What to type for the data sets that the field normalises."""
    known = (
        f"--mean {','.join(map(str, facts.mean))} --std {','.join(map(str, facts.std))} for {facts.title}"
        for facts in NAMED.values()
        if len(facts.mean) == channels
    )
    return f"the constants they were normalised by ({'; '.join(known)})"


def stretch(found: Contents) -> None:
    """To [0, 1] by one line for all pixels, with the mean and std that undo it."""
    low, high = (float(bound) for bound in found.images.aminmax())
    spread = (high - low) or 1.0
    found.images.sub_(low).div_(spread).clamp_(0, 1)
    channels = found.images.shape[1]
    found.moments = ((-low / spread,) * channels, (1 / spread,) * channels)
    found.notes.append(
        "kept whitened: a network trained on it sees what it saw before, and must be tested on images whitened "
        "alike; scores on plain images say nothing of the set"
    )


def colour(path: Path, found: Contents, zca: Path) -> None:
    """Undo whitening: pixels = whitened @ transform_inv + mean_vector, on flattened images (kornia)."""
    tree, d = torch_file.read(zca), found.images[0].numel()
    parts = [tree.get(name) if isinstance(tree, dict) else None for name in ("mean_vector", "transform_inv")]
    if [part.shape if isinstance(part, Stored) else None for part in parts] != [(1, d), (d, d)]:
        raise refused(
            zca, f"it is not {{'mean_vector': (1, {d}), 'transform_inv': ({d}, {d})}}, the whitening of {path.name}"
        )
    mean, inverse = (part.read().float() for part in parts if isinstance(part, Stored))
    found.images = (found.images.flatten(1) @ inverse + mean).reshape(found.images.shape)
    found.notes.append("whitening undone")


def clamp(path: Path, found: Contents) -> None:
    """To [0, 1], noting what that changes; refused where the images are plainly in other units."""
    images = found.images
    low, high = (float(bound) for bound in images.aminmax())
    if not math.isfinite(low) or not math.isfinite(high):  # in 32 bits
        raise refused(path, f"pixels reach from {low} to {high}")
    outside = int(((images < 0) | (images > 1)).sum()) / images.numel()
    if outside > MAX_OUTSIDE:
        raise InputError(
            f"{path}: pixels reach from {low:.3g} to {high:.3g}, {100 * outside:.0f} % of them outside [0, 1]. The "
            "images are normalised or whitened otherwise than was said. Expected another --from, or other constants "
            f"({constants(images.shape[1])})."
        )
    if outside:
        images.clamp_(0, 1)
        furthest = max(-low, high - 1)
        found.notes.append(f"{100 * outside:.2g} % of the pixels were outside [0, 1], by up to {furthest:.2g}: clamped")


def moments(found: Contents, told: Told) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for training: told, or measured."""
    _check_channels(told, found.images.shape[1])
    if told.mean is not None and told.std is not None:
        return told.mean, told.std
    std, mean = torch.std_mean(found.images, dim=(0, 2, 3), correction=0)
    found.notes.append("mean and std measured on these images; --mean and --std of the real data are better")
    return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())
