"""Networks that are not accdd's: a user's own as `module:callable`, and `timm:NAME`.

Finding one runs its code, so only names that the user typed may come here, never one read from a file of results.
"""

import contextlib
import functools
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from accdd.config import InputError
from accdd.networks.shape import Shape, settle

TIMM = "timm"
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class External:
    """A builder of the same form as accdd's own networks, around a callable that makes a module.

    Args:
        name: as the user typed it.
        make: (channels, size, num_classes) -> nn.Module, from normalised images (n, c, h, w) to logits (n, classes).
        version: of its code, which decides with the name what was made with it.
    """

    def __init__(self, name: str, make: Callable[[int, int, int], Any], version: str) -> None:
        self.name, self.make, self.version = name, make, version

    def __call__(self, channels: int, size: int, num_classes: int) -> nn.Module:
        """A module that keeps no state.

        Raises:
            InputError: what was made is no module, or keeps more state than BatchNorm's running statistics.
        """
        # What it draws is the caller's to seed, and moves nothing of theirs.
        apart = torch.random.fork_rng(devices=[])
        with apart, torch.device("cpu"), explained(f"Building the network '{self.name}'"):
            module = self.make(channels, size, num_classes)
        if not isinstance(module, nn.Module):
            raise InputError(
                f"The network '{self.name}' made a {type(module).__name__}. Expected a torch.nn.Module from "
                "(channels, size, num_classes)."
            )
        return without_state(module, self.name)

    def shape(self, size: int, given: Shape) -> Shape:
        """Nothing can be chosen; what is given is refused with an `InputError`."""
        del size
        return settle(self.name, given, Shape())

    def check(self, channels: int, size: int, num_classes: int) -> None:
        """Refuse with an `InputError` a network that does not make logits of these images; computes with shapes."""
        module = self(channels, size, num_classes).eval().to("meta")
        with explained(f"The network '{self.name}' on images of {channels} x {size} x {size}"), torch.no_grad():
            logits = module(torch.empty(2, channels, size, size, device="meta"))
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if found != (2, num_classes):
            raise InputError(
                f"The network '{self.name}' makes {found} of 2 images of {channels} x {size} x {size}. "
                f"Expected logits (2, {num_classes}), one for each class."
            )


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Whatever goes wrong in foreign code becomes an `InputError` that says in what."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{doing} failed with {type(error).__name__}: {error}") from error


@functools.cache
def find(name: str) -> External:
    """Import what `module:callable` or `timm:NAME` names; the current folder is searched, too.

    Raises:
        InputError: there is no such module, callable or network.
    """
    module_name, _, attribute = name.partition(":")
    return _timm(name, attribute) if module_name == TIMM else _own(name, module_name, attribute)


def without_state(module: nn.Module, name: str) -> nn.Module:
    """The module, in place, with norms as `layers` has them: in fp32, and BatchNorm without state.

    Raises:
        InputError: it has other buffers, or parameters whose shape is still open.
    """
    for layer in module.modules():  # and what is derived from PyTorch's own norms, as in timm
        if isinstance(layer, NORMS):
            layer.register_forward_pre_hook(_in_fp32)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    if buffers := [buffer for buffer, _ in module.named_buffers()]:
        raise InputError(
            f"The network '{name}' has the buffers {', '.join(buffers[:5])}. Expected parameters alone, and running "
            "statistics of BatchNorm: a network in use is its parameters."
        )
    if any(isinstance(value, nn.UninitializedParameter) for value in module.parameters()):
        raise InputError(f"The network '{name}' has lazy layers. Expected layers that are told their sizes.")
    return module


def _in_fp32(_layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a norm is given; autocast would leave bfloat16 in, of which some norms have no second derivative."""
    return tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in given)


def _own(name: str, module_name: str, attribute: str) -> External:
    if not module_name or not attribute.isidentifier():
        raise InputError(f"The network '{name}' names nothing. Expected module:callable, as in --network mine:build.")
    here = os.getcwd()  # noqa: PTH109  # as `python -m` does; the entry is text
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        with explained(f"Importing '{module_name}' for the network '{name}'"):
            module = importlib.import_module(module_name)
    finally:
        if added:
            sys.path.remove(here)
    make = getattr(module, attribute, None)
    if not callable(make):
        there = "is not callable" if hasattr(module, attribute) else "is not there"
        raise InputError(
            f"The network '{name}': '{attribute}' {there} in '{module.__file__ or module_name}'. "
            "Expected a function (channels, size, num_classes) -> torch.nn.Module."
        )
    return External(name, make, version_of(module))


def version_of(module: ModuleType) -> str:
    """Of foreign code, which decides with its name what was made with it: a digest of the module's source."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # compiled, or typed at a prompt
        source = ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _timm(name: str, model: str) -> External:
    try:
        timm: Any = importlib.import_module(TIMM)
    except ImportError:
        raise InputError(f"The network '{name}' needs timm. Expected: pip install timm.") from None
    if not timm.is_model(model):
        raise InputError(f"timm {timm.__version__} has no network '{model}'. Expected a name from timm.list_models().")

    def make(channels: int, size: int, num_classes: int) -> nn.Module:
        del size
        timm.layers.set_fused_attn(False)  # it has no second derivative on a CPU
        return TimmNetwork(timm.create_model(model, pretrained=False, in_chans=channels, num_classes=num_classes))

    return External(name, make, timm.__version__)


class TimmNetwork(nn.Module):
    """A network of timm, with the features before its classifier as `embed`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def embed(self, x: Tensor) -> Tensor:
        """Images (n, c, h, w) to features (n, m)."""
        return self.network.forward_head(self.network.forward_features(x), pre_logits=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (n, c, h, w) to logits (n, num_classes)."""
        return self.network(x)
