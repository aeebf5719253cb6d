"""Networks by name, and a network as a function of its parameters."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from accdd.config import Network as NetworkSettings
from accdd.config import choose
from accdd.keys import Key
from accdd.networks.convnet import ConvNet
from accdd.networks.resnet import ResNetAP10

NETWORKS = {"convnet": ConvNet, "resnet_ap10": ResNetAP10}
"""Builders: (channels, size, num_classes, *, width, depth) -> nn.Module.

Each has `shape(size, width, depth) -> (width, depth)`, which fills in its own defaults for what is None and refuses
what cannot be built; a network whose number of layers is fixed has the depth None.
"""

Parameters = dict[str, Tensor]
"""The weights of a network by name. A network in use is such a dictionary; the module is only its shape."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network's shape: what is needed to build one, and the function its parameters are put into."""

    name: str
    width: int
    depth: int | None
    channels: int
    size: int
    num_classes: int

    def __post_init__(self) -> None:
        shape = choose("network", self.name, NETWORKS).shape(self.size, self.width, self.depth)
        assert shape == (self.width, self.depth), f"{(self.width, self.depth)} leaves open what `architecture` fills in"

    def __str__(self) -> str:
        depth = "" if self.depth is None else f"depth {self.depth} and "
        return f"{self.name} of {depth}width {self.width}"

    def build(self) -> nn.Module:
        """A freshly initialised module, from PyTorch's default generator."""
        options: dict[str, Any] = {"width": self.width, "depth": self.depth}
        return NETWORKS[self.name](self.channels, self.size, self.num_classes, **options)

    def initialise(self, key: Key, device: torch.device | str = "cpu") -> Parameters:
        """Freshly initialised parameters; the same for the same key on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key.generator("initialise").initial_seed())  # the CPU's alone
            return {name: value.detach().to(device) for name, value in self.build().named_parameters()}


class Forward:
    """A network as a pure function: (parameters, normalised images (n, c, h, w)) -> logits (n, classes).

    Args:
        architecture: the network's shape.
        precision: `fp32`, or `bf16` for convolutions and linear layers; logits and gradients are not affected.
        channels_last: lay images out with channels innermost, which convolutions prefer; not below `vmap`.
    """

    def __init__(self, architecture: Architecture, precision: str = "fp32", channels_last: bool = False) -> None:
        self.architecture = architecture
        self._bf16, self._channels_last = precision == "bf16", channels_last
        with torch.device("meta"):  # the module holds no weights of its own, so it serves every device
            self._module = architecture.build()
        self._features = _Features(self._module)

    def __call__(self, parameters: Parameters, images: Tensor) -> Tensor:
        return self._run(self._module, parameters, images)

    def embed(self, parameters: Parameters, images: Tensor) -> Tensor:
        """What the classifier is given: (n, features)."""
        return self._run(self._features, {f"network.{name}": value for name, value in parameters.items()}, images)

    def _run(self, module: nn.Module, parameters: Parameters, images: Tensor) -> Tensor:
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if not self._bf16:
            return functional_call(module, parameters, (images,))
        # The cache of casts would keep one from an outer derivative for an inner one.
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            return functional_call(module, parameters, (images,)).to(images.dtype)


class _Features(nn.Module):
    """A network without its classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        embed: Any = self.network.embed
        return embed(x)


def architecture(settings: NetworkSettings, channels: int, size: int, num_classes: int) -> Architecture:
    """The network for images of this size; what the settings leave open is the network's own default.

    Raises:
        InputError: there is no such network, or none of this shape for such images.
    """
    width, depth = choose("network", settings.name, NETWORKS).shape(size, settings.width, settings.depth)
    return Architecture(settings.name, width, depth, channels, size, num_classes)


def settings_for(name: str, matched: NetworkSettings) -> NetworkSettings:
    """The settings of a network that is trained on what another was matched with: a width or depth is never lent."""
    return matched if name == matched.name else NetworkSettings(name=name)
