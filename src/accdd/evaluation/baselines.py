"""Baselines at the same number of stored images: real images chosen by rule, and the whole set, beside a distilled one.

All of a baseline's networks begin where those of the distilled set begin, and are tested on the same images, so that
differences are paired. A real pixel is a byte and a learned one four: what each takes is said in bytes, too.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import augment, config, execution, selection
from accdd import augmented_models as models
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.evaluation.metrics import storage
from accdd.evaluation.protocols import WHOLE, Case, Protocol, suited
from accdd.evaluation.scores import Score, score
from accdd.evaluation.trials import USUAL, Way
from accdd.keys import Key
from accdd.networks import Architecture, Forward, Parameters, calibrated
from accdd.selection import Look
from accdd.training import Report

FORGETTING_EPOCHS = 10
"""Epochs over which forgetting is counted; Toneva et al. count over 200."""


@dataclasses.dataclass(frozen=True)
class Real:
    """Real images to choose from, and the early-stage models to look at them with, trained or found when asked for."""

    data: Dataset
    architecture: Architecture
    """Of the networks that look."""
    settings: Settings
    """`train`, `pool` (its epochs resolved), `precision` and `compile` decide how they are trained."""
    report: Report = lambda share: None

    @functools.cached_property
    def networks(self) -> list[Parameters]:
        """The pool's networks, each at its last epoch."""
        built = models.load_or_build(self.data, self.architecture, self.settings, self.report).models
        return [self._calibrated(one.parameters) for one in {each.network: each for each in built}.values()]

    @functools.cached_property
    def course(self) -> list[Parameters]:
        """One network after each of `FORGETTING_EPOCHS` epochs."""
        epochs = [float(epoch + 1) for epoch in range(FORGETTING_EPOCHS)]
        own = {"pool.networks": 1, "pool.epochs": epochs, "pool.draw": None, "pool.schedule": "falling"}  # to converge
        settings = config.override(self.settings, own)
        built = models.load_or_build(self.data, self.architecture, settings, self.report).models
        return [self._calibrated(each.parameters) for each in built]

    def pixels(self, rows: Tensor) -> Tensor:
        """Normalised images, float (k, c, h, w)."""
        pictures = execution.gather(self.data.images, rows, self.data.device)
        return augment.normalise(pictures, self.data.mean, self.data.std)

    def _calibrated(self, parameters: Parameters) -> Parameters:
        """With statistics for BatchNorm of 512 random training images, so that a look does not depend on its batch."""
        chosen = torch.randperm(len(self.data.images), generator=Key(0).generator("statistics"))[:512]
        return calibrated(Forward(self.architecture), parameters, [self.pixels(chosen)])


Choice = Callable[[Dataset, int, Key, Look], Tensor]
"""(data, count, key, look) -> int64 (classes, count), on the CPU."""


class Baseline(NamedTuple):
    """Real images chosen by a rule."""

    choose: Choice
    sees: Callable[[Real], Look]
    """What the rule is told of the images."""
    drawn: bool = False
    """Chosen anew for every network; otherwise the same images for all."""


@torch.no_grad()
def in_batches(real: Real, rows: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """`of` normalised images `rows`, a few at a time, which is a (k, ...) tensor."""
    few = max(1, 500 * 32**2 // real.data.size**2)
    return torch.cat([of(real.pixels(some)) for some in rows.split(few)])


def nothing(real: Real) -> Look:
    """For rules that look at nothing."""
    del real
    return lambda rows: torch.zeros(len(rows))


def pixels(real: Real) -> Look:
    """Normalised pixels, (k, c h w)."""
    return lambda rows: real.pixels(rows).flatten(1)


def embeddings(real: Real) -> Look:
    """What the classifiers of the early-stage models see, one beside the other, (k, networks x m)."""
    forward = Forward(real.architecture)

    def look(rows: Tensor) -> Tensor:
        return torch.cat([in_batches(real, rows, functools.partial(forward.embed, one)) for one in real.networks], 1)

    return look


def errors(real: Real) -> Look:
    """`selection.error_norm` of the early-stage models, (k,)."""
    forward = Forward(real.architecture)

    def look(rows: Tensor) -> Tensor:
        logits = [in_batches(real, rows, functools.partial(forward, one)) for one in real.networks]
        return selection.error_norm(torch.stack(logits).softmax(-1), real.data.labels[rows.to(real.data.device)])

    return look


def forgetting(real: Real) -> Look:
    """`selection.forgotten` after each epoch of a short training, (k,); Toneva et al. look at every step's batch."""
    forward = Forward(real.architecture)

    def look(rows: Tensor) -> Tensor:
        labels = real.data.labels[rows.to(real.data.device)]
        logits = [in_batches(real, rows, functools.partial(forward, one)) for one in real.course]
        return selection.forgotten(torch.stack([each.argmax(1) == labels for each in logits]))

    return look


def blind(choose: Callable[[Dataset, int, Key], Tensor]) -> Choice:
    """A choice that is told nothing."""
    return lambda data, count, key, look: choose(data, count, key)


def by_rule(rule: Callable[[tuple[Tensor, ...], int, Key, Look], Tensor]) -> Choice:
    """A choice by what is known of each image, class by class."""
    return lambda data, count, key, look: rule(data.class_index, count, key, look)


BASELINES: Mapping[str, Baseline] = {
    "random": Baseline(blind(selection.random), nothing, drawn=True),
    "kmeans": Baseline(blind(selection.kmeans), nothing),
    "herding": Baseline(by_rule(selection.herding), embeddings),
    "herding-pixels": Baseline(by_rule(selection.herding), pixels),
    "kcenter": Baseline(by_rule(selection.kcenter), embeddings),
    "kcenter-pixels": Baseline(by_rule(selection.kcenter), pixels),
    "forgetting": Baseline(by_rule(selection.highest), forgetting),
    "el2n": Baseline(by_rule(selection.highest), errors),
}


def chosen(name: str, real: Real, count: int, key: Key, networks: int) -> Tensor:
    """Which real images a baseline trains each network on.

    Args:
        name: a key of `BASELINES`.
        real: what to choose from.
        count: images per class.
        key: decides draws.
        networks: how many networks are to be trained.

    Returns:
        int64 (networks, classes * count), on the CPU.

    Raises:
        InputError: no such baseline, or a class has fewer images.
    """
    baseline = config.choose("baseline", name, BASELINES)
    check_enough(real.data, count)
    looked = baseline.sees(real)
    keys = [key.at(name, draw) for draw in range(networks if baseline.drawn else 1)]
    rows = [baseline.choose(real.data, count, each, looked).flatten() for each in keys]
    return torch.stack(rows).expand(networks, -1)


_OTHERWISE = "--data DATA (data=... in Python) with more images, or no --baselines"


def check_enough(data: Dataset, count: int, otherwise: str = _OTHERWISE) -> None:
    """Refuse to choose more images than a class has with an `InputError`, which says what was expected `otherwise`."""
    sizes = [len(rows) for rows in data.class_index]
    if min(sizes) < count:
        short = data.class_names[sizes.index(min(sizes))]
        raise InputError(
            f"The set stores {count} images per class, and class '{short}' has only {min(sizes)} training images to "
            f"choose from. Expected {otherwise}."
        )


def beside(
    name: str,
    data: Dataset,
    rows: Tensor,
    test: Dataset,
    architecture: Architecture,
    protocol: Protocol,
    way: Way = USUAL,
    *,
    keys: Sequence[Key],
    report: Report = lambda share: None,
) -> Score:
    """The score of a baseline.

    Args:
        name: a key of `BASELINES`.
        data, rows: the training set, and what was `chosen` of it.
        test: where it is tested.
        architecture, protocol, way, keys, report: as for `score`: the same as for the set that it stands beside.
    """
    found = score(
        name, data.images, data.labels, test, architecture, protocol, way,
        mean=data.mean, std=data.std, keys=keys, rows=rows, content=data.fingerprint, report=report,
    )  # fmt: skip
    count = rows.shape[1]
    return dataclasses.replace(found, bytes=storage(data.images[:count], data.labels[:count]))


def whole(
    data: Dataset,
    test: Dataset,
    architecture: Architecture,
    way: Way = USUAL,
    *,
    keys: Sequence[Key],
    report: Report = lambda share: None,
) -> Score:
    """The score of the whole training set by the protocol `whole`, an upper bound; from the cache or trained now.

    Args:
        data: the training set.
        test: where it is tested.
        architecture, way, keys, report: as for `score`.
    """
    found = score(
        "whole", data.images, data.labels, test, architecture, suited(WHOLE, Case(data.name)), way,
        mean=data.mean, std=data.std, keys=keys, content=data.fingerprint, report=report,
    )  # fmt: skip
    return dataclasses.replace(found, bytes=storage(data.images, data.labels))
