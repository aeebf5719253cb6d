"""Host methods as values. Each is a choice of the same pieces; numbers (sizes, rates, lengths) are settings.

IDC is gradient matching of convolutions, on multi-formation images, seen through one siamese draw of color, crop and
cutout, with the network trained on real data between sweeps. DC matches the gradients of all weights by their angles,
with the network trained on the synthetic set; DSA is DC seen through one siamese augmentation at a time; DM compares
mean features of networks that are never trained. Model augmentation is no method: it is where networks come from.

A method of another package is a `Method` value that it names as an entry point of the group `accdd.methods`.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

import torch

from accdd import augment, synthetic
from accdd.config import InputError, Settings, Train, choose
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.formation import FORMATIONS, Formation
from accdd.matching import DISTANCES, Summary, convolutions, embedding, gradient, weights
from accdd.networks import Architecture, Forward
from accdd.networks.external import version_of

ENTRY_POINTS = "accdd.methods"

PLAIN_SGD = Train(lr=0.01, momentum=0, weight_decay=0, batch=256, augment=(), cutmix=0)
"""How DC trains networks on the synthetic set."""


@dataclasses.dataclass(frozen=True)
class Method:
    """What distinguishes one host from another."""

    summary: Summary
    """What of a batch is compared."""
    distance: str
    """How, unless `match.distance` says otherwise: a name from `matching.DISTANCES`."""
    lr: Mapping[str, float]
    """By distance, the size of a gradient step for which there is evidence, unless `images.lr` says otherwise."""
    source: str
    """Where it was published."""
    siamese: tuple[str, ...] = ()
    """Augmentations shared by real and synthetic images, unless `match.augment` says otherwise."""
    one_of: bool = False
    """Whether one of them is used at a time, unless `match.one_of` says otherwise."""
    real_batch: int = 256
    """Real images of a class in a step, unless `match.real_batch` says otherwise."""
    formation: Formation | None = None
    """A formation of its own to distil with, unless `images.formation` says otherwise; None follows from factor and
    images per class. Whatever this is, the finished set is decoded as `formation.decoded_by` says."""
    factor: int | None = 1
    """Images stored in one, per side, unless `images.factor` says otherwise; None follows from the image size."""
    start: str | None = "random"
    """What images begin as where factor is 1, unless `images.start` says otherwise; None is random. Above it, mixed."""
    step: synthetic.StepRule = synthetic.after_every_sweep
    """How a gradient step is sized: what a learning rate means in the method's released code."""
    early_stage: bool = True
    """Whether networks are drawn from early-stage models, unless `pool.use` says otherwise."""
    clamped: bool = False
    """Whether images are kept in [0, 1] while they are learned by gradient steps (they always are at the end)."""
    trains_on: Literal["real", "synthetic"] | None = None
    """What the network is trained on between sweeps."""
    small: float = 1.0
    """Factor on `lr` for images below 28 pixels."""
    frozen: bool = True
    """Whether BatchNorm is frozen while a network is matched, at the statistics of some real images of every class.
    Where DM's code puts all classes in one batch instead, so do these statistics."""
    recipe: Train = PLAIN_SGD
    """How, on the synthetic set; on real data as the pool's networks (`train`)."""


IDC = Method(
    summary=gradient(convolutions),
    distance="mse",
    lr={"mse": 1e-2, "l1": 1e-4, "cosine": 1e-1},
    source="Kim et al., ICML 2022",
    siamese=("color", "crop", "cutout"),
    real_batch=64,
    factor=None,
    start=None,
    step=synthetic.after_every_class,
    clamped=True,
    small=3.0,  # checked on held-out training digits, see RESULTS.md
    trains_on="real",
    frozen=False,
)

IDC_I = dataclasses.replace(IDC, factor=1)

DC = Method(
    summary=gradient(weights),
    distance="cosine",
    lr={"cosine": 0.1},
    source="Zhao et al., ICLR 2021",
    start="normal",
    trains_on="synthetic",
    early_stage=False,  # they cost DC up to 18 points and DSA 11, see RESULTS.md
)

DSA = dataclasses.replace(
    DC,
    source="Zhao & Bilen, ICML 2021",
    siamese=augment.NAMES,
    one_of=True,
    start="random",
    recipe=dataclasses.replace(PLAIN_SGD, augment=augment.NAMES, one_of=True),
)

DM = Method(
    summary=embedding,
    distance="mse",
    lr={"mse": 1.0},
    source="Zhao & Bilen, WACV 2023",
    siamese=augment.NAMES,
    one_of=True,
    early_stage=False,  # one or two points worse with them, see RESULTS.md
)

METHODS = {"idc": IDC, "idc-i": IDC_I, "dsa": DSA, "dc": DC, "dm": DM}


def named(name: str) -> Method:
    """The method of this name, accdd's or, by its entry point, another package's.

    Raises:
        InputError: there is none, or what the entry point names is none.
    """
    if name in METHODS:
        return METHODS[name]
    others = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    found: Any = choose("method", name, {**METHODS, **others})
    try:
        method = found.load()
    except Exception as error:  # anything may go wrong in a stranger's module
        raise InputError(f"The method '{name}' ({found.value}) cannot be loaded: {error!r}.") from error
    if not isinstance(method, Method):
        raise InputError(f"The method '{name}' ({found.value}) is {method!r}. Expected an accdd.methods.Method.")
    return method


def asked_of_real_images(name: str) -> str | list[str]:
    """The part of a bank's key that stands for what a method computes of real images.

    Methods of accdd that ask the same of real images, as DSA and DC do, share a name; of another package's, the code of
    its module decides, too.
    """
    method = named(name)
    if name not in METHODS:
        modules = [entry.module for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
        return [name, *(version_of(importlib.import_module(module)) for module in modules)]
    same = (other for other, each in METHODS.items() if (each.summary, each.frozen) == (method.summary, method.frozen))
    return next(same)


def sweeps_and_epochs(ipc: int) -> tuple[int, int]:
    """DC's and DSA's sweeps with one network, and passes over the synthetic set between two of them.

    Published for IPC 1, 10, 20, 30, 40 and 50; others follow the same rule, 500 passes in all.
    """
    published = {1: (1, 0), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    return published.get(ipc, (ipc, max(1, round(500 / ipc))))


def problem(settings: Settings, data: Dataset, architecture: Architecture) -> Problem:
    """The method that the (resolved) settings name, put together for some data and network, in fp32."""
    method = named(settings.method)
    chosen = FORMATIONS[settings.images.formation] if settings.images.formation else method.formation
    factor = settings.images.factor
    assert settings.match.distance and factor and chosen  # resolved
    return Problem(
        forward=Forward(architecture),
        summary=method.summary,
        distance=DISTANCES[settings.match.distance],
        decode=lambda stored: chosen(stored, factor, settings.match.synthetic_batch),
        mean=torch.tensor(data.mean, device=data.device),
        std=torch.tensor(data.std, device=data.device),
        frozen=method.frozen,
        recipe=method.recipe,
    )
