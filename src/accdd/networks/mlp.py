"""A multilayer perceptron with two hidden layers, as in the released code of DC (Zhao et al., ICLR 2021)."""

import torch.nn.functional as F
from torch import Tensor, nn

from accdd.networks.layers import Classifier
from accdd.networks.shape import Shape, settle


class MLP(Classifier):
    """Pixels, two hidden layers of `width` with ReLU, a linear classifier. Weights are drawn as PyTorch does."""

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 128) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(channels * size * size, width)
        self.hidden2 = nn.Linear(width, width)
        self.classifier = nn.Linear(width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, width)."""
        return F.relu(self.hidden2(F.relu(self.hidden1(x.flatten(1)))))

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """The width given or the published 128; anything else that is given is refused with an `InputError`."""
        del size
        return settle("mlp", given, Shape(128))
