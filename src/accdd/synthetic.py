"""The synthetic set: learned images, (classes, ipc, c, h, w) in [0, 1], whose labels are their first index."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from accdd import execution, formation, selection
from accdd.data import Dataset
from accdd.keys import Key


def start(
    data: Dataset, kind: str, *, ipc: int, factor: int, shrink: str, key: Key, classes: slice = slice(None)
) -> Tensor:
    """Images to begin from.

    Args:
        data: the real set.
        kind: `noise` is N(0.5, 0.25^2), clamped; `normal` is N(mean, std^2) per channel of the data, not clamped (DC);
            `random` is one real image each; `mixed` is factor^2 real images each, shrunk into the tiles that decoding
            cuts; `kmeans` is `mixed` of the images that k-means chooses and not of random ones.
        ipc: images per class.
        factor: tiles per side.
        shrink: how `mixed` and `kmeans` shrink, see `formation.encode`.
        key: decides the draws.
        classes: whose images; those of each are the same whichever others there are.

    Returns:
        float32 (classes, ipc, c, h, w) in [0, 1] (but for `normal`), on the data's device.
    """
    shape = (data.num_classes, ipc, data.channels, data.size, data.size)
    if kind in ("noise", "normal"):
        noise = torch.randn(shape, generator=key.generator("noise"))[classes].to(data.device)
        if kind == "noise":
            return (0.5 + 0.25 * noise).clamp(0, 1)
        mean, std = (noise.new_tensor(each)[:, None, None] for each in (data.mean, data.std))
        return mean + std * noise
    factor = 1 if kind == "random" else factor
    select = selection.kmeans if kind == "kmeans" else selection.random
    chosen = select(data, formation.count(lambda stored: formation.decode(stored, factor), shape[1:]), key)
    # Class by class: factor^2 real images for each stored one would fill the memory.
    gathered = (execution.gather(data.images, rows, data.device).float() / 255 for rows in chosen[classes])
    shrunk = [formation.encode(images, factor, shrink) for images in gathered]
    return torch.stack(shrunk).clamp(0, 1)


StepRule = Callable[[float, float, Dataset, int, int | None], tuple[float | Tensor, float]]
"""(lr, momentum, data, ipc, base size) as released -> lr and momentum of the same SGD on [0, 1] pixels each sweep."""


def after_every_class(
    lr: float, momentum: float, data: Dataset, ipc: int, base_size: int | None
) -> tuple[float | Tensor, float]:
    """IDC's and AccDD's: pixels in [0, 1], `effective_lr`, one step of all images after every class."""
    lr = effective_lr(lr, ipc=ipc, size=data.size, base_size=base_size)
    return per_sweep(lr, momentum, data.num_classes)


def after_every_sweep(
    lr: float, momentum: float, data: Dataset, ipc: int, base_size: int | None
) -> tuple[float | Tensor, float]:
    """DC's, DSA's and DM's: normalised pixels, one step a sweep.

    A pixel is std times a normalised one, and so is its step; its gradient is that of the normalised one over std:
    so the same step is std^2 times as large, per channel.
    """
    del ipc, base_size
    return lr * torch.tensor(data.std, device=data.device)[:, None, None] ** 2, momentum


def effective_lr(base: float, *, ipc: int, size: int, base_size: int | None) -> float:
    """IDC's step size: in proportion to images per class, and to pixels against those of `base_size` (if any)."""
    return base * (ipc / 10) * (size / (base_size or size)) ** 2


def per_sweep(lr: float, momentum: float, num_classes: int) -> tuple[float, float]:
    """The SGD that steps once per sweep where the reference steps all images after every class.

    One SGD(lr, mu) over all N classes' images after each class lets a class's images drift on leftover momentum
    while the others take their turns. Seen at its own turn, a class moves exactly as with momentum mu^N and step
    lr (1 - mu^N) / (1 - mu), whatever the other classes do: so the classes of a sweep are independent.
    N is the data set's number of classes, also where only some of them are at hand.
    """
    left = momentum**num_classes
    return lr * (1 - left) / (1 - momentum), left


def normalised(slopes: Tensor) -> Tensor:
    """Gradients (classes, ipc, c, h, w), those of each class divided by their root mean square.

    How large a gradient is depends on the network, the distance and the real batch rather than on how far the images
    have to go; without this, the networks with the largest gradients decide.
    """
    square = slopes.square().mean((1, 2, 3, 4), keepdim=True)
    # Below the root of the smallest number squares are lost: such images are nearly where they should be, and stay.
    return slopes / square.sqrt().clamp(min=torch.finfo(slopes.dtype).tiny ** 0.5)


def scheduled(schedule: str, share: float) -> float:
    """The factor on the step size when `share` of the run is over: 1, or half a cosine from 1 down to 0."""
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * min(share, 1.0))) / 2


def descend(
    images: Tensor, velocity: Tensor, gradient: Tensor, lr: float | Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """One SGD step: the new images and the new velocity, all of the images' shape."""
    velocity = momentum * velocity + gradient
    return images - lr * velocity, velocity
