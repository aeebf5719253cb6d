"""Networks by name, and a network as a function of its parameters."""

import dataclasses
from typing import Any

import torch
from torch import nn

from accdd.config import InputError, Settings, choose, override
from accdd.config import Network as NetworkSettings
from accdd.keys import Key
from accdd.networks import external
from accdd.networks.alexnet import AlexNet
from accdd.networks.convnet import ConvNet
from accdd.networks.densenet import DenseNet121
from accdd.networks.efficientnet import EfficientNetB0
from accdd.networks.external import External
from accdd.networks.forward import Forward, Parameters, calibrated
from accdd.networks.lenet import LeNet
from accdd.networks.mlp import MLP
from accdd.networks.resnet import ResNet10, ResNet18, ResNetAP10, ResNetAP18
from accdd.networks.shape import OPTIONS, Shape
from accdd.networks.vgg import VGG11
from accdd.networks.vit import ViTTiny

__all__ = [
    "NETWORKS",
    "Architecture",
    "Forward",
    "Parameters",
    "architecture",
    "calibrated",
    "find",
    "identity",
    "runs_code",
    "settings_for",
]

NETWORKS = {
    "convnet": ConvNet,
    "resnet10": ResNet10,
    "resnet18": ResNet18,
    "resnet_ap10": ResNetAP10,
    "resnet_ap18": ResNetAP18,
    "densenet121": DenseNet121,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "mlp": MLP,
    "lenet": LeNet,
    "efficientnet_b0": EfficientNetB0,
    "vit_tiny": ViTTiny,
}
"""Builders: (channels, size, num_classes, *, what of `Shape` can be chosen) -> nn.Module with `embed` and `forward`.

Each has `shape(size, given) -> Shape`, which fills in its own width and depth where they are None and refuses what
cannot be chosen or built; a network whose number of layers is fixed has the depth None.
"""


def find(name: str) -> Any:
    """The builder of a network of accdd's, or of a user's own; the latter runs its code (see `runs_code`).

    Raises:
        InputError: there is none; the names and the nearest one are told.
    """
    if runs_code(name):
        return external.find(name)
    try:
        return choose("network", name, NETWORKS)
    except InputError as error:
        raise InputError(f"{error} Or your own, module:callable; or timm:NAME.") from None


def runs_code(name: str) -> bool:
    """Whether finding the network imports foreign code, so that the name has to come from the user."""
    return ":" in name


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network's shape: what is needed to build one, and the function its parameters are put into."""

    name: str
    width: int | None
    depth: int | None
    channels: int
    size: int
    num_classes: int
    norm: str | None = None
    activation: str | None = None
    pooling: str | None = None

    def __post_init__(self) -> None:
        shape = find(self.name).shape(self.size, self.shape)
        assert shape == self.shape, f"{self.shape} leaves open what `architecture` fills in"

    def __str__(self) -> str:
        return f"{self.name} of {self.shape}".removesuffix(" of ")

    @property
    def shape(self) -> Shape:
        return Shape(self.width, self.depth, self.norm, self.activation, self.pooling)

    def build(self) -> nn.Module:
        """A freshly initialised module, from PyTorch's default generator."""
        chosen = {name: value for name, value in dataclasses.asdict(self.shape).items() if value is not None}
        return find(self.name)(self.channels, self.size, self.num_classes, **chosen)

    def initialise(self, key: Key, device: torch.device | str = "cpu") -> Parameters:
        """Freshly initialised parameters; the same for the same key on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key.generator("initialise").initial_seed())  # the CPU's alone
            return {name: value.detach().to(device) for name, value in self.build().named_parameters()}


def architecture(settings: NetworkSettings, channels: int, size: int, num_classes: int) -> Architecture:
    """The network for images of this size; what the settings leave open is the network's own default.

    Raises:
        InputError: there is no such network, or none of this shape for such images.
    """
    builder = find(settings.name)
    if isinstance(builder, External):
        builder.check(channels, size, num_classes)
    given = Shape(settings.width, settings.depth, settings.norm, settings.activation, settings.pooling)
    chosen = dataclasses.asdict(builder.shape(size, given))
    return Architecture(settings.name, channels=channels, size=size, num_classes=num_classes, **chosen)


def identity(network: NetworkSettings | Architecture) -> dict[str, Any]:
    """What names a network in keys of the cache: without options that are its own; with the version of foreign code."""
    named = dataclasses.asdict(network)
    named = {name: value for name, value in named.items() if value is not None or name not in OPTIONS}
    return named | ({"code": external.find(network.name).version} if runs_code(network.name) else {})


def settings_for(name: str, matched: NetworkSettings) -> NetworkSettings:
    """The settings of a network that is trained on what another was matched with: no shape is lent to another.

    Args:
        name: a network's, with what is to be special about it, as in `convnet/width=32/depth=4`.
        matched: says what `name` leaves open, where it is the same network.

    Raises:
        InputError: there is no such network, or no such option.
    """
    base, *options = [name] if runs_code(name) else name.split("/")
    find(base)
    settings = Settings(network=matched if base == matched.name else NetworkSettings(name=base))
    changes: dict[str, int | str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key == "name":
            raise InputError(f"Network '{name}': '{option}' is no option. Expected one as in {base}/width=32.")
        if f"network.{key}" in changes:
            raise InputError(f"Network '{name}' has '{key}' twice. Expected it once.")
        changes[f"network.{key}"] = int(value) if value.isdecimal() else value
    return override(settings, changes).network
