"""The one loop that trains classifiers: the pool, the network inside the loop, and evaluation all use it."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from accdd import augment
from accdd.config import Train
from accdd.keys import Key
from accdd.networks import Forward, Parameters

DECAY = 0.2
"""Factor on the learning rate at two thirds and again at five sixths of a schedule."""


def optimiser(parameters: Parameters, recipe: Train) -> torch.optim.SGD:
    """SGD over the parameters, which become leaves that require gradients."""
    for value in parameters.values():
        value.requires_grad_(True)
    return torch.optim.SGD(
        parameters.values(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def decay(optimiser: torch.optim.Optimizer, recipe: Train, epoch: int, schedule: int) -> None:
    """Set the learning rate for `epoch` (from 0) of a `schedule` of that many epochs."""
    decays = (epoch >= 2 * schedule // 3) + (epoch >= 5 * schedule // 6)
    for group in optimiser.param_groups:
        group["lr"] = recipe.lr * DECAY**decays


def train(
    forward: Forward,
    parameters: Parameters,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    order: Tensor,
    *,
    recipe: Train,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
    key: Key,
) -> Iterator[Tensor]:
    """Train on `images[order]` in batches, one SGD step each.

    Args:
        forward: the network's function.
        parameters: its weights, changed in place; leaves of `optimiser`.
        optimiser: from `optimiser`; keeps its momentum between calls.
        images: uint8 or float in [0, 1], (n, c, h, w).
        labels: int64 (n,).
        order: int64 indices into images, in the order they are seen; a short last batch is used too.
        recipe: batch size, augmentation and CutMix.
        mean, std: normalisation per channel.
        num_classes: width of the targets.
        key: where the augmentation's draws come from.

    Yields:
        The loss after each step, a scalar tensor.
    """
    batches = order.to(images.device).split(recipe.batch)
    shift, scale = (torch.tensor(each, device=images.device) for each in (mean, std))
    size = images.shape[-1]
    # Drawn for the whole call at once, so they depend on the key and on the number of batches, and nothing else.
    shape = (len(batches), recipe.batch)
    drawn = augment.to(augment.draw(recipe.augment, shape, size, key.generator("augment")), images.device)
    mixed = augment.to(augment.draw_cutmix(recipe.cutmix, *shape, size, key.generator("cutmix")), images.device)
    for step, rows in enumerate(batches):
        batch = augment.normalise(images[rows], shift, scale)
        batch = augment.apply(batch, augment.at(drawn, step, slice(len(rows))))
        targets = F.one_hot(labels[rows], num_classes).to(batch.dtype)
        if recipe.cutmix > 0:
            batch, targets = augment.apply_cutmix(batch, targets, augment.at(mixed, step))
        loss = F.cross_entropy(forward(parameters, batch), targets)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for value, gradient in zip(parameters.values(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()
        yield loss.detach()


@torch.no_grad()
def accuracy(
    forward: Forward,
    parameters: Parameters,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch: int | None = None,
) -> float:
    """Share of correct predictions, in percent, on images uint8 or float in [0, 1], (n, c, h, w).

    `batch` images at a time; None is 500 of 32 pixels or as many as fill the same memory.
    """
    batch = batch or max(1, 500 * 32**2 // images.shape[-1] ** 2)
    shift, scale = (torch.tensor(each, device=images.device) for each in (mean, std))
    correct = torch.zeros((), dtype=torch.int64, device=images.device)
    for pictures, truth in zip(images.split(batch), labels.split(batch), strict=True):
        logits = forward(parameters, augment.normalise(pictures, shift, scale))
        correct += (logits.argmax(1) == truth).sum()
    return 100 * correct.item() / len(labels)
