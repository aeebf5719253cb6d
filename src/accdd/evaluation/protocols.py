"""Evaluation protocols by name: how a fresh network is trained on a set before it is tested once."""

import dataclasses
import math

from accdd import augment
from accdd.config import Train


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A recipe with its origin. The score is the accuracy after the last epoch."""

    name: str
    recipe: Train
    """How a network is trained; the learning rate falls to a fifth at 2/3 and again at 5/6 of the epochs."""
    source: str
    """Where it comes from."""
    epochs: int | None = None
    """Passes over the decoded set, or None with `steps`."""
    steps: int | None = None
    """SGD steps instead: epochs then follow from the number of images."""

    def epochs_for(self, count: int) -> int:
        """Passes over `count` decoded images."""
        if self.epochs is not None:
            return self.epochs
        assert self.steps is not None, "a protocol states epochs or steps"
        return max(1, round(self.steps / math.ceil(count / self.recipe.batch)))


IDC = Protocol(
    name="idc",
    epochs=1000,
    recipe=Train(augment=("color", "crop", "scale", "rotate", "flip"), cutmix=0.5),
    source="Kim et al., ICML 2022, released code",
)

QUICK = Protocol(
    name="quick",
    steps=1000,
    recipe=IDC.recipe,
    source="IDC's recipe stopped at about 1,000 steps: `idc` itself up to 64 decoded images, an estimate beyond",
)

PROTOCOLS = {"idc": IDC, "quick": QUICK}


def suited(protocol: Protocol, data_name: str) -> Protocol:
    """The protocol for the data of this name: without flips where a mirrored picture is of another class or of none."""
    names = augment.suited(protocol.recipe.augment, data_name)
    if names == protocol.recipe.augment:
        return protocol
    recipe = dataclasses.replace(protocol.recipe, augment=names)
    return dataclasses.replace(protocol, name=f"{protocol.name}, no flip", recipe=recipe)
