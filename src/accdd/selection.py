"""Choosing real images: the baseline every distilled set is held against, and where learned images start."""

import torch
from torch import Tensor

from accdd.keys import Key


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
