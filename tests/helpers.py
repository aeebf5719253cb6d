"""What the tests run over: every source, factor and distance, and the smallest data and networks that work."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from accdd import execution
from accdd.augmented_models import EarlyStage, EarlyStageModel, Fresh, Perturbed, Source, pool
from accdd.config import Network as NetworkSettings
from accdd.config import Perturb, Settings, override
from accdd.data import Dataset, build
from accdd.engine import Problem
from accdd.formation import FORMATIONS as BY_FORMATION
from accdd.matching import DISTANCES as BY_NAME
from accdd.methods import METHODS
from accdd.networks import Architecture, Forward, Parameters
from accdd.run import Quiet

SIZE = 8
CPU = torch.device("cpu")

Pool = tuple[EarlyStageModel, ...]


def trained(
    data: Dataset,
    architecture: Architecture,
    given: Settings,
    report: Callable[[float], None] = lambda share: None,
    networks: Sequence[int] | None = None,
) -> Pool:
    """Early-stage models, all if `networks` is None, in the order in which a pool has them."""
    groups = pool.build(data, architecture, given, report, networks)
    found = {network: own for group in groups for network, own in group.items()}
    return tuple(member for network in sorted(found) for member in found[network])


def fresh(members: Pool) -> Source:
    del members
    return Fresh(network(), CPU)


def early_stage(members: Pool) -> Source:
    return EarlyStage(members)


def perturbed(members: Pool) -> Source:
    return Perturbed(EarlyStage(members), Perturb())


SOURCES: tuple[Callable[[Pool], Source], ...] = (fresh, early_stage, perturbed)
FACTORS = (1, 2)
DISTANCES = tuple(BY_NAME)
FORMATIONS = tuple(BY_FORMATION)

TINY: Mapping[str, Any] = MappingProxyType(
    {
        "ipc": 2,
        "network.width": 4,
        "network.depth": 2,
        "train.batch": 8,
        "pool.networks": 2,
        "pool.epochs": 1,
        "match.real_batch": 6,
        "loop.steps": 2,
        "loop.inner_steps": 2,
        "loop.train_images": 8,
        "precision": "fp32",
    }
)
"""Settings with which everything takes milliseconds."""


def settings(changes: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    return override(Settings(), {**TINY, **changes})


def network(**changes: Any) -> Architecture:
    options = {"name": "convnet", "width": 4, "depth": 2, "channels": 3, "size": SIZE, "num_classes": 2}
    return Architecture(**(options | changes))


def tiny(name: str) -> NetworkSettings:
    """The smallest network of a name that learns."""
    own = {"lenet": {}, "mlp": {"width": 32}, "vit_tiny": {"width": 16, "depth": 2}}.get(name, {"width": 4})
    return NetworkSettings(name=name, **own)


def problem(
    data: Dataset, *, distance: str = "mse", factor: int = 1, formation: str = "uniform", bound: int = 128
) -> Problem:
    method = METHODS["idc"]
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    forward = Forward(network(num_classes=data.num_classes))

    def decode(stored: Tensor) -> Tensor:
        return BY_FORMATION[formation](stored, factor, bound)

    return Problem(forward, method.summary, BY_NAME[distance], decode, mean, std)


def stripes(per_class: int = 12, tested: int = 6) -> Dataset:
    """Two classes, 8x8 RGB: lying and standing stripes under noise. What instance norm removes, they do not need."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(2 * count) % 2
        wave = 60 * (torch.arange(SIZE) % 2 * 2 - 1)
        patterns = torch.stack([wave[:, None].expand(SIZE, SIZE), wave.expand(SIZE, SIZE)])  # (classes, h, w)
        noise = torch.randint(-60, 61, (2 * count, 3, SIZE, SIZE), generator=generator)
        return (128 + patterns[labels][:, None] + noise).to(torch.uint8), labels

    return build("stripes", split(per_class), split(tested), class_names=("lying", "standing"))


def several(classes: int, per_class: int = 8) -> Dataset:
    """As many classes as asked for, 8x8 RGB, each with waves of its own under noise; tested on what is learned."""
    labels = torch.arange(classes * per_class) % classes
    wave = 60 * torch.sin(torch.arange(SIZE) * (1 + torch.arange(classes))[:, None])  # (classes, w)
    pixels = 128 + wave[labels][:, None, None] + 40 * noise(len(labels), 3, SIZE, SIZE)
    split = pixels.clamp(0, 255).to(torch.uint8), labels
    return build("waves", split, split, class_names=tuple(f"wave {label}" for label in range(classes)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same for the same seed."""
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def copied(tensors: Parameters) -> Parameters:
    return {name: value.detach().clone() for name, value in tensors.items()}


def doubled(tensors: Parameters) -> Parameters:
    """Floating-point tensors in double precision, others as they are."""
    return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}


def assert_same(actual: Any, expected: Any) -> None:
    """Equal to the last bit."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def compiles(test: Callable[..., None]) -> Callable[..., None]:
    """Marks of tests that compile, which takes 5 to 20 seconds for each graph."""
    marks = (
        pytest.mark.skipif(not execution.can_compile(CPU), reason="no C++ compiler here"),
        pytest.mark.timeout(600),
        # Importing PyTorch's compiler compiles a module of its own in a way that PyTorch has deprecated.
        pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    )
    for mark in marks:
        test = mark(test)
    return test


class Notes(Quiet):
    """Keeps what a run says and what its phases are called."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.phases: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def phase(self, name: str) -> None:
        self.phases.append(name)
