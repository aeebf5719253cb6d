"""Data sets by name: from a copy on this machine if there is one, otherwise from the hub."""

import dataclasses
import os
from pathlib import Path

from accdd.config import Data, InputError
from accdd.data import arrays, hub, paths
from accdd.data.dataset import Dataset
from accdd.data.named import NAMED, Named, subset

IMAGENET = "imagenet"
"""What the folder of all of ImageNet is called."""


def load(name: str, settings: Data) -> Dataset:
    """A data set of `NAMED`, at the size that papers work at unless `settings` say otherwise.

    Copies are looked for below `settings.root`, or else the folder that $ACCDD_DATA names: NAME or NAME.npz there, in
    any layout that is read from paths; for ImageNet-10 and -100 also imagenet, with a folder for each of the classes.

    What accdd itself made is not taken for data.

    Raises:
        InputError: the copy has another number of classes, there is none and the hub does not answer, or it is
            not clear what is meant, because there is something called NAME in the working folder.
    """
    facts = NAMED[name]
    built_in = name == "digits"
    root = None if built_in else _root(settings)
    copy = _copy(name, facts, root)
    if (here := Path(name)).exists() and not (copy and copy.samefile(here)) and not _ours(here):
        or_hub = "" if built_in else f", or hf:{facts.hub} for the hub's"
        raise InputError(
            f"'{name}' is {facts.title}, but there is something of that name in the working folder, too. "
            f"Type ./{name} to use that{or_hub}; or start from another folder."
        )
    if built_in:
        return arrays.load_digits(settings)
    settings = dataclasses.replace(settings, size=settings.size or facts.size)
    if copy is None:
        data, where = hub.load_named(name, facts, settings, _advice(name, facts, root)), f"hf:{facts.hub}"
    else:
        data, where = paths.load(copy, settings, _only(copy, facts)), str(copy)
    if data.num_classes != facts.classes:
        raise InputError(
            f"'{where}' has {data.num_classes} classes, and {facts.title} has {facts.classes}. Expected {facts.title} "
            f"for the name '{name}'; to use what is there, type {where}."
        )
    return data.renamed(name, f"{facts.title} from {where}")


def _ours(path: Path) -> bool:
    """Whether it is a run, a set or a study that was called like its data."""
    return any((path / name).exists() for name in ("env.json", "distilled.json", "study.json"))


def _root(settings: Data) -> Path | None:
    root = settings.root or os.environ.get("ACCDD_DATA")
    return Path(root).expanduser() if root else None


def _copy(name: str, facts: Named, root: Path | None) -> Path | None:
    if root is None:
        return None
    if not root.is_dir():
        raise InputError(f"data.root (or ACCDD_DATA) is '{root}', which is no folder. Expected one with {name} in it.")
    candidates = [name, f"{name}.npz", *([IMAGENET] if facts.only else [])]
    return next((path for path in (root / each for each in candidates) if path.exists()), None)


def _only(copy: Path, facts: Named) -> list[str]:
    """The classes in order, of a folder with one folder for each, as ImageNet's has to be; otherwise nothing."""
    if facts.only is None:
        return []
    ids = [*subset(facts.only)]
    has_folders = any((copy / below / ids[0]).is_dir() for below in (".", "train"))
    return ids if has_folders or copy.name == IMAGENET else []


def _advice(name: str, facts: Named, root: Path | None) -> str:
    """What to do without the hub."""
    folder = root or "FOLDER"
    gated = "The hub gives it only to accounts that have accepted its terms and are logged in. " if facts.gated else ""
    imagenet = f", or ImageNet itself (train/ID/, val/ID/) at '{folder}/{IMAGENET}'" if facts.only else ""
    tell = "" if root else ", and set ACCDD_DATA=FOLDER or type --set data.root=FOLDER"
    put = f"A copy works without the hub: put it at '{folder}/{name}'{imagenet}{tell}."
    return f" {gated}{put} It may be {paths.LAYOUTS}."
