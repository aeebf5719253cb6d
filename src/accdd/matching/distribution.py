"""Distribution matching (DM, Zhao & Bilen, WACV 2023): where a batch lies in a network's feature space."""

from torch import Tensor

from accdd.matching.gradient import averaging
from accdd.networks import Forward, Parameters


@averaging
def embedding(forward: Forward, parameters: Parameters, images: Tensor, labels: Tensor) -> Parameters:
    """The mean of a batch's features, (features,): with the squared distance, DM's loss. A `Summary`."""
    del labels
    return {"embedding": forward.embed(parameters, images).mean(0)}
