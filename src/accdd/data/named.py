"""Data sets that are known by name: one table of facts."""

from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Named(NamedTuple):
    """A row."""

    title: str
    """As papers write it."""
    classes: int
    channels: int
    size: int
    """Height and width that papers work at, and the working size unless another is wanted."""
    mean: tuple[float, ...] = ()
    """The papers' constant per channel, for presets: what is loaded by name is measured like any other data."""
    std: tuple[float, ...] = ()
    """The same."""
    mirrors: bool = True
    """Whether a mirrored picture still is of its class."""
    hub: str = ""
    """The hub's "owner/name"; empty for what needs no hub."""
    options: Mapping[str, Any] = {}
    """What else `datasets.load_dataset` is told."""
    image: str = "image"
    """The hub's column of pictures."""
    label: str = "label"
    """The hub's column of classes."""
    test: str = "test"
    """The hub's split to test on; that to train on is train everywhere."""
    gated: bool = False
    """Whether the hub asks for an account that has accepted the data set's terms."""
    only: int | None = None
    """How many lines of `imagenet100.txt` are its classes, in this order; None is all classes of the source."""


# The deviations of CIFAR-10 are historical (the true ones are .2470 .2435 .2616); those of CIFAR-100 are DC's.
NAMED: dict[str, Named] = {
    "digits": Named("scikit-learn's digits", 10, 1, 8, mirrors=False),
    "mnist": Named("MNIST", 10, 1, 28, (0.1307,), (0.3081,), mirrors=False, hub="ylecun/mnist"),
    "fashion-mnist": Named("Fashion-MNIST", 10, 1, 28, (0.2861,), (0.3530,), hub="zalando-datasets/fashion_mnist"),
    "svhn": Named(
        "SVHN", 10, 3, 32, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), mirrors=False,
        hub="ufldl-stanford/svhn", options={"name": "cropped_digits"},
    ),
    "cifar10": Named(
        "CIFAR-10", 10, 3, 32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), hub="uoft-cs/cifar10", image="img"
    ),
    "cifar100": Named(
        "CIFAR-100", 100, 3, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762), hub="uoft-cs/cifar100",
        image="img", label="fine_label",
    ),
    "tiny-imagenet": Named(
        "Tiny-ImageNet", 200, 3, 64, IMAGENET_MEAN, IMAGENET_STD, hub="zh-plus/tiny-imagenet", test="valid"
    ),
    "imagenet-10": Named(
        "ImageNet-10", 10, 3, 224, IMAGENET_MEAN, IMAGENET_STD, hub="ILSVRC/imagenet-1k", test="validation",
        gated=True, only=10,
    ),
    "imagenet-100": Named(
        "ImageNet-100", 100, 3, 224, IMAGENET_MEAN, IMAGENET_STD, hub="ILSVRC/imagenet-1k", test="validation",
        gated=True, only=100,
    ),
    # The repository itself is a script, which the library does not run; the hub keeps a copy of it as parquet.
    "imagenette": Named(
        "Imagenette", 10, 3, 128, IMAGENET_MEAN, IMAGENET_STD, hub="frgfm/imagenette", test="validation",
        options={"revision": "refs/convert/parquet", "data_dir": "320px"},
    ),
}  # fmt: skip


def subset(count: int) -> dict[str, int]:
    """The first `count` classes of ImageNet-100, in order: WordNet id to label among ImageNet's 1,000."""
    lines = (resources.files("accdd.data") / "imagenet100.txt").read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {wordnet_id: int(label) for wordnet_id, label in rows[:count]}


def mirrors(name: str) -> bool:
    """Whether a mirrored picture of the data called `name`, or so at its beginning, still is of its class."""
    begins = name.lower().rpartition("/")[2]
    return not begins.startswith(tuple(key for key, facts in NAMED.items() if not facts.mirrors))
