"""Choosing real images: the baseline every distilled set is held against, and where learned images start."""

from collections.abc import Callable

import torch
from torch import Tensor

from accdd.keys import Key

Look = Callable[[Tensor], Tensor]
"""(indices (k,) of images) -> what is known of each: features (k, m) or one number (k,), float, on any device. Asked
for one class at a time, so that features of all images are never in memory together."""


def random(class_index: tuple[Tensor, ...], count: int, key: Key) -> Tensor:
    """Random images of each class, without repetition where the class has enough.

    Args:
        class_index: per class the int64 indices of its images, on the CPU.
        count: images per class.
        key: decides the choice.

    Returns:
        int64 (classes, count), on the CPU.
    """
    generator = key.generator("random images")
    return torch.stack([choose(rows, count, generator) for rows in class_index])


def choose(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` entries of `rows` (n,), each as often as every other or once more: once at most where n >= count."""
    passes = [torch.randperm(len(rows), generator=generator) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat(passes)[:count]]


def herding(class_index: tuple[Tensor, ...], count: int, key: Key, look: Look) -> Tensor:
    """Of each class, one after another, the image that brings the mean of those chosen nearest to the class's mean.

    Greedy mean matching (Welling, ICML 2009), without repetition. The first is the image nearest to the mean.

    Args:
        class_index, count, key: as for `random`; nothing is drawn. `count` is at most the smallest class's images.
        look: features.

    Returns:
        As `random`, in the order of choice.
    """
    del key

    def of_class(features: Tensor) -> list[int]:
        away = features - features.mean(0)  # (k, m)
        squares, total = away.square().sum(1), torch.zeros_like(away[0])
        chosen: list[int] = []
        for _ in range(count):
            # |total + away|^2 but for the same |total|^2 in all of them.
            rated = squares + 2 * (away @ total)
            rated[chosen] = torch.inf
            chosen.append(int(rated.argmin()))
            total = total + away[chosen[-1]]
        return chosen

    return torch.stack([rows[of_class(look(rows))] for rows in class_index])


def kcenter(class_index: tuple[Tensor, ...], count: int, key: Key, look: Look) -> Tensor:
    """Of each class, one after another, the image farthest from all that are chosen.

    Greedy k-center (Sener & Savarese, ICLR 2018), begun with the image nearest to the class's mean, where theirs
    begins with labelled ones. Without repetition.

    Args, returns: as for `herding`.
    """
    del key

    def of_class(features: Tensor) -> list[int]:
        chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
        nearest = features.new_full((len(features),), torch.inf)
        while len(chosen) < count:
            nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
            nearest[chosen] = -1  # below every distance, so that copies of an image are chosen after all others
            chosen.append(int(nearest.argmax()))
        return chosen

    return torch.stack([rows[of_class(look(rows))] for rows in class_index])


def highest(class_index: tuple[Tensor, ...], count: int, key: Key, look: Look) -> Tensor:
    """The images of each class of the highest values; of equal ones in random order.

    Args:
        class_index, count: as for `herding`.
        key: decides between equal values.
        look: one number per image.

    Returns:
        As `random`, highest first.
    """
    generator = key.generator("equal values")
    mixed = [rows[torch.randperm(len(rows), generator=generator)] for rows in class_index]
    return torch.stack([rows[look(rows).cpu().argsort(descending=True, stable=True)[:count]] for rows in mixed])


def forgotten(correct: Tensor) -> Tensor:
    """How often each image was forgotten: right at one look and wrong at the next (Toneva et al., ICLR 2019).

    Args:
        correct: bool (looks, n), whether each image was classified correctly, in order of training.

    Returns:
        int64 (n,). An image that was never right counts as forgotten at every look, more often than any other can be.
    """
    events = (correct[:-1] & ~correct[1:]).sum(0)
    return torch.where(correct.any(0), events, len(correct))


def error_norm(probabilities: Tensor, labels: Tensor) -> Tensor:
    """EL2N: the norm of predicted probabilities minus the one-hot label, averaged over networks.

    Paul et al., NeurIPS 2021, with ten networks early in training.

    Args:
        probabilities: float (networks, n, classes).
        labels: int64 (n,).

    Returns:
        float (n,), from 0 to the square root of 2.
    """
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[-1])
    return (probabilities - truth).norm(dim=-1).mean(0)
