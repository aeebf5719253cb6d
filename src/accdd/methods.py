"""Host methods as values: IDC is gradient matching of convolutions, on multi-formation images, seen through
one siamese draw of color, crop and cutout, with the network trained on real data between sweeps.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from accdd import formation
from accdd.config import Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.matching import DISTANCES, Summary, convolutions, gradient
from accdd.networks import Architecture, Forward


@dataclasses.dataclass(frozen=True)
class Method:
    """What distinguishes one host from another; numbers (steps, sizes, rates) are settings."""

    summary: Summary
    """What of a batch is compared."""
    distance: str
    """How, unless `match.distance` says otherwise: a name from `matching.DISTANCES`."""
    siamese: tuple[str, ...]
    """Augmentations shared by real and synthetic images, unless `match.augment` says otherwise."""
    decode: Callable[[Tensor, int], Tensor]
    """Formation: (stored images (n, c, h, w), factor) -> training images."""
    source: str
    """Where it was published."""


IDC = Method(
    summary=gradient(convolutions),
    distance="mse",
    siamese=("color", "crop", "cutout"),
    decode=formation.decode,
    source="Kim et al., ICML 2022",
)

METHODS = {"idc": IDC}


def problem(settings: Settings, data: Dataset, architecture: Architecture) -> Problem:
    """The method that the (resolved) settings name, put together for some data and network, in fp32."""
    method = METHODS[settings.method]
    assert settings.match.distance and settings.images.factor  # resolved
    return Problem(
        forward=Forward(architecture),
        summary=method.summary,
        distance=DISTANCES[settings.match.distance],
        decode=method.decode,
        factor=settings.images.factor,
        mean=torch.tensor(data.mean, device=data.device),
        std=torch.tensor(data.std, device=data.device),
    )
