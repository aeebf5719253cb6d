"""ResNets in the forms of IDC's released code (Kim et al., ICML 2022): strided, and pooled (ResNetAP)."""

import itertools
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from accdd.networks.layers import NORMS, Classifier, Layer, MeanPool
from accdd.networks.shape import Shape, refuse_smaller, settle


class ResNet(Classifier):
    """A stem, four stages of residual blocks, each but the first twice as wide and half as large, global pooling,
    linear.

    No biases but the norms' and the classifier's, a stem that depends on the image size, convolutions drawn from
    N(0, 2 / fan-out), all as in that code. Each subclass says how many blocks a stage has, its norm, and whether
    maps are halved by pooling or by stride.
    """

    name: ClassVar[str]
    blocks_per_stage: ClassVar[int] = 1
    pools: ClassVar[bool] = False
    norm_of_its_own: ClassVar[str] = "batch"

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 64, norm: str | None = None) -> None:
        super().__init__()
        layer = NORMS[norm or self.norm_of_its_own]
        kernel, pooled = stem(size)
        stride = 2 if pooled == 4 and not self.pools else 1
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = layer(width)
        self.pool = nn.Identity()
        if pooled > 1:
            self.pool = MeanPool(pooled) if self.pools else nn.MaxPool2d(3, 2, padding=1)
        widths = [width * 2**stage for stage in range(4) for _ in range(self.blocks_per_stage)]
        pairs = itertools.pairwise([width, *widths])
        self.blocks = nn.ModuleList(Block(*pair, layer, pools=self.pools) for pair in pairs)
        self.classifier = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 8 * width)."""
        x = self.pool(F.relu(self.norm(self.conv(x))))
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))

    @classmethod
    def shape(cls, size: int, given: Shape) -> Shape:
        """The width and norm given, or the published ones.

        Raises:
            InputError: something else is given, or the images are too small.
        """
        refuse_smaller(size, 16, cls.name)  # instance norm of 1 x 1 maps forgets its input
        # Strided, that code has 32 filters for CIFAR and 64 for photographs.
        own = Shape(64 if cls.pools or size > 64 else 32, norm=cls.norm_of_its_own)
        return settle(cls.name, given, own)


class ResNet10(ResNet):
    """A block in each stage, BatchNorm."""

    name = "resnet10"


class ResNet18(ResNet):
    """Two blocks in each stage, BatchNorm."""

    name = "resnet18"
    blocks_per_stage = 2


class ResNetAP10(ResNet):
    """The network of IDC and AccDD for photographs: instance norm, and average pooling where others stride."""

    name = "resnet_ap10"
    pools = True
    norm_of_its_own = "instance"


class ResNetAP18(ResNetAP10):
    """The same with two blocks in each stage."""

    name = "resnet_ap18"
    blocks_per_stage = 2


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Where maps get wider they also get half as large."""

    def __init__(self, before: int, width: int, norm: Layer, *, pools: bool) -> None:
        super().__init__()
        stride = 2 if before != width and not pools else 1
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = norm(width)
        self.pool, self.shortcut = nn.Identity(), nn.Identity()
        if before != width:
            self.pool = MeanPool(2) if pools else nn.Identity()
            # The released code convolves, then pools: the same function, as both are linear, at four times the cost.
            self.shortcut = nn.Sequential(self.pool, nn.Conv2d(before, width, 1, stride, bias=False), norm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, before, h, w) to (n, width, h, w), or half as large."""
        inner = self.pool(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def stem(size: int) -> tuple[int, int]:
    """Kernel and shrinking of the first layer, so that images of 64 to 256 pixels reach the blocks as 32 to 64."""
    return (3, 1) if size <= 64 else (3, 2) if size <= 128 else (7, 4)
