"""AlexNet in the form of DC's released code (Zhao et al., ICLR 2021): for 32-pixel images, without norms."""

import torch.nn.functional as F
from torch import Tensor, nn

from accdd.networks.layers import Classifier, first_padding, maps_from
from accdd.networks.shape import Shape, refuse_smaller, settle

POOLED = (0, 1, 4)
"""The convolutions after which maps are halved."""


class AlexNet(Classifier):
    """Five convolutions with biases and ReLU, three of them followed by 2x2 max pooling; then a linear classifier.

    28-pixel images are padded so that maps start at 32. Weights are drawn as PyTorch does.
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 128) -> None:
        super().__init__()
        widths = [width, width * 3 // 2, 2 * width, width * 3 // 2, width * 3 // 2]  # 128, 192, 256, 192, 192
        kernels = [5, 5, 3, 3, 3]
        self.convs = nn.ModuleList()
        for before, after, kernel in zip([channels, *widths], widths, kernels, strict=False):
            padding = kernel // 2 if self.convs else first_padding(size, kernel)
            self.convs.append(nn.Conv2d(before, after, kernel, padding=padding))
        self.pool = nn.MaxPool2d(2)
        side = maps_from(size) >> len(POOLED)
        self.classifier = nn.Linear(widths[-1] * side * side, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 1.5 * width * (h / 8)^2)."""
        for index, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            x = self.pool(x) if index in POOLED else x
        return x.flatten(1)

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """The width given or the published 128.

        Raises:
            InputError: something else is given, or the images are too small.
        """
        refuse_smaller(size, 8, "alexnet")
        return settle("alexnet", given, Shape(128))
