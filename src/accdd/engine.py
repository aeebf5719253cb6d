"""How a sweep over the classes is executed. Every function here is pure: tensors in, tensors out.

Classes are independent within a sweep, and the real half of a class's step does not see the learned images.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import augment
from accdd.augment import Draw
from accdd.matching import Distance, Summary
from accdd.networks import Forward, Parameters


class Problem(NamedTuple):
    """What stays the same over a run."""

    forward: Forward
    summary: Summary
    distance: Distance
    decode: Callable[[Tensor, int], Tensor]
    factor: int
    mean: Tensor
    """(c,), of real and synthetic pixels in [0, 1]."""
    std: Tensor
    """(c,)."""


class Sweep(NamedTuple):
    """What is drawn for one sweep; leading dimension: classes."""

    real: Tensor
    """int64 (classes, real_batch): indices into the real images."""
    siamese: Draw
    """One augmentation per class, shapes (classes, 1, ...)."""
    subset: Tensor
    """int64 (classes, m): which decoded synthetic images take part."""


def real_half(problem: Problem, parameters: Parameters, images: Tensor, label: Tensor, drawn: Draw) -> Parameters:
    """What a class's real images do to the network.

    Args:
        problem: the fixed pieces.
        parameters: the network.
        images: uint8 or float in [0, 1], (n, c, h, w), of one class.
        label: int64 scalar.
        drawn: one augmentation, shapes (1, ...).

    Returns:
        The summary that the synthetic half is compared with.
    """
    batch = augment.apply(augment.normalise(images, problem.mean, problem.std), drawn)
    return problem.summary(problem.forward, parameters, batch, label.expand(len(batch)))


def synthetic_half(
    problem: Problem,
    parameters: Parameters,
    target: Parameters,
    stored: Tensor,
    label: Tensor,
    drawn: Draw,
    subset: Tensor,
) -> tuple[Tensor, Tensor]:
    """How far a class's synthetic images are from the target, and which way they should go.

    Args:
        problem, parameters, label, drawn: as for `real_half`, with the same draw.
        target: what `real_half` returned.
        stored: float (ipc, c, h, w), in [0, 1] or near it.
        subset: int64 (m,), indices into the decoded images.

    Returns:
        The loss, a scalar, and its gradient, (ipc, c, h, w).
    """

    def loss(stored: Tensor) -> Tensor:
        decoded = problem.decode(stored, problem.factor)[subset]
        batch = augment.apply(augment.normalise(decoded, problem.mean, problem.std), drawn)
        own = problem.summary(problem.forward, parameters, batch, label.expand(len(batch)))
        return problem.distance(target, own)

    slope, value = torch.func.grad_and_value(loss)(stored)
    return value, slope


def sweep(
    problem: Problem, parameters: Parameters, real_images: Tensor, stored: Tensor, drawn: Sweep
) -> tuple[Tensor, Tensor]:
    """Match every class once.

    Args:
        problem, parameters: as for `real_half`.
        real_images: uint8 (n, c, h, w), the whole real set.
        stored: float (classes, ipc, c, h, w).
        drawn: this sweep's draws.

    Returns:
        Losses (classes,) and gradients of the shape of `stored`.
    """
    losses, slopes = [], []
    labels = torch.arange(len(stored), device=stored.device)
    for label, images in enumerate(stored):
        siamese, truth = augment.at(drawn.siamese, label), labels[label]
        target = real_half(problem, parameters, real_images[drawn.real[label]], truth, siamese)
        loss, slope = synthetic_half(problem, parameters, target, images, truth, siamese, drawn.subset[label])
        losses.append(loss)
        slopes.append(slope)
    return torch.stack(losses), torch.stack(slopes)
