"""Evaluation protocols by name: how a fresh network is trained on a set before it is tested once.

What a score costs is stated for ConvNet-3-128 on 32-pixel images: 0.30 GFLOP per image and pass, so that a network
costs epochs x decoded images x 0.30 GFLOP.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

from accdd import augment, training
from accdd.config import Train

Schedule = Callable[[int, int], float]
"""(epoch from 0, epochs) -> factor on the recipe's learning rate."""


def tenth_halfway(epoch: int, epochs: int) -> float:
    """1 in the first half of the epochs and in an only one, 0.1 in the second."""
    return 0.1 if epoch >= max(1, epochs // 2) else 1.0


class Case(NamedTuple):
    """What is scored, as far as protocols make exceptions for it."""

    data: str
    """The data set's name, as in `svhn`."""
    ipc: int | None = None
    """Stored images per class; None where it is not known, which no exception is for."""
    factor: int = 1
    """A stored image decodes into factor x factor images."""
    size: int = 32
    """Pixels per side."""
    num_classes: int = 10
    network: str | None = None
    """Name of the network that is trained; None where no exception is for it."""

    def is_of(self, *names: str) -> bool:
        """Whether the data set's own name, without its owner's, begins with one of `names`."""
        return self.data.lower().rpartition("/")[2].startswith(names)


Exceptions = Callable[["Protocol", Case], "Protocol"]
"""(protocol, what is scored) -> the protocol as its source applies it there."""


def no_exceptions(protocol: "Protocol", case: Case) -> "Protocol":
    """The protocol as it is, whatever is scored."""
    del case
    return protocol


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A recipe with its origin. The score is the accuracy after the last epoch."""

    name: str
    recipe: Train
    """How a network is trained, but for how long and at which share of its learning rate."""
    source: str
    """Where it comes from, and where we differ."""
    cost: str = ""
    """What one network costs, in a sentence."""
    schedule: Schedule = training.fifth_twice
    """The learning rate over time; IDC's is a fifth at 2/3 and again at 5/6 of the epochs."""
    epochs: int | None = None
    """Passes over the decoded set, or None with `steps`."""
    steps: int | None = None
    """SGD steps instead: epochs then follow from the number of images."""
    exceptions: Exceptions = no_exceptions
    """What the source does otherwise on some data."""

    def epochs_for(self, count: int) -> int:
        """Passes over `count` decoded images."""
        if self.epochs is not None:
            return self.epochs
        assert self.steps is not None, "a protocol states epochs or steps"
        return max(1, round(self.steps / math.ceil(count / self.recipe.batch)))

    def changed(self, words: str, *, epochs: int | None = None, **recipe: object) -> "Protocol":
        """With another recipe, which the name says in `words`; epochs only where the protocol counts them."""
        epochs = epochs if epochs and self.epochs else self.epochs
        changed = dataclasses.replace(self.recipe, **recipe)  # pyright: ignore[reportArgumentType]
        return dataclasses.replace(self, name=f"{self.name}, {words}", recipe=changed, epochs=epochs)


def idc_exceptions(protocol: Protocol, case: Case) -> Protocol:
    """IDC's, from its released code: MNIST in tiles, SVHN at one whole image per class, ImageNet subsets, DenseNet."""
    if case.is_of("mnist") and case.factor > 1:
        return protocol.changed("no CutMix", cutmix=0.0)
    if case.is_of("svhn") and (case.ipc, case.factor) == (1, 1):
        return protocol.changed("no CutMix, cutout", augment=(*protocol.recipe.augment, "cutout"), cutmix=0.0)
    if case.is_of("imagenet") and case.size >= 128 and case.ipc:
        many = case.num_classes >= 100  # ImageNet-100
        rates = {"lr": 0.1, "weight_decay": 1e-4, "batch": 128} if many else {}
        epochs = imagenet_epochs(case.ipc * case.factor**2)
        epochs = epochs * 2 // 3 // 100 * 100 if many else epochs
        names = ("flip", *augment.PHOTOGRAPHS)
        return protocol.changed("as on ImageNet", epochs=epochs, augment=names, cutmix=1.0, **rates)
    if protocol.epochs and case.network == "densenet121" and (case.ipc or 0) >= 50 and case.factor > 1:
        return protocol.changed("400 epochs for DenseNet", epochs=400)
    return protocol


def imagenet_epochs(decoded: int) -> int:
    """IDC's epochs on ImageNet-10 by decoded images per class."""
    steps = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
    return next((epochs for most, epochs in steps if decoded <= most), 300)


def dc_exceptions(protocol: Protocol, case: Case) -> Protocol:
    """DC's: augmentation, and therefore more epochs, on MNIST; it has them for networks with batch norm, too, which is
    left out."""
    if case.is_of("mnist"):
        return protocol.changed("crop, scale or rotate", epochs=1000, augment=augment.PLACEMENTS)
    return protocol


IDC = Protocol(
    name="idc",
    epochs=1000,
    recipe=Train(augment=("color", "crop", "scale", "rotate", "flip"), cutmix=0.5),
    source="Kim et al., ICML 2022, released code",
    cost="1,000 epochs in batches of 64, lr 0.01 falling to a fifth at 2/3 and 5/6: 12 TFLOP at 40 decoded images.",
    exceptions=idc_exceptions,
)

QUICK = dataclasses.replace(
    IDC,
    name="quick",
    epochs=None,
    steps=1000,
    source="IDC's recipe stopped at about 1,000 steps: `idc` itself up to 64 decoded images, an estimate beyond",
    cost="About 1,000 steps of at most 64 images, lr as in idc: 19 TFLOP at most.",
)

DC = Protocol(
    name="dc",
    epochs=300,
    recipe=Train(batch=256, augment=(), cutmix=0),
    schedule=tenth_halfway,
    source="Zhao et al., ICLR 2021, released code; it trains one epoch more, the first of its slow ones two later, and "
    "begins those with no momentum; it rotates MNIST by up to 45 degrees and we by 15, and draws for every image "
    "whether to crop, scale or rotate, and we for every batch; its longer training with augmentation of networks with "
    "batch norm is missing here",
    cost="300 epochs in batches of 256, lr 0.01 falling to a tenth halfway: 0.9 TFLOP at 10 images, 45 at 500.",
    exceptions=dc_exceptions,
)

DSA = dataclasses.replace(
    DC,
    name="dsa",
    epochs=1000,
    recipe=Train(batch=256, augment=augment.NAMES, one_of=True, cutmix=0),
    source="Zhao & Bilen, ICML 2021, released code; one epoch more there, and a new momentum halfway, as in dc",
    cost="1,000 epochs in batches of 256, lr 0.01 falling to a tenth halfway: 3 TFLOP at 10 images, 150 at 500.",
    exceptions=no_exceptions,
)

MTT = dataclasses.replace(
    DSA,
    name="mtt",
    source="Cazenavette et al., CVPR 2022, released code: dsa at the learning rate that was learned with the set, "
    "0.01 here because no set brings one; its ZCA whitening (some of its settings) is missing here",
    cost="As dsa.",
)

DDRANKING_HARD = dataclasses.replace(
    DSA,
    name="ddranking-hard",
    recipe=dataclasses.replace(DSA.recipe, batch=128),
    source="Li et al., DD-Ranking, 2025 (arXiv 2505.13300), its configuration Demo_LRS_Hard_Label. It reports the "
    "best of tests every ten epochs, and takes the best of five learning rates for random images, both on the test "
    "images; here both sets train at 0.01, and the last epoch counts",
    cost="1,000 epochs in batches of 128, lr 0.01 falling to a tenth halfway: 3 TFLOP at 10 images, 150 at 500.",
)

DDRANKING_PLAIN = dataclasses.replace(
    DDRANKING_HARD,
    name="ddranking-plain",
    recipe=dataclasses.replace(DDRANKING_HARD.recipe, augment=(), one_of=False),
    source="ddranking-hard without augmentation, as DD-Ranking's augmentation-robust score trains once more; its own "
    "configuration for that, Demo_ARS, is of soft labels on ImageNet",
    cost="As ddranking-hard.",
)

PROTOCOLS = {rule.name: rule for rule in (IDC, QUICK, DC, DSA, MTT, DDRANKING_HARD, DDRANKING_PLAIN)}

WHOLE = Protocol(
    name="whole",
    epochs=30,
    recipe=Train(lr=0.05, batch=128, augment=("crop", "flip"), cutmix=0),
    source="accdd's own, for the whole training set and no other",
    cost="30 epochs in batches of 128, lr 0.05 falling to a fifth at 2/3 and 5/6: 450 TFLOP at 50,000 images.",
)
"""How networks are trained on the whole set. Not among `PROTOCOLS`: sets of a few images are not scored by it."""


def rule_of(label: str) -> str:
    """The name of the protocol that was asked for, of one with what was suited or changed behind a comma."""
    return label.partition(",")[0]


def suited(protocol: Protocol, case: Case) -> Protocol:
    """The protocol as its source applies it to what is scored, and without flips where mirroring changes the class.

    What differs from the protocol as stated is said in its name.
    """
    protocol = protocol.exceptions(protocol, case)
    names = augment.suited(protocol.recipe.augment, case.data)
    return protocol if names == protocol.recipe.augment else protocol.changed("no flip", augment=names)
