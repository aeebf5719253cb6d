"""A network as a function of its parameters, with or without frozen statistics of BatchNorm among them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from accdd.config import InputError

if TYPE_CHECKING:
    from accdd.networks import Architecture

Parameters = dict[str, Tensor]
"""The weights of a network by name. A network in use is such a dictionary; the module is only its shape."""


class Forward:
    """A network as a pure function: (parameters, normalised images (n, c, h, w)) -> logits (n, classes).

    BatchNorm normalises by the statistics of the images, unless statistics are among the parameters (see
    `calibrated`); dropout, which a user's own network may have, is off.

    Args:
        architecture: the network's shape.
        precision: `fp32`, or `bf16` for convolutions and linear layers; logits and gradients are not affected.
        channels_last: lay images out with channels innermost, which convolutions prefer; not below `vmap`.
    """

    def __init__(self, architecture: "Architecture", precision: str = "fp32", channels_last: bool = False) -> None:
        self.architecture = architecture
        self._bf16, self._channels_last = precision == "bf16", channels_last
        with torch.device("meta"):  # the module holds no weights of its own, so it serves every device
            module = architecture.build().to("meta")
        self._module = module.eval()
        # Features are a method's: a layer that is called so, as in a vision transformer, makes none.
        self._embed = _Embed(module).eval() if hasattr(type(module), "embed") else None
        self.batch_norms = [
            name for name, layer in module.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        ]
        """Names of its BatchNorm layers."""

    def __call__(self, parameters: Parameters, images: Tensor) -> Tensor:
        return self._call(self._module, parameters, images)

    def embed(self, parameters: Parameters, images: Tensor) -> Tensor:
        """The features that the classifier sees, (n, m).

        Raises:
            InputError: a user's own network does not say them.
        """
        if self._embed is None:
            raise InputError(
                f"The network '{self.architecture.name}' has no method `embed`, so its features cannot be matched. "
                "Expected `embed(images) -> features (n, m)` beside `forward`, or a method that matches gradients."
            )
        return self._call(self._embed, {f"network.{name}": value for name, value in parameters.items()}, images)

    def statistics(self, parameters: Parameters, images: Tensor) -> Parameters:
        """The mean and the unbiased variance of what each BatchNorm layer is given, by names of its frozen ones."""
        found: Parameters = {}

        def look(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
            def before(_layer: nn.Module, given: tuple[Tensor]) -> None:
                x = given[0].to(torch.promote_types(given[0].dtype, torch.float32))
                variance, mean = torch.var_mean(x, [each for each in range(x.ndim) if each != 1])
                found[f"{name}.running_mean"], found[f"{name}.running_var"] = mean, variance

            return layer.register_forward_pre_hook(before)

        hooks = [look(name, self._module.get_submodule(name)) for name in self.batch_norms]
        try:
            self(parameters, images)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def _call(self, module: nn.Module, parameters: Parameters, images: Tensor) -> Tensor:
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if not self._bf16:
            return functional_call(module, parameters, (images,))
        # The cache of casts would keep one from an outer derivative for an inner one.
        with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
            return functional_call(module, parameters, (images,)).to(images.dtype)


class _Embed(nn.Module):
    """What `functional_call` needs to call another method than `forward`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images)  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def calibrated(forward: Forward, parameters: Parameters, batches: Iterable[Tensor]) -> Parameters:
    """The network with frozen statistics for BatchNorm: the means, over batches, of their means and variances.

    That is where running averages would end if the network did not change (precise batch norm, Wu & Johnson 2021).
    Such a network is to be tested, or matched as DC and DSA do (one batch of 16 real images of each class before each
    sweep); not trained, because the statistics would be trained, too.

    Args:
        forward: the network.
        parameters: its weights; never changed. Statistics that are among them are measured anew.
        batches: normalised images, each (n, c, h, w), of one size. Not looked at where there is no BatchNorm.

    Returns:
        The same tensors and, for every BatchNorm, `running_mean` and `running_var` (unbiased), each (c,).
    """
    if not forward.batch_norms:
        return parameters
    frozen = {f"{layer}.{name}" for layer in forward.batch_norms for name in ("running_mean", "running_var")}
    weights = {name: value for name, value in parameters.items() if name not in frozen}
    found = [forward.statistics(weights, images) for images in batches]
    assert found, "statistics of no batches"
    return weights | {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}
