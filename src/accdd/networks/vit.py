"""ViT-tiny: the vision transformer (Dosovitskiy et al., ICLR 2021) as small as DeiT-Ti (Touvron et al., ICML 2021)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accdd.config import InputError
from accdd.networks.layers import Classifier
from accdd.networks.shape import Shape, settle

HEAD_WIDTH = 64


class ViTTiny(Classifier):
    """Patches, a class token, learned positions, `depth` blocks of attention and perceptron, norm, linear.

    Patches are of 16 pixels in photographs, as published, and of an eighth of the side in smaller images. Attention
    is written out, because the fused one has no second derivative on a CPU; there is no dropout. Weights of linear
    layers, tokens and positions are drawn from N(0, 0.02^2), cut at 2, and biases are 0, as in DeiT.
    """

    def __init__(self, channels: int, size: int, num_classes: int, *, width: int = 192, depth: int = 12) -> None:
        super().__init__()
        self.patch = patch(size)
        patches = math.ceil(size / self.patch) ** 2
        # A linear layer of cut patches, which is the usual strided convolution: no weight here is a convolution's, so
        # methods that match convolutions match all matrices.
        self.patches = nn.Linear(channels * self.patch**2, width)
        self.token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, patches + 1, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = TokenNorm(width)
        self.classifier = nn.Linear(width, num_classes)
        for drawn in (self.token, self.positions):
            nn.init.trunc_normal_(drawn, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to the class token's features (n, width)."""
        side = self.patch
        x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side))  # with the mean, as images are normalised
        x = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (n, c, rows, side, columns, side)
        x = self.patches(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)).to(x.dtype)  # (n, patches, width)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    @staticmethod
    def shape(size: int, given: Shape) -> Shape:
        """The width and depth given, or the published ones.

        Raises:
            InputError: something else is given, or a width that attention heads do not divide.
        """
        del size
        settled = settle("vit_tiny", given, Shape(192, 12))
        width = settled.width
        if width and width % heads(width):
            raise InputError(
                f"network.width {width} is not divided by the {heads(width)} attention heads of a vit_tiny. "
                f"Expected a multiple of {HEAD_WIDTH}, or less than {2 * HEAD_WIDTH}."
            )
        return settled


class Block(nn.Module):
    """x + attention(norm(x)), then the same with a perceptron four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads(width)
        self.norm1 = TokenNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = TokenNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, t, width), same shape."""
        x = x + self.attend(self.norm1(x))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))

    def attend(self, x: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V for each head, then mixed; tokens (n, t, width), same shape."""
        q, k, v = (
            self.queries_keys_values(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (n, heads, t, d)
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).to(x.dtype).softmax(-1)  # in fp32 whatever the products are in
        return self.project((weights @ v).transpose(1, 2).flatten(2))


class TokenNorm(nn.LayerNorm):
    """Layer norm, in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, t, width) in any floating format to the format of the weights, same shape."""
        return super().forward(input.to(self.weight.dtype))


def patch(size: int) -> int:
    """The side of a patch: the power of 2 nearest to an eighth of the image, at most 16."""
    return 2 ** min(4, max(0, round(math.log2(size / 8))))


def heads(width: int) -> int:
    """As many as have 64 channels each, at least one."""
    return max(1, width // HEAD_WIDTH)
