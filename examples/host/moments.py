"""A host of one's own, in a package of one's own: distribution matching by means and deviations of features.

DM compares where the features of real and synthetic images lie on average. Here their spread is compared, too, so
that images of a class do not all become its mean. That is one function (what of a batch is compared) and one value
(what else distinguishes the host). After `pip install ./examples/host`, accdd finds it by its entry point:

    accdd distill digits --method moments --ipc 5 --out runs/moments

Early-stage models, perturbation and targets work with it as with every host: they are about where networks come from.
"""

import dataclasses

from torch import Tensor

from accdd.methods import DM
from accdd.networks import Forward, Parameters

EPSILON = 1e-6
"""Keeps the derivative of a deviation finite where a feature is the same in all images."""


def moments(forward: Forward, parameters: Parameters, images: Tensor, labels: Tensor) -> Parameters:
    """Mean and deviation of each feature over a batch.

    Args:
        forward: the network as a function of its parameters.
        parameters: its weights.
        images: float (n, c, h, w), normalised and augmented.
        labels: int64 (n,), all of one class; not used.

    Returns:
        Two tensors, (features,) each.
    """
    del labels
    features = forward.embed(parameters, images)
    mean = features.mean(0)
    deviation = ((features - mean).square().mean(0) + EPSILON).sqrt()
    return {"mean": mean, "deviation": deviation}


MOMENTS = dataclasses.replace(DM, summary=moments, source="examples/host of accdd")
