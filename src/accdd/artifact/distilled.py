"""The distilled set: a few learned images per class, and what is needed to train on them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from accdd.config import InputError, choose
from accdd.formation import WHOLE, count, decoder

if TYPE_CHECKING:
    from accdd.artifact.batches import Loader

MAX_FACTOR = 8
"""Largest factor accepted, as in `config.Images`: a stranger's file must not make decoding arbitrarily large."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """A distilled set.

    Raises:
        InputError: the values do not fit together, or are out of range.
    """

    images: torch.Tensor
    """Stored images: float32 (n, c, h, w) in [0, 1], on the CPU."""
    labels: torch.Tensor
    """Class index of each stored image: int64 (n,), on the CPU."""
    class_names: tuple[str, ...]
    """One name per class; not necessarily distinct (ImageNet has two of a kind)."""
    mean: tuple[float, ...]
    """Per channel, subtracted from images in [0, 1] before training."""
    std: tuple[float, ...]
    """Per channel, divided by after subtracting the mean."""
    factor: int = 1
    """A stored image decodes into factor x factor images."""
    formation: str = "uniform"
    """How: a name from `formation.WHOLE`; by `multi` also into those of every smaller factor."""
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Where it comes from, as JSON values: method, settings, source, versions, recipe, scores."""

    def __post_init__(self) -> None:
        _check_tensors(self.images, self.labels, len(self.class_names))
        channels = self.images.shape[1]
        if not len(self.mean) == len(self.std) == channels:
            raise InputError(f"mean and std have {len(self.mean)} and {len(self.std)} entries for {channels} channels.")
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(x) and x > 0 for x in self.std):
            raise InputError(f"mean {self.mean} and std {self.std} must be finite, and std > 0.")
        if not 1 <= self.factor <= MAX_FACTOR:
            raise InputError(f"factor is {self.factor}; expected 1 to {MAX_FACTOR}.")
        choose("formation of a distilled set", self.formation, WHOLE)

    @property
    def num_classes(self) -> int:
        """Number of classes, with or without images."""
        return len(self.class_names)

    @property
    def ipc(self) -> int:
        """Stored images per class; of the largest class where they differ."""
        return int(self.labels.bincount().max())

    def decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What a network trains on.

        Returns:
            A 2-tuple of images, float32 (m, c, h, w) in [0, 1], and labels, int64 (m,); m is factor^2 * n but for
            `multi`. All crops of tile position (0, 0) come first; of `multi`, all of the smallest factor.
        """
        # Bilinear resizing may leave [0, 1] by a rounding error; where there is none, a copy protects the set's own.
        images = self._decode(self.images)
        images = images.clamp_(0, 1) if self.factor > 1 else images.clone()
        return images, self.labels.repeat(len(images) // len(self.labels))

    @property
    def count(self) -> int:
        """Number of training images."""
        return count(self._decode, self.images.shape)

    def _decode(self, images: torch.Tensor) -> torch.Tensor:
        return decoder(self.formation, self.factor)(images)

    def to_numpy(self) -> tuple[np.ndarray, np.ndarray]:
        """What `decode` returns, as numpy arrays: float32 (m, c, h, w) and int64 (m,)."""
        images, labels = self.decode()
        return images.numpy(), labels.numpy()

    def as_dataset(self) -> TensorDataset:
        """What `decode` returns, as a `torch.utils.data.Dataset` of pairs (image, label)."""
        return TensorDataset(*self.decode())

    def as_loader(self, batch: int = 64, augment: str | Sequence[str] = "recommended", seed: int = 0) -> "Loader":
        """Batches to train on: decoded, shuffled, normalised by `mean` and `std`, augmented per image.

        Each pass is one epoch: images float32 (b, c, h, w) of about zero mean, labels int64 (b,). Test images must be
        normalised alike. CutMix, which the recommended recipe has too, mixes labels and is left to the caller
        (`accdd.augment.apply_cutmix`).

        Args:
            batch: images per batch; 64 is that of most protocols.
            augment: names from `accdd.augment.NAMES`, or `recommended` for those that the set records.
            seed: decides order and augmentation, together with the number of the epoch.

        Raises:
            InputError: unknown names, or nothing is recorded.
        """
        from accdd.artifact.batches import loader  # batches.py builds on this file

        return loader(self, batch, augment, seed)

    def save(self, path: str | Path) -> None:
        """Write the set as a folder; see `accdd.artifact.save`."""
        from accdd.artifact.format import save  # format.py builds on this file

        save(self, path)


def _check_tensors(images: torch.Tensor, labels: torch.Tensor, num_classes: int) -> None:
    for name, tensor, dtype, dimensions in (("images", images, torch.float32, 4), ("labels", labels, torch.int64, 1)):
        if tensor.dtype != dtype or tensor.ndim != dimensions or tensor.device.type != "cpu" or tensor.requires_grad:
            raise InputError(
                f"{name} are {tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}; "
                f"expected a detached {dtype} tensor with {dimensions} dimensions on the CPU."
            )
    if images.numel() == 0 or len(images) != len(labels):
        raise InputError(f"images of shape {tuple(images.shape)} do not go with {len(labels)} labels.")
    low, high = (float(bound) for bound in images.aminmax())  # NaN anywhere makes both NaN
    if not 0 <= low <= high <= 1:
        raise InputError(f"images reach from {low:.4g} to {high:.4g}; expected finite values in [0, 1].")
    first, last = (int(bound) for bound in labels.aminmax())
    if not 0 <= first <= last < num_classes:
        raise InputError(f"labels reach from {first} to {last}; expected 0 to {num_classes - 1}, one per class name.")
