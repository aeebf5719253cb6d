"""Which real data a distilled set is tested on, and what the set recorded about itself."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from accdd import config, data
from accdd.artifact import Distilled
from accdd.config import LARGEST, SMALLEST, InputError, Settings
from accdd.data import Dataset

CHOOSING = ("score.choose", "score.validation")


def recorded(distilled: Distilled, group: str) -> dict[str, Any]:
    """A group of the settings that a set was made with, as dotted keys; empty for sets of another origin."""
    settings = distilled.info.get("settings")
    values = settings.get(group) if isinstance(settings, Mapping) else None
    return {f"{group}.{name}": value for name, value in values.items()} if isinstance(values, Mapping) else {}


def origin(distilled: Distilled) -> dict[str, Any]:
    """What a set says about its data: `name`, `path`, `fingerprint`, as far as it does."""
    source = distilled.info.get("source")
    return dict(source) if isinstance(source, Mapping) else {}


def test_data(distilled: Distilled, test: Any) -> Dataset:
    """The real data to test a set on, at the set's size.

    Args:
        distilled: the set.
        test: data as for `accdd.data.load`, tested on whole if it has no test split; None is the data that the set
            was made from. Of that, only images which were kept aside are ever tested on, and of data that settings are
            chosen by (`data.held_out`) only what was held out.

    Raises:
        InputError: the set does not say where its data is, the data has changed, or it does not go with the set.
    """
    own = origin(distilled)
    if test is None and not own.get("path"):
        raise InputError("The set does not say where its data is. Expected --test DATA (test=... in Python).")
    if test is None:
        _check_there(own["path"], "test")
    real = _load(distilled, own["path"] if test is None else test)
    same = _is_own(distilled, real)
    elsewhere = test is not None and not _is_origin(test, own)
    if elsewhere and not same:
        _check_not_moved(real, test, distilled)
        real = real.all_for_testing()
    elif not same:
        where = own.get("path") or own.get("name")
        raise InputError(
            f"The data at '{where}' has changed since the set was made, so its test split may hold images that were "
            "learned from. Expected the same data, or --test DATA (test=... in Python)."
        )
    _check_same_classes(distilled, real)
    return real


def _check_there(path: str, option: str) -> None:
    if data.is_gone(path):
        raise InputError(
            f"The data that the set was made from is not at '{path}' here. Expected its place: --{option} DATA "
            f"({option}=... in Python)."
        )


def _check_not_moved(real: Dataset, test: Any, distilled: Distilled) -> None:
    """Refuse what looks like the set's own data, moved and changed: all of it would be tested on, though most of it was
    learned from."""
    own = origin(distilled)
    alike = own.get("name") == real.name and tuple(distilled.class_names) == tuple(real.class_names)
    if isinstance(test, str | Path) and own.get("fingerprint") and real.kept_aside and alike:  # arrays have no name
        raise InputError(
            f"The data at '{test}' has the name and the classes of the data that the set was made from, and is not the "
            "same. It has no test split, so images that were learned from would be tested on. Expected the same data, "
            "or other images under another name or in a test split."
        )


def _is_origin(test: Any, own: Mapping[str, Any]) -> bool:
    """Whether this is where the set's own data is or was, however it is typed."""
    path, name = own.get("path"), own.get("name")
    if str(test) == path or (str(test) == name and (path is None or data.is_name(name))):
        return True
    if not isinstance(test, str | Path) or not isinstance(path, str) or data.is_name(path):
        return False
    with contextlib.suppress(OSError, ValueError):  # not there, or no path at all
        return Path(test).expanduser().samefile(path)
    return False


def training_data(distilled: Distilled, source: Any) -> Dataset:
    """The real data that baselines choose from, at the set's size.

    Args:
        distilled: the set.
        source: data as for `accdd.data.load`; None is the data that the set was made from.

    Raises:
        InputError: the set does not say where its data is, that has changed, or the data does not go with the set.
    """
    path = origin(distilled).get("path") if source is None else source
    if path is None:
        raise InputError(
            "The set does not say where its data is, so there are no real images to choose from. "
            "Expected --data DATA (data=... in Python)."
        )
    if source is None:
        _check_there(path, "data")
    real = _load(distilled, path)
    if source is None and not _is_own(distilled, real):
        raise InputError(
            f"The data at '{path}' has changed since the set was made, so its images are not those that the set was "
            "learned from. Expected the same data, or --data DATA (data=... in Python)."
        )
    _check_same_classes(distilled, real)
    return real


def apart(real: Dataset, test: Dataset) -> Dataset:
    """Where to test what is trained on `real`: `test`, or where that holds all of `real`, what was kept aside of it."""
    together = len(test.test_images) >= len(real.images) and torch.equal(
        test.test_images[: len(real.images)].cpu(), real.images.cpu()
    )
    return real if together else test


def _load(distilled: Distilled, source: Any) -> Dataset:
    """Data at the set's size; the set's own under its name, and with what was held out of it."""
    made_with = config.override(Settings(), recorded(distilled, "data")).data
    root = made_with.root if made_with.root and Path(made_with.root).is_dir() else None  # that of another machine
    size = distilled.images.shape[-1]
    if not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"The set's images have {size} x {size} pixels. Expected {SMALLEST} to {LARGEST}, which data is brought to."
        )
    plain = dataclasses.replace(made_with, name=None, size=size, root=root, held_out=None, mean=None, std=None)
    real = data.load(source, plain)
    if len(made_with.mean or ()) == real.channels:  # whoever asked refuses others
        real = real.normalised(made_with.mean, made_with.std)
    if not (made_with.name or made_with.held_out):
        return real
    own = real
    if made_with.held_out:
        with contextlib.suppress(InputError):  # other data, too small to hold anything out
            own = real.testing_on_held_out(made_with.held_out)
    if not _is_own(distilled, own):
        return real
    return own.renamed(made_with.name) if made_with.name else own


def _is_own(distilled: Distilled, real: Dataset) -> bool:
    """Whether this is the data that a set was learned from, unchanged."""
    return origin(distilled).get("fingerprint") == _learned_from(distilled, real).fingerprint


def _learned_from(distilled: Distilled, real: Dataset) -> Dataset:
    """The data as a set was learned from it: without the training images that were held out to choose by."""
    said = {key: value for key, value in recorded(distilled, "score").items() if key in CHOOSING}
    score = config.override(Settings(), said).score
    return real.held_out(score.validation) if score.choose == "validation" else real


def _check_same_classes(distilled: Distilled, real: Dataset) -> None:
    shape = (real.channels, real.size, real.size)
    if shape != distilled.images.shape[1:] or real.num_classes != distilled.num_classes:
        raise InputError(
            f"The real data '{real.name}' has {real.num_classes} classes of {' x '.join(map(str, shape))}, the set "
            f"{distilled.num_classes} of {' x '.join(map(str, distilled.images.shape[1:]))}. Expected the same."
        )
    differing = _first_difference(distilled.class_names, real.class_names)
    if differing:
        mine, theirs = differing
        raise InputError(
            f"The classes of the real data '{real.name}' differ from the set's: '{theirs}' where the set has "
            f"'{mine}'. Expected the same classes in the same order."
        )


def _first_difference(mine: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    """The names of the first class that is another, or in another place.

    Arrays have no class names, but 0, 1, 2 and so on. Beside names that says nothing; beside folders that are called by
    numbers it says their order, which there is that of text: 10 before 2.
    """
    unnamed = tuple(map(str, range(len(mine))))
    numbered = [names for names in (mine, theirs) if all(name.isdecimal() and len(name) < 10 for name in names)]
    if unnamed in (tuple(mine), tuple(theirs)) and all([*names] == sorted(names, key=int) for names in numbered):
        return None
    return next((pair for pair in zip(mine, theirs, strict=True) if pair[0] != pair[1]), None)
