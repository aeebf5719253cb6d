"""Networks by name, and a network as a function of its parameters."""

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from accdd.config import InputError, choose
from accdd.config import Network as NetworkSettings
from accdd.keys import Key
from accdd.networks.convnet import ConvNet, maps_from

NETWORKS = {"convnet": ConvNet}
"""Builders: (channels, size, num_classes, *, width, depth) -> nn.Module."""

Parameters = dict[str, Tensor]
"""The weights of a network by name. A network in use is such a dictionary; the module is only its shape."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network's shape: what is needed to build one, and the function its parameters are put into."""

    name: str
    width: int
    depth: int
    channels: int
    size: int
    num_classes: int

    def __post_init__(self) -> None:
        choose("network", self.name, NETWORKS)
        deepest = int(math.log2(maps_from(self.size)))
        if self.depth > deepest:
            raise InputError(
                f"A {self.name} of depth {self.depth} halves {self.size}-pixel images to nothing. "
                f"Expected network.depth at most {deepest}."
            )

    def build(self) -> nn.Module:
        """A module with PyTorch's default initialisation."""
        options = {"width": self.width, "depth": self.depth}
        return NETWORKS[self.name](self.channels, self.size, self.num_classes, **options)

    def initialise(self, key: Key, device: torch.device | str = "cpu") -> Parameters:
        """Freshly initialised parameters; the same for the same key on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key.generator("initialise").initial_seed())  # the CPU's alone
            return {name: value.detach().to(device) for name, value in self.build().named_parameters()}


class Forward:
    """A network as a pure function: (parameters, normalised images (n, c, h, w)) -> logits (n, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        with torch.device("meta"):  # the module holds no weights of its own, so it serves every device
            self._module = architecture.build()

    def __call__(self, parameters: Parameters, images: Tensor) -> Tensor:
        return functional_call(self._module, parameters, (images,))


def architecture(settings: NetworkSettings, channels: int, size: int, num_classes: int) -> Architecture:
    """The network for images of this size; a depth of None leaves maps of about 4 x 4 to the classifier."""
    depth = settings.depth or max(2, min(6, int(math.log2(maps_from(size))) - 2))
    width = settings.width or (128 if size >= 28 else 32)
    return Architecture(settings.name, width, depth, channels, size, num_classes)
