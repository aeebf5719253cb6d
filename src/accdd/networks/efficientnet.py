"""EfficientNet-B0 (Tan & Le, ICML 2019), with a first convolution that leaves small images as large as they are."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accdd.networks.layers import NORMS, Classifier, Layer
from accdd.networks.shape import Shape, refuse_smaller, settle

STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, filters (at width 32), blocks, stride of the first, kernel (the paper's table 1)."""
HEAD = 1280


class EfficientNetB0(Classifier):
    """A stem, 16 inverted bottlenecks with squeeze-and-excitation, a 1x1 convolution, global pooling, linear.

    BatchNorm, SiLU. The stem strides only above 64 pixels. Without dropout and stochastic depth, which make the network
    another function at every call. Weights are drawn as PyTorch does: BatchNorm takes out their scale.
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 32, norm: str = "batch") -> None:
        super().__init__()
        layer = NORMS[norm]

        def scaled(filters: int) -> int:
            return max(1, filters * width // 32)

        self.stem = _convolution(channels, width, 3, layer, stride=1 if size <= 64 else 2)
        self.blocks = nn.ModuleList()
        before = width
        for expansion, filters, count, stride, kernel in STAGES:
            for index in range(count):
                stepped = stride if index == 0 else 1
                self.blocks.append(Bottleneck(before, scaled(filters), expansion, kernel, stepped, layer))
                before = scaled(filters)
        self.head = _convolution(before, scaled(HEAD), 1, layer)
        self.classifier = nn.Linear(scaled(HEAD), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 40 * width)."""
        x = F.silu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return F.silu(self.head(x)).mean((2, 3))

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """The width and norm given, or the published ones.

        Raises:
            InputError: something else is given, or the images are too small.
        """
        refuse_smaller(size, 17, "efficientnet_b0")  # which leaves 2 x 2 maps: one image is no batch to normalise over
        return settle("efficientnet_b0", given, Shape(32, norm="batch"))


class Bottleneck(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, excitation, 1x1 convolution; beside x where it fits."""

    def __init__(self, before: int, width: int, expansion: int, kernel: int, stride: int, norm: Layer) -> None:
        super().__init__()
        inner, squeezed = expansion * before, max(1, before // 4)
        self.expand = _convolution(before, inner, 1, norm) if expansion > 1 else None
        self.depthwise = _convolution(inner, inner, kernel, norm, stride=stride, groups=inner)
        self.squeeze = nn.Conv2d(inner, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, inner, 1)
        self.project = _convolution(inner, width, 1, norm)
        self.residual = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, before, h, w) to (n, width, h, w), or half as large, rounded up."""
        inner = x if self.expand is None else F.silu(self.expand(x))
        inner = F.silu(self.depthwise(inner))
        share = torch.sigmoid(self.excite(F.silu(self.squeeze(inner.mean((2, 3), keepdim=True)))))
        out = self.project(inner * share)
        return x + out if self.residual else out


def _convolution(before: int, after: int, kernel: int, norm: Layer, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm(after))
