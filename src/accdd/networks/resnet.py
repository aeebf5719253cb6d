"""ResNetAP-10, the network of IDC and AccDD for photographs: a ResNet-10 that pools where others stride."""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from accdd.config import InputError
from accdd.networks.layers import InstanceNorm, MeanPool


class ResNetAP10(nn.Module):
    """A stem, four residual blocks, each but the first twice as wide and half as large, global pooling, linear.

    As in the released code of IDC (Kim et al., ICML 2022): instance norm, no biases but the norms' and the
    classifier's, a stem that depends on the image size, convolutions drawn from N(0, 2 / fan-out).
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 64, depth: None = None) -> None:
        super().__init__()
        del depth
        kernel, pooled = stem(size)
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.norm = InstanceNorm(width)
        self.pool = MeanPool(pooled)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.ModuleList(Block(*pair) for pair in itertools.pairwise(widths))
        self.classifier = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, 8 * width)."""
        x = F.relu(self.norm(self.conv(x)))
        if self.pool.size > 1:
            x = self.pool(x)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (n, c, h, w) to logits (n, num_classes)."""
        return self.classifier(self.embed(x))

    @staticmethod
    def shape(size: int, width: int | None, depth: int | None) -> tuple[int, None]:
        """The width given or the published 64, and no depth.

        Raises:
            InputError: a depth is given, or the images are too small.
        """
        if depth is not None:
            raise InputError(
                f"network.depth is {depth}, but a resnet_ap10 has four blocks for images of any size. "
                "Expected no network.depth: leave it out, or choose --network convnet."
            )
        if size < 16:  # instance norm of 1 x 1 maps forgets its input
            raise InputError(
                f"A resnet_ap10 shrinks {size}-pixel images to single pixels. "
                "Expected at least 16: --set data.size=16 enlarges them, or choose --network convnet."
            )
        return width or 64, None


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Where maps get wider they also get half as large."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.norm1 = InstanceNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = InstanceNorm(width)
        self.pool, self.shortcut = nn.Identity(), nn.Identity()
        if before != width:
            self.pool = MeanPool(2)
            # The released code convolves, then pools: the same function, as both are linear, at four times the cost.
            self.shortcut = nn.Sequential(MeanPool(2), nn.Conv2d(before, width, 1, bias=False), InstanceNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, before, h, w) to (n, width, h, w), or (n, width, h // 2, w // 2)."""
        inner = self.pool(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def stem(size: int) -> tuple[int, int]:
    """Kernel and pooling of the first layer, so that images of 64 to 256 pixels reach the blocks as 32 to 64."""
    return (3, 1) if size <= 64 else (3, 2) if size <= 128 else (7, 4)
