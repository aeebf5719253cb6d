"""A labelled image data set as tensors: what every source becomes, and the checks it passes once.

Pixels stay 8-bit, and on the device only if they fit there; whoever trains scales and normalises a batch
at a time with `mean` and `std`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from accdd import execution
from accdd.config import InputError
from accdd.data import mapped
from accdd.keys import Key, digest

Split = tuple[Tensor, Tensor]
"""Images, uint8 (n, c, h, w), and their labels, int64 (n,)."""

NO_TEST_SPLIT = "no test split"
"""How a note begins that says what became of that."""
UNTESTED = "have no test images"
"""How a note ends that counts such classes."""
TEST_SPLITS = ("test", "validation", "valid", "val")
"""Names under which a source may bring its test split, in order of preference."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of `num_classes` classes; made by `build`, which checks what is promised here."""

    name: str
    """What the user called it: a folder's name, a hub id, "digits" or "arrays"."""
    images: Tensor
    """Training images, uint8 (n, c, h, w) in [0, 255], c 1 or 3, h = w."""
    labels: Tensor
    """Class of each training image, int64 (n,), covering 0 to num_classes - 1."""
    class_names: tuple[str, ...]
    """One name per class, in label order."""
    test_images: Tensor
    """Test images, uint8 (m, c, h, w), m >= 1."""
    test_labels: Tensor
    """Class of each test image, int64 (m,)."""
    notes: tuple[str, ...] = ()
    """What was done to the data on the way in, one sentence each, for the user to read."""
    kept_aside: bool = False
    """Whether the test split was taken from the training images, because the source brought none."""
    given_mean: tuple[float, ...] | None = None
    """Instead of the measured mean: published tables use constants that differ from what one measures."""
    given_std: tuple[float, ...] | None = None
    """Instead of the measured standard deviation."""
    validation: Split | None = None
    """Training images held out to choose by, and their labels; they are not among the training images."""
    tests_on_held_out: bool = False
    """Whether such images stand in place of the test split, which is not looked at then."""

    @property
    def num_classes(self) -> int:
        """Number of classes, at least 2."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.images.shape[1]

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where labels are and work is done; images that do not fit there are on the CPU (see `execution.gather`)."""
        return self.labels.device

    @cached_property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training pixels scaled to [0, 1], per channel; measured unless given."""
        return self.given_mean or self.moments[0]

    @cached_property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the same, measured unless given; 1 for a constant channel."""
        return self.given_std or self.moments[1]

    @cached_property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Measured mean and standard deviation, whether others are given or not."""
        # Exact: 8-bit pixels take 256 values, so counts of values hold all there is to know.
        counts = torch.stack([_histogram(self.images[:, channel]) for channel in range(self.channels)])
        share = counts.double() / counts.sum(1, keepdim=True)  # (c, 256)
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        # More than one value occurs, rather than variance > 0: rounding leaves a constant channel near 0, not at 0.
        constant = (counts > 0).sum(1) == 1
        return tuple(mean.tolist()), tuple(torch.where(constant, 1.0, variance.sqrt()).tolist())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of shapes, pixels and labels of both splits; the same on every device."""
        return digest(self.images, self.labels, self.test_images, self.test_labels)

    @cached_property
    def test_fingerprint(self) -> str:
        """The same of the test split alone, which names what a score was tested on."""
        return digest(self.test_images, self.test_labels)

    @cached_property
    def class_index(self) -> tuple[Tensor, ...]:
        """For each class the positions of its training images, int64, ascending, on the CPU where choices are drawn."""
        labels = self.labels.cpu()
        counts = torch.bincount(labels, minlength=self.num_classes).tolist()
        return torch.argsort(labels, stable=True).split(counts)

    def normalised(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> "Dataset":
        """The same data with constants given instead of measured, where they are not None.

        Raises:
            InputError: not one number per channel.
        """
        for name, values in (("data.mean", mean), ("data.std", std)):
            if values is not None and len(values) != self.channels:
                raise InputError(f"{name} has {len(values)} numbers. Expected {self.channels}, one per channel.")
        return self._same_pixels(given_mean=mean, given_std=std) if mean or std else self

    def held_out(self, fraction: float) -> "Dataset":
        """The same data with `fraction` of each class's training images kept apart (keyed) as `validation`.

        Raises:
            InputError: every class has only one training image.
        """
        train, held = _keep_aside((self.images, self.labels), self.num_classes, fraction, "validation split")
        return dataclasses.replace(self, images=train[0], labels=train[1], validation=held)

    @property
    def validating(self) -> "Dataset":
        """The same data with the images that were held out in place of the test split."""
        assert self.validation, "nothing was held out"
        images, labels = self.validation
        return dataclasses.replace(self, test_images=images, test_labels=labels)

    def testing_on_held_out(self, fraction: float) -> "Dataset":
        """The same data with `fraction` of each class's training images, which are kept apart, in place of the test
        split.

        Raises:
            InputError: every class has only one training image.
        """
        real = self.held_out(fraction).validating
        notes = [note for note in self.notes if not note.endswith(UNTESTED)]
        notes += [f"tested on {100 * fraction:g} % of each class's training images, held out, and not on test images"]
        notes += _untested(real.num_classes, real.test_labels)
        return dataclasses.replace(real, notes=tuple(notes), validation=None, tests_on_held_out=True)

    def all_for_testing(self) -> "Dataset":
        """The same data as somebody's test set: if the test split was only kept aside, all images are tested on."""
        if not self.kept_aside:
            return self
        images = mapped.join(self.images, self.test_images)
        labels = torch.cat([self.labels, self.test_labels])
        others = [note for note in self.notes if not (note.startswith(NO_TEST_SPLIT) or note.endswith(UNTESTED))]
        notes = (*others, f"{NO_TEST_SPLIT}: all tested on")
        return dataclasses.replace(self, test_images=images, test_labels=labels, notes=notes, tests_on_held_out=False)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on `device`; images that would take more than half of its free memory stay where they are."""
        device = torch.device(device)
        needed = self.images.nbytes + self.test_images.nbytes
        fits = device == self.images.device or needed <= execution.free_memory(device) // 2
        pixels = device if fits else self.images.device
        held = self.validation and (self.validation[0].to(pixels), self.validation[1].to(device))
        return self._same_pixels(
            validation=held,
            images=self.images.to(pixels),
            labels=self.labels.to(device),
            test_images=self.test_images.to(pixels),
            test_labels=self.test_labels.to(device),
        )

    def renamed(self, name: str, *notes: str) -> "Dataset":
        """The same data under another name, with more notes."""
        return self._same_pixels(name=name, notes=(*self.notes, *notes))

    def with_measured(self, **values: object) -> "Dataset":
        """The same data with `moments` or `fingerprint` known from an earlier start instead of measured again."""
        known = dataclasses.replace(self)
        vars(known).update(values)  # where cached_property keeps what it has computed
        return known

    def _same_pixels(self, **changes: Any) -> "Dataset":
        """With changes that leave pixels and labels as they are, so that what was measured stays true."""
        measured = {
            name: vars(self)[name] for name in ("moments", "fingerprint", "test_fingerprint") if name in vars(self)
        }
        return dataclasses.replace(self, **changes).with_measured(**measured)


def build(
    name: str,
    train: Split,
    test: Split | None,
    *,
    class_names: Sequence[str] | None = None,
    notes: Iterable[str] = (),
    test_fraction: float = 0.2,
) -> Dataset:
    """A checked `Dataset`; without a test split, `test_fraction` of each class is kept aside.

    Args:
        name: what the user called the data.
        train: images, uint8 (n, c, h, w) in [0, 255], h = w, and labels, int64 (n,).
        test: the same for testing, or None.
        class_names: one per class in label order; None names the classes by their numbers.
        notes: what was done to the data so far.
        test_fraction: share of each class, above 0 and below 1, that becomes the test split if there is none.

    Raises:
        InputError: images and labels do not fit together, fewer than 2 classes, labels that are not 0 to
            k - 1, test images of another shape, or too few images to keep any aside.
    """
    notes = list(notes)
    _check_shapes("Training", *train)
    classes = _check_labels(train[1], class_names)
    kept_aside = test is None
    if test is None:
        train, test = _keep_aside(train, len(classes), test_fraction, "test split")
        notes.append(f"{NO_TEST_SPLIT}: {100 * test_fraction:g} % of each class kept aside (keyed)")
    _check_test(train[0], test, classes)
    notes += _untested(len(classes), test[1])
    return Dataset(name, *train, classes, *test, tuple(notes), kept_aside)


def choose_splits(
    names: Iterable[str], source: str, labelled: Callable[[str], bool] = lambda split: True
) -> tuple[str, str | None, list[str]]:
    """Which splits to train and test on.

    Args:
        names: of all splits.
        source: what the user called the data.
        labelled: whether a split for testing has labels; one without is passed over where another has them.

    Returns:
        A 3-tuple of `(train, test, notes)`: two of `names`, test None if there is none, and what is unused.

    Raises:
        InputError: several splits, none of them called train.
    """
    names = sorted(names)
    train = names[0] if len(names) == 1 and names[0] not in TEST_SPLITS else "train"
    if train not in names:
        raise InputError(f"'{source}' has the splits {', '.join(names)}; expected one called train (and one test).")
    tests = [split for split in TEST_SPLITS if split in names]
    usable = (split for split in tests if len(tests) == 1 or labelled(split))  # asked one by one, as that may take long
    test = next(usable, tests[0] if tests else None)
    passed_over = tests[: tests.index(test)] if test else []
    unused = [split for split in names if split not in (train, test, *passed_over)]
    notes = [f"without labels, not used: {', '.join(passed_over)}"] if passed_over else []
    return train, test, notes + ([f"splits not used: {', '.join(unused)}"] if unused else [])


def has_labels(labels: Iterable[int | None]) -> bool:
    """Whether any picture of a split has one; -1 is the hub's sign for none."""
    return any(label is not None and label >= 0 for label in labels)


def _histogram(pixels: Tensor) -> Tensor:
    counts = [torch.bincount(chunk.reshape(-1), minlength=256).cpu() for chunk in pixels.split(mapped.chunk(pixels))]
    return torch.stack(counts).sum(0)


def _check_shapes(split: str, images: Tensor, labels: Tensor) -> None:
    assert images.dtype == torch.uint8 and images.ndim == 4 and images.shape[2] == images.shape[3], images.shape
    assert labels.dtype == torch.int64 and labels.ndim == 1, labels.shape
    if len(images) != len(labels):
        raise InputError(f"{split}: {len(images)} images but {len(labels)} labels; expected one label per image.")
    if not len(images):
        raise InputError(f"{split} data has no images; leave the split out or give it at least one image per class.")


def _check_labels(labels: Tensor, class_names: Sequence[str] | None) -> tuple[str, ...]:
    found = labels.unique().tolist()
    names = tuple(str(label) for label in range(len(found))) if class_names is None else tuple(class_names)
    if found != list(range(len(names))):
        hint = "Renumber them, for instance with np.unique(labels, return_inverse=True)[1]."
        if class_names is not None:
            missing = [name for label, name in enumerate(names) if label not in set(found)]
            hint = f"There are {len(names)} class names; without training images: {listed(missing) or 'none'}."
        raise InputError(f"Training labels are {listed(found)}; expected 0 to {len(names) - 1} without gaps. {hint}")
    if len(names) < 2:
        raise InputError(f"Only one class ({listed(names)}) in {len(labels)} training images; expected at least 2.")
    return names


def _check_test(images: Tensor, test: Split, classes: tuple[str, ...]) -> None:
    _check_shapes("Test", *test)
    if test[0].shape[1:] != images.shape[1:]:
        raise InputError(
            f"Test images have the shape {tuple(test[0].shape[1:])} and training images {tuple(images.shape[1:])} "
            "(channels, height, width); expected the same for both."
        )
    found = test[1].unique().tolist()
    if found[0] < 0 or found[-1] >= len(classes):
        raise InputError(f"Test labels are {listed(found)}; expected the training labels, 0 to {len(classes) - 1}.")


def _untested(num_classes: int, labels: Tensor) -> list[str]:
    """A note where test images have these labels, and not every class."""
    untested = num_classes - len(labels.unique())
    return [f"{untested} of {num_classes} classes {UNTESTED}"] if untested else []


def listed(values: Sequence[object]) -> str:
    """At most twelve of them, with commas."""
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:10], "...", shown[-1]])


def _keep_aside(data: Split, num_classes: int, fraction: float, purpose: str) -> tuple[Split, Split]:
    """Data without a share of each class, and that share."""
    images, labels = data
    # Not the run's seed: runs of all seeds are scored on the same images.
    generator = Key(seed=0).generator(purpose)
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        kept[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    if not kept.any():
        raise InputError(
            f"There is no {purpose}, and every class has only one image, so none can be kept aside; "
            f"expected at least 2 images in some class, or a {purpose}."
        )
    train, test = (mapped.take(images, rows) for rows in (~kept, kept))
    return (train, labels[~kept]), (test, labels[kept])
