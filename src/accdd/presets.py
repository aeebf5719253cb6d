"""Settings with a source: accdd's own two, and rows of the papers' tables with what was published for them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from accdd import config, defaults
from accdd.data import NAMED
from accdd.methods import sweeps_and_epochs

Changes = dict[str, Any]
"""Dotted settings, as in {"pool.epochs": 2.0}."""


class Preset(NamedTuple):
    """A row."""

    changes: Callable[[int], Changes]
    """Images per class to settings."""
    source: str
    """Where the settings come from."""
    published: Mapping[int, float] = {}
    """Test accuracy in percent by images per class, as its authors report it."""
    cost: str = ""
    """What the published run took."""

    @property
    def about(self) -> str:
        """One line."""
        function = self.changes.func if isinstance(self.changes, functools.partial) else self.changes
        return (function.__doc__ or "").partition("\n")[0]

    @property
    def protocol(self) -> str:
        """By which its authors score: a name from `accdd.evaluation.PROTOCOLS`."""
        return PROTOCOLS.get(self.source, "idc")


# What the papers say of each data set. ---------------------------------------------------------------------------


def constants(name: str) -> Changes:
    """The papers' mean and deviation of a data set."""
    return {"data.mean": list(NAMED[name].mean), "data.std": list(NAMED[name].std)}


MNIST, FASHION_MNIST, SVHN, CIFAR10 = map(constants, ("mnist", "fashion-mnist", "svhn", "cifar10"))
CIFAR100_DC = constants("cifar100")  # IDC's code takes CIFAR-10's
IMAGENET = constants("imagenet-100") | {"data.size": NAMED["imagenet-100"].size}

SMALL: Changes = {"network.name": "convnet", "network.width": 128, "network.depth": 3}
PHOTOGRAPHS: Changes = {"network.name": "resnet_ap10"}

# Methods. --------------------------------------------------------------------------------------------------------


def idc(
    ipc: int, *, data: Changes, network: Changes = SMALL, distance: str = "mse", lr: float = 5e-3, base_size: int = 32,
    factor: int = 2, train_images: int = 500, steps: int = 2000,
) -> Changes:  # fmt: skip
    """IDC (Kim et al., ICML 2022), released code: fresh networks, trained on real data between 100 sweeps each."""
    del ipc
    return {
        **data,
        **network,
        "method": "idc",
        "pool.use": False,
        "perturb.use": False,
        "match.distance": distance,
        "images.step": "gradient",
        "images.lr": lr,
        "images.base_size": base_size,
        "images.factor": factor,
        "images.start": "mixed" if factor > 1 else "random",
        "images.shrink": "nearest",
        "loop.steps": steps,
        "loop.inner_steps": 100,
        "loop.train_images": train_images,
    }


def idc_mnist(ipc: int) -> Changes:
    """IDC on MNIST: with multi-formation no cutout and no CutMix."""
    plain: Changes = {"match.augment": ["color", "crop"], "train.cutmix": 0.0}
    return _idc_mnist(ipc) | plain


def idc_imagenet(ipc: int, *, epochs: float, lr: float, factor: int = 3) -> Changes:
    """IDC on ImageNet-10: every fresh network is trained for ten epochs before its first sweep."""
    shape: Changes = {"distance": "l1", "base_size": 224, "factor": factor, "steps": 500}
    changes = idc(ipc, data=IMAGENET, network=PHOTOGRAPHS, lr=lr, **shape)
    return changes | {"train.cutmix": 1.0, "loop.warm_up": epochs}


def idc_imagenet100(ipc: int, *, factor: int = 3) -> Changes:
    """IDC on ImageNet-100: networks from 10 of 5 epochs. Published in 5 parts of 20 classes, which saves memory."""
    early: Changes = {"pool.use": True, "pool.networks": 10, "pool.epochs": [5.0]}
    early |= {"pool.lr_scales": [1.0], "pool.augment": [["color", "crop"]], "pool.schedule": "constant"}
    recipe: Changes = {"train.lr": 0.1, "train.weight_decay": 1e-4, "train.batch": 128}
    return idc_imagenet(ipc, epochs=0, lr=1e-3, factor=factor) | early | recipe


def accdd(ipc: int, host: Callable[[int], Changes], *, steps: int, epochs: float, lr: float) -> Changes:
    """AccDD (Zhang et al., CVPR 2023): a host with 5 early-stage models, perturbed, and a fraction of the steps.

    The paper says that the networks differ in learning rate and augmentation, not how: `pool.lr_scales` and
    `pool.augment` are ours.
    """
    return host(ipc) | {
        "pool.use": True,
        "pool.networks": 5,
        "pool.epochs": [epochs],
        "pool.lr_scales": [1.0, 0.7, 1.4],
        "pool.augment": [["color", "crop"], ["color", "crop", "cutout"], ["crop"]],
        "pool.schedule": "falling",
        "perturb.use": True,
        "perturb.magnitude": [0.01, 0.09],
        "images.lr": lr,
        "loop.steps": steps,
    }


def dc(ipc: int, *, data: Changes, method: str = "dc") -> Changes:
    """DC (Zhao et al., ICLR 2021) and DSA (Zhao & Bilen, ICML 2021): fresh networks, trained on the synthetic set.

    Loops are published for IPC 1, 10, 20, 30, 40 and 50; see `methods.sweeps_and_epochs` for others.
    """
    sweeps, epochs = sweeps_and_epochs(ipc)
    return {
        **data,
        **SMALL,
        "method": method,
        "pool.use": False,
        "perturb.use": False,
        "images.step": "gradient",
        "images.lr": 0.1,
        "targets.count": 0,
        "loop.steps": 1000,
        "loop.inner_steps": sweeps,
        "loop.train_epochs": epochs,
    }


def dm(ipc: int, *, data: Changes) -> Changes:
    """DM (Zhao & Bilen, WACV 2023): a fresh network every sweep, never trained."""
    own: Changes = {"images.lr": 1.0, "loop.steps": 20000, "loop.inner_steps": 1, "loop.train_epochs": 0}
    return dc(ipc, data=data, method="dm") | own


def paper(ipc: int) -> Changes:
    """AccDD as published, on any data: the settings for CIFAR-10 with the data's own network, mean and deviation."""
    return accdd(ipc, functools.partial(idc, data={}, network={}, train_images=2000), steps=400, epochs=2.0, lr=1e-2)


def fast(ipc: int) -> Changes:
    """accdd's own: networks are not trained between sweeps, and the real halves of sweeps come from a bank of targets.

    As by default, but with as many targets as help, whatever they cost: how the headlines of RESULTS.md were made.
    """
    del ipc
    return {"loop.inner_steps": 1, "targets.count": defaults.TARGETS}


# Rows. -----------------------------------------------------------------------------------------------------------

_idc_mnist = functools.partial(idc, data=MNIST, distance="l1", lr=1e-4, base_size=28)
_idc_svhn = functools.partial(idc, data=SVHN)
_idc_fashion = functools.partial(idc, data=FASHION_MNIST, distance="l1", lr=1e-4)
_idc_cifar = functools.partial(idc, data=CIFAR10, train_images=2000)
_idc_imagenet10 = functools.partial(idc_imagenet, epochs=10.0, lr=3e-3)
_accdd_cifar = functools.partial(accdd, host=_idc_cifar, epochs=2.0, lr=1e-2)
_accdd_imagenet10 = functools.partial(accdd, host=_idc_imagenet10, epochs=10.0, lr=3e-3)
_accdd_imagenet100 = functools.partial(accdd, host=idc_imagenet100, epochs=10.0, lr=1e-3)
_dsa = functools.partial(dc, method="dsa")

OURS = "accdd, RESULTS.md"
KIM = "IDC, Kim et al., ICML 2022"
ZHANG = "AccDD, Zhang et al., CVPR 2023"
ZHAO = "DC, Zhao et al., ICLR 2021"
ZHAO_DSA = "DSA, Zhao & Bilen, ICML 2021"
ZHAO_DM = "DM, Zhao & Bilen, WACV 2023"
PROTOCOLS = {ZHAO: "dc", ZHAO_DSA: "dsa", ZHAO_DM: "dsa"}
"""How the sources score, where it is not by `idc`."""
READ_OFF = "GPU hours at IPC 10, read off Fig. 1"

PRESETS: dict[str, Preset] = {
    "fast": Preset(fast, OURS),
    "paper": Preset(paper, ZHANG),
    "accdd-cifar10": Preset(
        functools.partial(_accdd_cifar, steps=400), ZHANG, {1: 49.2, 10: 67.1, 50: 73.8}, f"4.26 {READ_OFF}"
    ),
    "accdd-cifar10-10x": Preset(functools.partial(_accdd_cifar, steps=200), ZHANG, {10: 66.5}, f"2.19 {READ_OFF}"),
    "accdd-cifar10-20x": Preset(functools.partial(_accdd_cifar, steps=100), ZHANG, {10: 65.1}, f"1.15 {READ_OFF}"),
    "accdd-cifar100": Preset(functools.partial(_accdd_cifar, steps=400), ZHANG, {1: 29.8, 10: 45.6, 50: 52.6}),
    "accdd-cifar100-10x": Preset(functools.partial(_accdd_cifar, steps=200), ZHANG, {1: 29.4, 10: 45.2}),
    "accdd-cifar100-20x": Preset(functools.partial(_accdd_cifar, steps=100), ZHANG),
    "accdd-imagenet-10": Preset(functools.partial(_accdd_imagenet10, steps=100), ZHANG),
    "accdd-imagenet-10-10x": Preset(functools.partial(_accdd_imagenet10, steps=50), ZHANG),
    "accdd-imagenet-10-20x": Preset(functools.partial(_accdd_imagenet10, steps=25), ZHANG),
    "accdd-imagenet-100": Preset(functools.partial(_accdd_imagenet100, steps=100), ZHANG),
    "accdd-imagenet-100-10x": Preset(functools.partial(_accdd_imagenet100, steps=50), ZHANG),
    "accdd-imagenet-100-20x": Preset(functools.partial(_accdd_imagenet100, steps=25), ZHANG),
    "idc-mnist": Preset(idc_mnist, KIM, {1: 94.2, 10: 98.4, 50: 99.1}),
    "idc-fashion-mnist": Preset(_idc_fashion, KIM, {1: 81.0, 10: 86.0, 50: 86.2}),
    "idc-svhn": Preset(_idc_svhn, KIM, {1: 68.5, 10: 87.5, 50: 90.1}),
    "idc-cifar10": Preset(_idc_cifar, KIM, {1: 50.6, 10: 67.5, 50: 74.5}, f"22.4 {READ_OFF}"),
    "idc-cifar100": Preset(_idc_cifar, KIM, {10: 45.1, 20: 49.0}),
    "idc-imagenet-10": Preset(_idc_imagenet10, KIM, {10: 72.8, 20: 76.6}),
    "idc-imagenet-100": Preset(idc_imagenet100, KIM, {10: 46.7, 20: 53.7}),
    "idc-i-mnist": Preset(functools.partial(_idc_mnist, factor=1), KIM, {1: 88.9, 10: 98.0, 50: 98.8}),
    "idc-i-fashion-mnist": Preset(functools.partial(_idc_fashion, factor=1), KIM, {1: 70.7, 10: 85.3, 50: 89.1}),
    "idc-i-cifar10": Preset(functools.partial(_idc_cifar, factor=1), KIM, {1: 36.7, 10: 58.3, 50: 69.5}),
    "idc-i-cifar100": Preset(functools.partial(_idc_cifar, factor=1), KIM, {10: 36.6, 20: 41.5}),
    "idc-i-svhn": Preset(functools.partial(_idc_svhn, factor=1), KIM, {1: 46.7, 10: 77.0, 50: 87.9}),
    "idc-i-imagenet-10": Preset(functools.partial(_idc_imagenet10, factor=1), KIM, {10: 61.4, 20: 65.5}),
    "idc-i-imagenet-100": Preset(functools.partial(idc_imagenet100, factor=1), KIM, {10: 29.2, 20: 34.5}),
    "dc-mnist": Preset(functools.partial(dc, data=MNIST), ZHAO, {1: 91.7, 10: 97.4, 50: 98.8}),
    "dc-fashion-mnist": Preset(functools.partial(dc, data=FASHION_MNIST), ZHAO, {1: 70.5, 10: 82.3, 50: 83.6}),
    "dc-svhn": Preset(functools.partial(dc, data=SVHN), ZHAO, {1: 31.2, 10: 76.1, 50: 82.3}),
    "dc-cifar10": Preset(functools.partial(dc, data=CIFAR10), ZHAO, {1: 28.3, 10: 44.9, 50: 53.9}, f"1.38 {READ_OFF}"),
    "dc-cifar100": Preset(functools.partial(dc, data=CIFAR100_DC), ZHAO, {1: 12.8, 10: 25.2}),
    "dsa-mnist": Preset(functools.partial(_dsa, data=MNIST), ZHAO_DSA, {1: 88.7, 10: 97.8, 50: 99.2}),
    "dsa-fashion-mnist": Preset(functools.partial(_dsa, data=FASHION_MNIST), ZHAO_DSA, {1: 70.6, 10: 84.6, 50: 88.7}),
    "dsa-svhn": Preset(functools.partial(_dsa, data=SVHN), ZHAO_DSA, {1: 27.5, 10: 79.2, 50: 84.4}),
    "dsa-cifar10": Preset(
        functools.partial(_dsa, data=CIFAR10), ZHAO_DSA, {1: 28.8, 10: 52.1, 50: 60.6}, f"1.66 {READ_OFF}"
    ),
    "dsa-cifar100": Preset(functools.partial(_dsa, data=CIFAR100_DC), ZHAO_DSA, {1: 13.9, 10: 32.3, 50: 42.8}),
    "dm-mnist": Preset(functools.partial(dm, data=MNIST), ZHAO_DM),
    "dm-fashion-mnist": Preset(functools.partial(dm, data=FASHION_MNIST), ZHAO_DM),
    "dm-svhn": Preset(functools.partial(dm, data=SVHN), ZHAO_DM),
    "dm-cifar10": Preset(
        functools.partial(dm, data=CIFAR10), ZHAO_DM, {1: 26.0, 10: 48.9, 50: 63.0}, f"0.89 {READ_OFF}"
    ),
    "dm-cifar100": Preset(functools.partial(dm, data=CIFAR100_DC), ZHAO_DM, {1: 11.4, 10: 29.7, 50: 43.6}),
}


def given(preset: str | None, own: Mapping[str, Any]) -> Changes:
    """The preset's dotted settings with the user's own over them.

    Raises:
        InputError: there is no such preset, or something is wrong with the settings.
    """
    if preset is None:
        return dict(own)
    row = config.choose("preset", preset, PRESETS)
    return row.changes(config.override(config.Settings(), own).ipc) | dict(own)
