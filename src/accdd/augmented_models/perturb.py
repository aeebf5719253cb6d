"""Parameter perturbation: theta' = theta + sum_j a_j d_j (AccDD section 3; directions of Li et al., NeurIPS 2018)."""

import torch
from torch import Tensor

from accdd.config import Perturb
from accdd.networks import Parameters


def perturb(parameters: Parameters, settings: Perturb, generator: torch.Generator) -> Parameters:
    """A copy of the parameters, moved. Tensors of one dimension (biases, norms) stay where they are.

    Args:
        parameters: never changed.
        settings: number of directions, range of |a_j| (its sign is random), normalisation.
        generator: CPU generator.

    Returns:
        New tensors on the same device.
    """
    low, high = settings.magnitude
    size = torch.rand(settings.directions, generator=generator) * (high - low) + low
    sign = torch.randint(2, (settings.directions,), generator=generator) * 2 - 1
    coefficients = (size * sign).tolist()
    moved = {name: value.clone() for name, value in parameters.items()}
    for coefficient in coefficients:
        for name, value in parameters.items():
            if value.ndim > 1:
                moved[name] += coefficient * direction(value, settings.normalisation, generator)
    return moved


def direction(weights: Tensor, normalisation: str, generator: torch.Generator) -> Tensor:
    """A random direction of the weights' shape.

    `filter`: each slice of dimension 0 has the norm of the same slice of the weights; `layer`: the whole tensor
    has the weights' norm; `none`: standard normal.
    """
    noise = torch.randn(weights.shape, generator=generator).to(weights.device)
    if normalisation == "none":
        return noise
    per_slice = tuple(range(1, weights.ndim)) if normalisation == "filter" else tuple(range(weights.ndim))
    length = noise.square().sum(per_slice, keepdim=True).sqrt()
    return noise * (weights.square().sum(per_slice, keepdim=True).sqrt() / length)
