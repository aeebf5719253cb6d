"""ConvNet-D (Gidaris & Komodakis, CVPR 2018), the field's standard small network."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from accdd.config import InputError
from accdd.networks.layers import InstanceNorm, MeanPool


def maps_from(size: int) -> int:
    """The size of the first feature maps: that of the images, or 32 for 28-pixel images, as in the released codes."""
    return 32 if size == 28 else size


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution, instance norm, ReLU, 2x2 average pooling; then a linear classifier.

    28-pixel images are padded by 3 in the first convolution, so that maps start at 32.
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.pool = MeanPool(2)
        for block in range(depth):
            padding = 1 + (maps_from(size) - size) // 2 if block == 0 else 1
            self.convs.append(nn.Conv2d(channels if block == 0 else width, width, 3, padding=padding))
            self.norms.append(InstanceNorm(width))
        side = maps_from(size) >> depth
        self.classifier = nn.Linear(width * side * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, width * side^2)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.pool(F.relu(norm(conv(x))))
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (n, c, h, w) to logits (n, num_classes)."""
        return self.classifier(self.embed(x))

    @staticmethod
    def shape(size: int, width: int | None, depth: int | None) -> tuple[int, int]:
        """Width and depth as given; a depth of None leaves maps of about 4 x 4 to the classifier.

        Raises:
            InputError: the network is too deep for images of this size.
        """
        deepest = int(math.log2(maps_from(size)))
        depth = depth or max(2, min(6, deepest - 2))
        if depth > deepest:
            raise InputError(
                f"A convnet of depth {depth} halves {size}-pixel images to nothing. "
                f"Expected network.depth at most {deepest}."
            )
        return width or (128 if size >= 28 else 32), depth
