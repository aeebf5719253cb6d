"""Where the next network comes from. Model augmentation is a choice of source, so any host can use it.

A source is called with a key and returns parameters that are the caller's own to train. The paper is
`Perturbed(EarlyStage(pool), settings)`; its host without it is `Fresh(architecture)`.
"""

import dataclasses
from collections.abc import Callable

import torch

from accdd.augmented_models.perturb import perturb
from accdd.augmented_models.pool import EarlyStageModel, ModelPool, kept
from accdd.config import Perturb, Settings
from accdd.keys import Key
from accdd.networks import Architecture, Parameters

Source = Callable[[Key], Parameters]


@dataclasses.dataclass(frozen=True)
class Fresh:
    """A newly initialised network every time."""

    architecture: Architecture
    device: torch.device

    def __call__(self, key: Key) -> Parameters:
        return self.architecture.initialise(key, self.device)


@dataclasses.dataclass(frozen=True)
class EarlyStage:
    """A copy of a uniformly drawn member of the pool."""

    pool: tuple[EarlyStageModel, ...]

    def __call__(self, key: Key) -> Parameters:
        member = torch.randint(len(self.pool), (), generator=key.generator("pool member")).item()
        return {name: value.clone() for name, value in self.pool[int(member)].parameters.items()}


@dataclasses.dataclass(frozen=True)
class Perturbed:
    """Wraps another source, to move each network it gives by a small random step."""

    source: Source
    settings: Perturb

    def __call__(self, key: Key) -> Parameters:
        return perturb(self.source(key), self.settings, key.generator("perturbation"))


def source(architecture: Architecture, device: torch.device, settings: Settings, pool: ModelPool | None) -> Source:
    """What the settings ask for: the pool, or fresh networks without one; perturbed or not.

    Networks with a warm-up are perturbed after it (`loop.warming`), since training would undo it.
    """
    networks = EarlyStage(drawn(pool, settings)) if pool else Fresh(architecture, device)
    at_once = settings.perturb.use and not settings.loop.warm_up
    return Perturbed(networks, settings.perturb) if at_once else networks


def drawn(pool: ModelPool, settings: Settings) -> tuple[EarlyStageModel, ...]:
    """The members of a pool that networks are drawn from."""
    wanted = settings.pool.draw or kept(settings)
    return tuple(member for member in pool.models if member.epoch in wanted)
