"""Layers that the networks share, and the choices between them by name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """A network that is features, by `embed`, and a linear `classifier` of them; every network here is one."""

    classifier: nn.Linear

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, m)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (n, c, h, w) to logits (n, num_classes)."""
        return self.classifier(self.embed(x))


class GroupNorm(nn.GroupNorm):
    """Normalises groups of channels of each image by themselves, with a learned scale and shift per channel.

    Always in fp32: on a CPU, autocast would leave bfloat16 in, and the sums of the derivative would be rounded to 8
    bits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in any floating format to the format of the weights, same shape."""
        return super().forward(x.to(self.weight.dtype))


class InstanceNorm(GroupNorm):
    """Each channel by itself, which is faster than PyTorch's instance norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in any floating format to the format of the weights, same shape."""
        if not (torch.compiler.is_compiling() and x.is_cuda):
            return super().forward(x)
        # What the compiler makes of group norm first copies images whose channels lie innermost.
        x = x.to(self.weight.dtype)
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        scaled = (x - mean) * torch.rsqrt(variance + self.eps)
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]


class FourGroupNorm(GroupNorm):
    """Four groups, as in the released code of DC, or as many of 4, 2 and 1 as divide the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(4, channels), channels)


class LayerNorm(GroupNorm):
    """All channels together.

    The released code of DC learns a scale and a shift for every pixel of every channel; here it is one per channel,
    so that the number of parameters does not follow from the image size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)


class BatchNorm(nn.BatchNorm2d):
    """Normalises each channel over a batch, in fp32 like the others; no state.

    Statistics are the batch's, unless `running_mean` and `running_var` are among the parameters that are put in. The
    module has to be in evaluation mode, as in `Forward`: in training mode PyTorch would pass over them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in any floating format to the format of the weights, same shape."""
        return super().forward(x.to(self.weight.dtype))


class MeanPool(nn.Module):
    """Means of `size` x `size` squares: (n, c, h, w) to (n, c, h // size, w // size)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c, h // size, w // size)."""
        if not torch.compiler.is_compiling():
            return F.avg_pool2d(x, self.size)
        # The compiler cannot vectorise the derivative of avg_pool2d, which took a quarter of a training step; that of
        # a mean it can.
        height, width = x.shape[2] // self.size, x.shape[3] // self.size
        x = x[:, :, : height * self.size, : width * self.size]
        return x.unflatten(3, (width, self.size)).unflatten(2, (height, self.size)).mean((3, 5))


Layer = Callable[[int], nn.Module]

NORMS: dict[str, Layer] = {
    "instance": InstanceNorm, "batch": BatchNorm, "group": FourGroupNorm, "layer": LayerNorm, "none": nn.Identity,
}  # fmt: skip
"""By number of channels."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "sigmoid": torch.sigmoid, "gelu": F.gelu, "silu": F.silu,
}  # fmt: skip
"""The slope of the leaky ReLU below 0 is 0.01, as in the released code of DC, whose swish is silu."""

POOLINGS: dict[str, Layer] = {"avg": MeanPool, "max": nn.MaxPool2d, "none": nn.Identity}
"""By the side of the squares that become one pixel."""


def maps_from(size: int) -> int:
    """The size of the first feature maps: that of the images, or 32 for 28-pixel images, as in the released codes."""
    return 32 if size == 28 else size


def first_padding(size: int, kernel: int) -> int:
    """Padding of the first convolution, without stride: maps of `maps_from(size)`."""
    return kernel // 2 + (maps_from(size) - size) // 2
