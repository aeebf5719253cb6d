"""Layers that the networks share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.GroupNorm):
    """Normalises each channel of each image by itself, with a learned scale and shift per channel; always in fp32.

    As group norm with a group per channel, which is faster than PyTorch's instance norm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) in any floating format to the format of the weights, same shape."""
        # On a CPU, autocast would leave bfloat16 in, and the sums of the derivative would be rounded to 8 bits.
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
