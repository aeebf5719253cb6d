"""ConvNet-D (Gidaris & Komodakis, CVPR 2018), the field's standard small network."""

import math

from torch import Tensor, nn

from accdd.config import InputError
from accdd.networks.layers import ACTIVATIONS, NORMS, POOLINGS, Classifier, first_padding, maps_from
from accdd.networks.shape import Shape, settle


class ConvNet(Classifier):
    """`depth` blocks of 3x3 convolution, norm, activation, 2x2 pooling; then a linear classifier.

    Instance norm, ReLU and average pooling unless told otherwise; norm, activation and pooling by name are those of
    the released code of DC (Zhao et al., ICLR 2021). Convolutions have biases, 28-pixel images are padded by 3 in the
    first, so that maps start at 32. Weights are drawn as PyTorch does.
    """

    def __init__(
        self, channels: int, size: int, num_classes: int, *, width: int = 128, depth: int = 3,
        norm: str = "instance", activation: str = "relu", pooling: str = "avg",
    ) -> None:  # fmt: skip
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.activation, self.pool = ACTIVATIONS[activation], POOLINGS[pooling](2)
        for block in range(depth):
            padding = first_padding(size, 3) if block == 0 else 1
            self.convs.append(nn.Conv2d(channels if block == 0 else width, width, 3, padding=padding))
            self.norms.append(NORMS[norm](width))
        side = maps_from(size) >> (0 if pooling == "none" else depth)
        self.classifier = nn.Linear(width * side * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, width * side^2)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.pool(self.activation(norm(conv(x))))
        return x.flatten(1)

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """A depth of None leaves maps of about 4 x 4 to the classifier.

        Raises:
            InputError: the network is too deep for images of this size.
        """
        deepest = int(math.log2(maps_from(size)))
        usual = max(2, min(6, deepest - 2))
        if given.pooling != "none" and (given.depth or usual) > deepest:
            raise InputError(
                f"A convnet of depth {given.depth} halves {size}-pixel images to nothing. "
                f"Expected network.depth at most {deepest}."
            )
        own = Shape(128 if size >= 28 else 32, usual, norm="instance", activation="relu", pooling="avg")
        return settle("convnet", given, own)
