"""DenseNet-121 (Huang et al., CVPR 2017) in its form for CIFAR, as the released code of IDC evaluates."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accdd.networks.layers import NORMS, Classifier, Layer, MeanPool
from accdd.networks.resnet import stem
from accdd.networks.shape import Shape, refuse_smaller, settle

STAGES = (6, 12, 24, 16)
"""Layers in each."""


class DenseNet121(Classifier):
    """Four stages of layers, each of which adds `width / 2` channels (the growth, 12) to all before it; between
    stages channels and sides are halved. BatchNorm, no biases but the norms' and the classifier's.

    Photographs, which that code does not give to this form, are pooled after the first convolution, as in ResNetAP.
    Weights are drawn as PyTorch does.
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 24, norm: str = "batch") -> None:
        super().__init__()
        layer, growth = NORMS[norm], max(1, width // 2)
        kernel, pooled = stem(size)
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.pool = MeanPool(pooled) if pooled > 1 else nn.Identity()
        self.layers = nn.ModuleList()
        for stage, count in enumerate(STAGES):
            if stage:
                self.layers.append(Transition(width, width // 2, layer))
                width //= 2
            for _ in range(count):
                self.layers.append(Dense(width, growth, layer))
                width += growth
        self.norm = layer(width)
        self.classifier = nn.Linear(width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 384 at growth 12)."""
        x = self.pool(self.conv(x))
        for layer in self.layers:
            x = layer(x)
        return F.relu(self.norm(x)).mean((2, 3))

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """The width and norm given, or the published ones.

        Raises:
            InputError: something else is given, or the images are too small.
        """
        refuse_smaller(size, 16, "densenet121")
        return settle("densenet121", given, Shape(24, norm="batch"))


class Dense(nn.Module):
    """Norm, ReLU and a 1x1 convolution to four times the growth; the same with a 3x3 one to the growth; stacked."""

    def __init__(self, before: int, growth: int, norm: Layer) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, 4 * growth, 1, bias=False)
        self.norm2 = norm(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, before, h, w) to (n, growth + before, h, w)."""
        inner = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([self.conv2(F.relu(self.norm2(inner))), x], 1)


class Transition(nn.Module):
    """Norm, ReLU, a 1x1 convolution to fewer channels, and 2x2 mean pooling."""

    def __init__(self, before: int, width: int, norm: Layer) -> None:
        super().__init__()
        self.norm = norm(before)
        self.conv = nn.Conv2d(before, width, 1, bias=False)
        self.pool = MeanPool(2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, before, h, w) to (n, width, h // 2, w // 2)."""
        # The released code convolves, then pools: the same function, as both are linear, at four times the cost.
        return self.conv(self.pool(F.relu(self.norm(x))))
