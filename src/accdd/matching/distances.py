"""How two gradients (or other summaries) are compared, summed over tensors: (real, synthetic) -> scalar.

Sums, not means, as in the released codes: the image step size is therefore tied to the network's size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from accdd.networks import Parameters

Distance = Callable[[Parameters, Parameters], Tensor]


def mse(real: Parameters, synthetic: Parameters) -> Tensor:
    """Sum of squared differences (IDC on CIFAR and SVHN)."""
    return sum((F.mse_loss(synthetic[name], real[name], reduction="sum") for name in real), start=_zero(real))


def l1(real: Parameters, synthetic: Parameters) -> Tensor:
    """Sum of absolute differences (IDC on MNIST, Fashion-MNIST and ImageNet)."""
    return sum((F.l1_loss(synthetic[name], real[name], reduction="sum") for name in real), start=_zero(real))


def cosine(real: Parameters, synthetic: Parameters) -> Tensor:
    """1 - cosine of each output row, summed over rows and tensors (DC's "ours", with its constant in the divisor)."""
    return sum((_angles(real[name], synthetic[name]).sum() for name in real), start=_zero(real))


DISTANCES: dict[str, Distance] = {"mse": mse, "l1": l1, "cosine": cosine}


def _angles(real: Tensor, synthetic: Tensor) -> Tensor:
    """1 - cosine of each row of two tensors (rows, ...); one without rows is a row."""
    real, synthetic = (each.flatten(1) if each.ndim > 1 else each[None] for each in (real, synthetic))
    lengths = torch.linalg.vector_norm(real, dim=1) * torch.linalg.vector_norm(synthetic, dim=1)
    return 1 - (real * synthetic).sum(1) / (lengths + 1e-6)


def _zero(tensors: Parameters) -> Tensor:
    return next(iter(tensors.values())).new_zeros(())
