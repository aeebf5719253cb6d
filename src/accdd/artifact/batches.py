"""A distilled set as batches for somebody's own training loop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from accdd import augment
from accdd.artifact.distilled import Distilled
from accdd.config import InputError
from accdd.keys import Key


class Loader:
    """Shuffled, normalised and augmented batches; every pass over it is one epoch with draws of its own.

    Order and augmentation follow from the seed and the number of the epoch alone, so epoch 7 is the same in every
    process; set `epoch` to go on from anywhere.
    """

    def __init__(self, distilled: Distilled, batch: int, names: Sequence[str], one_of: bool, seed: int) -> None:
        self.images, self.labels = distilled.decode()
        self.mean, self.std = torch.tensor(distilled.mean), torch.tensor(distilled.std)
        self.batch, self.names, self.one_of, self.seed = batch, names, one_of, seed
        self.epoch = 0
        """Number of the next pass."""

    def __len__(self) -> int:
        """Batches of a pass; the last may be short."""
        return -(-len(self.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        key, self.epoch = Key(self.seed).at("loader", self.epoch), self.epoch + 1
        order = torch.randperm(len(self.labels), generator=key.generator("order"))
        drawn = augment.draw(
            self.names, (len(self), self.batch), self.images.shape[-1], key.generator("augment"), one_of=self.one_of
        )
        for number, rows in enumerate(order.split(self.batch)):
            own = augment.at(drawn, number, slice(len(rows)))
            yield augment.augmented(self.images[rows], own, self.mean, self.std), self.labels[rows]


def loader(distilled: Distilled, batch: int, augmentations: str | Sequence[str], seed: int) -> Loader:
    """See `Distilled.as_loader`."""
    if batch < 1:
        raise InputError(f"batch={batch}: expected at least 1 image.")
    recipe: Mapping[str, Any] = {"augment": augmentations}
    if augmentations == "recommended":
        recipe = distilled.info.get("recipe") or {}
    names = recipe.get("augment") if isinstance(recipe, Mapping) else None
    if isinstance(names, str) or not isinstance(names, Sequence):
        given = f"augment={augmentations!r}"
        if augmentations == "recommended":
            given += ", and the set records no recommendation"
        raise InputError(f"{given}. Expected a tuple with any of: {', '.join(augment.NAMES)}; or () for none.")
    augment.check(names)
    return Loader(distilled, batch, tuple(names), bool(recipe.get("one_of", False)), seed)
