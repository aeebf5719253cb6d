"""Settings: everything a run can be told, validated once, then frozen.

Fields that are None are derived from the data or taken from the method (see `defaults.resolve`), and
the run folder records both what was given and what it became.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass


class InputError(ValueError):
    """The user's input is wrong; the message says what came, what was expected and what to type."""


class Notice(UserWarning):
    """What the user had better know, though accdd goes on: a damaged entry of the cache, another process waited for."""


SMALLEST, LARGEST = 4, 1024
"""Height and width in pixels that images are worked on at."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _absolute(value: str | None) -> str | None:
    """A folder by a name that is its own wherever a run is looked at, or gone on with, from."""
    return None if value is None else str(Path(value).expanduser().absolute())


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Data:
    """How pictures become tensors."""

    name: str | None = Field(default=None, min_length=1)
    """What to call the data; None is its folder's, its file's, or `arrays`. Pictures of data called digits, mnist... or
    svhn... are not mirrored, and protocols make their sources' exceptions by this name."""
    root: str | None = None
    """Folder with copies of data sets that are known by name, as in ROOT/cifar10; None is $ACCDD_DATA, if set."""
    size: int | None = Field(default=None, ge=SMALLEST, le=LARGEST)
    """Working height and width in pixels; None is the papers' for data known by name, and otherwise keeps square
    pictures of one size or picks one."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class kept aside for testing when the data brings no test split."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Test on this share of each class's training images, which are not learned from, and not on the test images: for
    choosing settings. Protocols then say `held out`."""
    skip_unreadable: bool = False
    """Leave out pictures that cannot be decoded instead of stopping at the first."""
    mean: tuple[float, ...] | None = None
    """Per channel, subtracted from pixels in [0, 1]; None is measured on the training images."""
    std: tuple[float, ...] | None = None
    """Per channel, divided by after subtracting the mean; None is measured on the training images."""

    _of_any_folder = field_validator("root")(_absolute)

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (not value or min(value) <= 0):
            raise ValueError("expected numbers above 0, one per channel")
        return value


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Network:
    """The network that is matched against."""

    name: str = "convnet"
    """convnet, resnet10, resnet18, resnet_ap10, resnet_ap18, densenet121, alexnet, vgg11, mlp, lenet, efficientnet_b0,
    vit_tiny; module:callable, which is imported and called with (channels, size, num_classes); or timm:NAME."""
    width: int | None = Field(default=None, ge=1)
    """Filters of the first convolution, or of every layer of an mlp or vit_tiny; None is the network's own."""
    depth: int | None = Field(default=None, ge=1, le=32)
    """Blocks of a convnet or vit_tiny; None follows from the image size, or is the network's own."""
    norm: Literal["instance", "batch", "group", "layer", "none"] | None = None
    """What follows convolutions, where there is a choice (not in alexnet, lenet, mlp, vit_tiny); None is the network's
    own: batch in resnet10, resnet18, densenet121 and efficientnet_b0, otherwise instance."""
    activation: Literal["relu", "leaky_relu", "sigmoid", "gelu", "silu"] | None = None
    """Of a convnet; None is its own, relu."""
    pooling: Literal["avg", "max", "none"] | None = None
    """Of a convnet; None is its own, avg."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Train:
    """SGD on a classifier: the pool, the training inside the loop and evaluation differ only in these."""

    lr: float = Field(default=0.01, gt=0)
    """Learning rate per step."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD momentum."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty added to the gradient."""
    batch: int = Field(default=64, ge=1)
    """Images per step."""
    augment: tuple[str, ...] = ("color", "crop")
    """Augmentations drawn per image: color, crop, scale, rotate, flip, cutout; for photographs resized, jitter and
    lighting."""
    one_of: bool = False
    """Use one of them at a time, drawn for each batch, as DSA does, and not all but the placements, as IDC does."""
    cutmix: float = Field(default=0.5, ge=0, le=1)
    """Probability that a batch is mixed by CutMix (box area from Beta(1, 1))."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Pool:
    """Early-stage models: networks trained on the real data for a few epochs."""

    use: bool | None = None
    """Draw networks from the pool; False draws a freshly initialised network every time; None is what serves the method
    better."""
    seed: int = Field(default=0, ge=0)
    """Decides the pool and the targets made with it, which runs of every other seed share."""
    networks: int = Field(default=5, ge=1)
    """Number of networks trained."""
    epochs: tuple[float, ...] | None = None
    """Epochs (fractions allowed) at which each network is kept; training ends at the last. None is once: after two
    epochs where images go down their gradients, otherwise after as many as come nearest to 800 steps, 20 at most."""
    draw: tuple[float, ...] | None = None
    """Which of these epochs networks are drawn from, so that one pool serves many runs; None is all of them."""
    lr_scales: tuple[float, ...] = (1.0, 0.7, 1.4)
    """Network i trains with the learning rate times entry i (cyclically): diversity between members."""
    schedule: Literal["falling", "constant"] = "constant"
    """The learning rate over time. Falling is AccDD's: a fifth from 2/3 of (epochs + 1) on, a fifth of that from 5/6
    on, so not within two epochs; constant is IDC's on ImageNet-100."""
    augment: tuple[tuple[str, ...], ...] = (("color", "crop"), ("color", "crop", "cutout"), ("crop",))
    """Network i trains with augmentation set i (cyclically): diversity between members."""

    @field_validator("epochs", "draw", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float | str) else value  # YAML reads 1e-2 as text

    @field_validator("epochs", "draw")
    @classmethod
    def _not_negative(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return value
        if not value or min(value) < 0 or list(value) != sorted(set(value)):
            raise ValueError("expected one or more increasing numbers of epochs >= 0, as in 2 or [0.5, 1, 2]")
        return value

    @field_validator("lr_scales", "augment")
    @classmethod
    def _not_empty(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            raise ValueError("expected at least one entry")
        return value

    @field_validator("lr_scales")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) <= 0:
            raise ValueError("expected numbers above 0")
        return value


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Perturb:
    """Parameter perturbation: a random step away from the drawn network, so that few act like many."""

    use: bool = True
    """Perturb every drawn network."""
    magnitude: tuple[float, float] = (0.01, 0.09)
    """Each direction's coefficient is uniform in this range, with a random sign; one number fixes it."""
    directions: int = Field(default=2, ge=1)
    """Number of independent random directions added (the released AccDD code adds two)."""
    normalisation: Literal["filter", "layer", "none"] = "filter"
    """What of the direction is scaled to the weights' norm: each filter, each tensor, or nothing."""

    @field_validator("magnitude", mode="before")
    @classmethod
    def _fixed(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | float | str) else value

    @field_validator("magnitude")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError("expected 0 <= low <= high, as in 0.05 or [0.01, 0.09]")
        return value


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Match:
    """The matching loss of one class."""

    distance: Literal["mse", "l1", "cosine"] | None = None
    """How two gradients are compared; None takes the method's."""
    real_batch: int | None = Field(default=None, ge=1)
    """Real images of a class in one matching step that is not on targets; None takes the method's."""
    synthetic_batch: int = Field(default=128, ge=1)
    """Decoded synthetic images of a class in one matching step, at most."""
    augment: tuple[str, ...] | None = None
    """Siamese augmentations, one draw for real and synthetic images of a class; None takes the method's."""
    one_of: bool | None = None
    """Use one of them at a time, as `train.one_of`; None takes the method's."""
    classes: int | None = Field(default=None, ge=1)
    """Classes matched at once, at most; None follows from the device, its memory and the work of one class."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Targets:
    """The target bank: what real images do to networks that are not trained, computed once and used many times."""

    count: int | None = Field(default=None, ge=0)
    """Targets in use; 0 computes the real half anew in every sweep. None is as many as help, where there can be any."""
    real_batch: int = Field(default=256, ge=1)
    """Real images of a class behind a target; no more than the largest class has."""
    folder: str | None = None
    """Where the bank is kept; None is accdd's cache. A bank made elsewhere for other data or settings is refused."""
    refresh: float | None = Field(default=None, gt=0)
    """Replace the oldest targets when the loss on fresh ones is above that on the bank by this share; None never."""

    _of_any_folder = field_validator("folder")(_absolute)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Images:
    """The learned images and their optimiser."""

    factor: int | None = Field(default=None, ge=1, le=8)
    """One stored image holds factor x factor images; None follows from the image size."""
    formation: Literal["uniform", "multi", "bounded"] | None = None
    """All images by the full factor, by all factors from 1 on, or by the largest that `match.synthetic_batch` has room
    for; None is bounded from factor 3 and 20 images per class on where they fit, otherwise uniform, or the method's."""
    start: Literal["noise", "normal", "random", "mixed", "kmeans"] | None = None
    """Noise in [0, 1] or (normal) of the pixels' mean and deviation, one real image, or factor^2 shrunk ones each,
    drawn (mixed) or the nearest to the centres of k-means; None takes the method's."""
    step: Literal["gradient", "normalised"] | None = None
    """Go down each class's gradient, or that divided by its root mean square; None is normalised on targets."""
    lr: float | None = Field(default=None, gt=0)
    """Step size; of the gradient as the method states it (see `methods`), normalised in pixels from 0 to 1."""
    base_size: int | None = Field(default=None, ge=1)
    """Pixels per side for which a gradient step's `lr` is stated; None is the images' own size, so no scaling."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """SGD momentum; of gradients as the method's reference applies it, which may be once per class."""
    schedule: Literal["constant", "cosine"] | None = None
    """How the step size goes on: as it is, or down to nothing at the end; None is cosine where steps are normalised."""
    shrink: Literal["area", "bilinear", "nearest"] = "area"
    """How real images are shrunk into tiles for the mixed and kmeans starts."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Loop:
    """How often a network is drawn and how long it is used."""

    steps: int | None = Field(default=None, ge=0)
    """Outer steps: networks or targets used. None with a budget: as many as fit; with neither, 2000 or ten minutes."""
    inner_steps: int = Field(default=1, ge=1)
    """Sweeps over all classes with one network."""
    warm_up: float = Field(default=0, ge=0)
    """Epochs on the real data, at `train.lr`, behind every fresh network before its first sweep (IDC on ImageNet-10:
    10); early-stage models have had theirs."""
    train_images: int | None = Field(default=None, ge=0)
    """Real images the network is trained on between two sweeps (whole batches); None takes the method's."""
    train_epochs: int | None = Field(default=None, ge=0)
    """Passes over the synthetic set it is trained for between two sweeps; None takes the method's."""
    split_training: bool = False
    """Of several processes, let each work on its part of every batch a network is trained on, not all on all of it:
    faster, with sums in another order, so that the images depend on how many processes there are in their last bits."""
    budget: float | None = Field(default=None, gt=0)
    """Wall-clock seconds after which the loop stops, at the end of a sweep; None with steps given: no limit."""
    checkpoint: float | None = Field(default=None, gt=0)
    """Seconds between two savings of all that is needed to go on after a kill; None is 30, or more where the last took
    over half a percent of that."""
    snapshots: int = Field(default=8, ge=0)
    """Images kept on the way for accuracy curves, at sweeps (or, with a budget, seconds) doubling each time."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Score:
    """How the result is scored at the end of a run."""

    protocol: str = "quick"
    """A name from `accdd.evaluation.PROTOCOLS`; `accdd evaluate` scores by `idc` unless told otherwise."""
    networks: tuple[str, ...] | None = None
    """Networks trained from scratch on the distilled set: names as of `network.name`, or as convnet/width=32; None is
    the one that it was matched with."""
    seeds: int = Field(default=2, ge=0)
    """Fresh networks per score; 0 skips scoring."""
    epochs: int | None = Field(default=None, ge=1)
    """Epochs of each; None is the protocol's own number, anything else is named beside the score."""
    choose: Literal["last", "validation"] = "last"
    """The result is the last sweep's, or the snapshot that trains networks best for training images held out of all
    else; never is it chosen by test images."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of each class's training images held out where `score.choose` is validation."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Settings:
    """Everything a distillation run is told."""

    ipc: int = Field(default=1, ge=1)
    """Stored images per class."""
    method: str = "idc"
    """Host method: a name from `accdd.methods.METHODS`, or of another package (entry point `accdd.methods`)."""
    seed: int = Field(default=0, ge=0)
    """All draws follow from this number, but for those of the pool and its targets (`pool.seed`)."""
    shard: tuple[int, int] | None = None
    """Learn the classes of part k of n alone, as in [2, 4], in a run that is merged with the others; None is all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of convolutions and linear layers; auto is bf16 where the hardware multiplies it. Distances are always fp32."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Make one compiled graph of each step; auto does where an estimate says that this saves more than it costs."""
    max_memory: float | None = Field(default=None, gt=0)
    """Gigabytes (10^9 bytes) that one process may take at its peak: refused before it begins where a probe takes more.
    On CUDA it is the device's memory, and fewer classes and networks are worked on at once to keep within it."""
    data: Data = Data()
    network: Network = Network()
    train: Train = Train()
    pool: Pool = Pool()
    perturb: Perturb = Perturb()
    match: Match = Match()
    targets: Targets = Targets()
    images: Images = Images()
    loop: Loop = Loop()
    score: Score = Score()


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain nested dictionary of a settings value, tuples as lists, ready for YAML or JSON."""
    return TypeAdapter(type(settings)).dump_python(settings, mode="json")


def override(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """A new `Settings` with dotted keys replaced, as in {"pool.epochs": 5}.

    Raises:
        InputError: an unknown key (the nearest is named) or a value of the wrong kind.
    """
    tree = dataclasses.asdict(settings)
    known = list(flatten(tree))
    for key, value in changes.items():
        if key not in known:
            raise InputError(f"Unknown setting '{key}'.{nearest(key, known)} List them with 'accdd settings'.")
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            branch = branch[group]
        branch[name] = value
    try:
        return TypeAdapter(Settings).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part in str(known))
        expected = "Input should be a list, as in [a, b]" if first["type"] == "tuple_type" else first["msg"]
        raise InputError(f"Setting '{key}' = {first['input']!r}: {expected}.") from None


def describe(settings: Any, prefix: str = "") -> list[tuple[str, Any, str]]:
    """(dotted key, value as JSON, meaning) of every setting, in order."""
    rows: list[tuple[str, Any, str]] = []
    values = to_dict(settings)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            rows += describe(value, f"{prefix}{field.name}.")
        else:
            meaning = type(settings).__pydantic_fields__[field.name].description
            rows.append((f"{prefix}{field.name}", values[field.name], " ".join((meaning or "").split())))
    return rows


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping, as in a configuration file, to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        flat |= flatten(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return flat


def choose(kind: str, name: str, choices: Mapping[str, Any]) -> Any:
    """The entry called `name`.

    Raises:
        InputError: there is none; the choices and the nearest one are named.
    """
    if name not in choices:
        raise InputError(f"Unknown {kind} '{name}'.{nearest(name, choices)} Expected one of: {', '.join(choices)}.")
    return choices[name]


def nearest(word: str, choices: Any) -> str:
    """A hint at the choice most like `word`, by its whole name or by what follows its last dot."""
    by_name = {choice.split(".")[-1].lower(): choice for choice in reversed(list(choices))}
    by_name |= {choice.lower(): choice for choice in choices}
    match = difflib.get_close_matches(word.lower(), by_name, n=1, cutoff=0.5)
    return f" Did you mean '{by_name[match[0]]}'?" if match else ""
