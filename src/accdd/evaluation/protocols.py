"""Evaluation protocols by name: how a fresh network is trained on a set before it is tested once."""

import dataclasses

from accdd.config import Train


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A recipe with its origin. The score is the accuracy after the last epoch."""

    name: str
    epochs: int
    """Passes over the decoded set; the learning rate falls to a fifth at 2/3 and again at 5/6."""
    recipe: Train
    source: str
    """Where it comes from."""


IDC = Protocol(
    name="idc",
    epochs=1000,
    recipe=Train(augment=("color", "crop", "scale", "rotate", "flip"), cutmix=0.5),
    source="Kim et al., ICML 2022, released code",
)

PROTOCOLS = {"idc": IDC}

MIRROR_CHANGES_CLASS = ("digits", "mnist", "svhn")
"""Data sets, by name, on which no protocol flips: a mirrored digit is not a digit."""


def suited(protocol: Protocol, data_name: str) -> Protocol:
    """The protocol for this data: without flips where a mirrored picture is of another class or of none."""
    if data_name.lower() not in MIRROR_CHANGES_CLASS:
        return protocol
    names = tuple(name for name in protocol.recipe.augment if name != "flip")
    return dataclasses.replace(protocol, recipe=dataclasses.replace(protocol.recipe, augment=names))
