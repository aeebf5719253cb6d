"""Gradient matching (DC, Zhao et al., ICLR 2021): what a batch would do to a network's weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from accdd.networks import Forward, Parameters

Summary = Callable[[Forward, Parameters, Tensor, Tensor], Parameters]
"""(forward, parameters, images (n, c, h, w) normalised, labels (n,)) -> the tensors that are compared."""


def averaging(summary: Summary) -> Summary:
    """Say of a summary that it is the mean of what it would be of each image alone. A decorator.

    A class whose images would take too much memory is then matched in parts.
    """
    summary.averages = summary  # not True: what wraps a function takes over its attributes
    return summary


def averages(summary: Summary) -> bool:
    """Whether that is said of it."""
    return getattr(summary, "averages", None) is summary


def convolutions(name: str, value: Tensor) -> bool:
    """Match convolution weights only, as IDC and AccDD do: no biases, norms or classifier."""
    del name
    return value.ndim == 4


def weights(name: str, value: Tensor) -> bool:
    """Match all weights, the classifier's too, as DC and DSA do: no biases and norms."""
    del name
    return value.ndim > 1


def gradient(matched: Callable[[str, Tensor], bool]) -> Summary:
    """The gradient of the mean cross-entropy in the matched parameters. Differentiable again in the images.

    Where none is matched, all of two or more dimensions are.
    """

    @averaging
    def summary(forward: Forward, parameters: Parameters, images: Tensor, labels: Tensor) -> Parameters:
        fixed = {name: value.detach() for name, value in parameters.items()}
        chosen = {name: value for name, value in fixed.items() if matched(name, value)}
        if not chosen:  # a network without convolutions, as an MLP or a transformer, of which no source speaks
            chosen = {name: value for name, value in fixed.items() if value.ndim > 1}

        def loss(weights: Parameters) -> Tensor:
            return F.cross_entropy(forward(fixed | weights, images), labels)

        return torch.func.grad(loss)(chosen)

    return summary
