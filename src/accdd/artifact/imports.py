"""Distilled sets of other programs: IDC's and AccDD's, those of DC, DSA and DM, of MTT and DATM, and pictures.

What their files hold was read in the repositories snu-mllab/Efficient-Dataset-Condensation, VICO-UoE/
DatasetCondensation, GeorgeCazenavette/mtt-distillation and NUS-HPC-AI-Lab/DATM.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from accdd import data, files
from accdd.artifact import torch_file
from accdd.artifact.distilled import Distilled
from accdd.artifact.torch_archive import refused
from accdd.artifact.torch_file import Stored
from accdd.config import Data, InputError, choose

CONSTANTS = {
    "MNIST": ((0.1307,), (0.3081,)),
    "FashionMNIST": ((0.2861,), (0.3530,)),
    "SVHN": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "CIFAR-10 and -100": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "Tiny ImageNet and ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and std that DC, DSA, DM and MTT normalise by."""

MAX_OUTSIDE = 1 / 3
"""Share of pixels that may lie outside [0, 1]; about half of what is still normalised does."""

_MAX_SIZE = 1024  # pixels per side, as in `config.Data`
_MAX_CLASSES = 100_000  # each becomes a name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """What the user says of a file, as for `import_set`."""

    labels: Path | None = None
    index: int | None = None
    factor: int | None = None
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    zca: Path | None = None
    as_is: bool = False


@dataclasses.dataclass(kw_only=True)
class Found:
    """What a file holds."""

    images: Tensor
    """float32 (n, c, h, w): pixels, in [0, 1] but for some."""
    labels: Tensor
    """int64 (n,)."""
    classes: int | None = None
    """As soft labels or class folders tell; None follows from the labels."""
    class_names: tuple[str, ...] | None = None
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and std that go with the images; None is what the user says, or is measured."""
    notes: list[str] = dataclasses.field(default_factory=list)


def import_set(
    path: str | Path,
    kind: str,
    *,
    factor: int | None = None,
    labels: str | Path | None = None,
    index: int | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    zca: str | Path | None = None,
    as_is: bool = False,
) -> Distilled:
    """A distilled set that another program made. Never runs code from a file.

    What was assumed, undone or lost is said in `info["notes"]`.

    Args:
        path: the file, or for `folder` the folder of class folders.
        kind: `idc` (also AccDD: `data.pt`, [images, labels], pixels), `dc` (also DSA and DM: `res_*.pt`, normalised),
            `mtt` (also DATM: `images_*.pt`, normalised or whitened) or `folder` (pictures).
        factor: one stored image holds factor x factor images; None is 2 for `idc` and 1 otherwise.
        labels: for `mtt`, the file of labels; None is the one of that name beside the images.
        index: for `dc`, which of the experiments in the file; None is the first.
        class_names: one per class, in label order; None are folder names, or numbers.
        mean, std: per channel, of the real data. For `dc` and `mtt` the images are normalised by them, which is
            undone; otherwise they are only kept for training, and None are measured on the images.
        zca: for `mtt`, a `.pt` file of {"mean_vector": (1, d), "transform_inv": (d, d)} (kornia's names), with which
            the whitening is undone.
        as_is: for `mtt`, keep whitened images: stretched to [0, 1], with the mean and std that give them back.

    Raises:
        InputError: a file that is damaged, hostile or of another kind, or something is missing to understand it.
    """
    read, takes = choose("kind", kind, KINDS)
    told = Told(
        labels=None if labels is None else Path(labels), index=index, factor=factor,
        class_names=None if class_names is None else tuple(class_names),
        mean=None if mean is None else tuple(mean), std=None if std is None else tuple(std),
        zca=None if zca is None else Path(zca), as_is=as_is,
    )  # fmt: skip
    _check_told(kind, told, takes)
    path = Path(path)
    found = read(path, told)
    factor = factor or _FACTORS.get(kind, 1)
    if told.factor is None and factor > 1:
        found.notes.append(f"factor {factor} assumed, as IDC has it for small images; say --factor if it is another")
    names = _class_names(path, found, told)
    _clamp(path, found)
    mean_std = found.moments or _moments(found, told)
    info = {
        "method": f"imported from {kind}",
        "imported": {
            "kind": kind,
            "file": path.name.encode(errors="replace").decode(),
            **({"sha256": files.sha256(path)} if path.is_file() else {}),
        },
        "notes": found.notes,
    }
    return Distilled(
        images=found.images, labels=found.labels, class_names=names, mean=mean_std[0], std=mean_std[1], factor=factor,
        info=info,
    )  # fmt: skip


# One function for each kind.


def _idc(path: Path, told: Told) -> Found:
    """[images, labels] in pixels, stored as they are learned: not decoded."""
    del told
    return _pair(path, torch_file.read(path))


def _dc(path: Path, told: Told) -> Found:
    """{"data": [[images, labels], ...], ...}, an entry an experiment, normalised."""
    tree = torch_file.read(path)
    entries = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not entries:
        raise refused(path, "it has no list called 'data', so it is no res_*.pt of DC, DSA or DM")
    index = told.index or 0
    if not 0 <= index < len(entries):
        raise InputError(f"--index {index}: {path} holds {len(entries)} experiments. Expected 0 to {len(entries) - 1}.")
    found = _pair(path, entries[index])
    if len(entries) > 1:
        found.notes.append(f"experiment {index} of 0 to {len(entries) - 1} in the file")
    _denormalise(path, found, told)
    return found


def _mtt(path: Path, told: Told) -> Found:
    """A tensor of images and, in another file, one of labels."""
    beside = path.with_name(path.name.replace("images_zca_", "labels_").replace("images_", "labels_"))
    label_file = told.labels or beside
    if label_file == path or not label_file.is_file():
        raise InputError(f"There are no labels for {path} at {label_file}. Expected --labels FILE, as in labels_*.pt.")
    found = _pair(path, [torch_file.read(path), torch_file.read(label_file)], label_file)
    if path.name.startswith("images_zca_"):  # what MTT saves beside whitened images
        found.notes.append("whitening already undone by MTT (images_zca_*)")
    elif told.as_is:
        _stretch(found)
    elif told.zca:
        _colour(path, found, told.zca)
    elif told.mean:
        _denormalise(path, found, told)
    else:
        raise InputError(
            f"{path}: are the images whitened (ZCA) or normalised? The file does not say; MTT and DATM whiten where "
            "their --zca is on, for CIFAR mostly. Expected --zca FILE to undo the whitening; or the images_zca_*.pt "
            "that lies beside such images, where it is undone; or --as-is to keep whitened images; or, if they are "
            f"only normalised, {_constants(found.images.shape[1])}."
        )
    return found


def _folder(path: Path, told: Told) -> Found:
    """Class folders of pictures, each picture one stored image."""
    del told
    if not path.is_dir():
        raise InputError(f"{path} is no folder. Expected one with a folder of pictures per class.")
    root = path / "train" if (path / "train").is_dir() else path
    images, labels, names, notes = data.class_folders(root, Data(size=_picture_size(root)))
    return Found(images=images.float() / 255, labels=labels, classes=len(names), class_names=tuple(names), notes=notes)


KINDS: dict[str, tuple[Callable[[Path, Told], Found], frozenset[str]]] = {
    "idc": (_idc, frozenset({"factor", "class_names", "mean", "std"})),
    "dc": (_dc, frozenset({"index", "factor", "class_names", "mean", "std"})),
    "mtt": (_mtt, frozenset({"labels", "factor", "class_names", "mean", "std", "zca", "as_is"})),
    "folder": (_folder, frozenset({"factor", "class_names", "mean", "std"})),
}
"""What reads each kind, and what the user may say of it. Signature: `(path, told) -> found`."""

_FACTORS = {"idc": 2}


# What several of them need.


def _check_told(kind: str, told: Told, takes: frozenset[str]) -> None:
    given = {name for name, value in vars(told).items() if value not in (None, False)}
    if other := sorted(given - takes):
        raise InputError(
            f"{_flags(other)} says nothing of a set from {kind}. Expected none, or any of {_flags(sorted(takes))}."
        )
    if (told.mean is None) != (told.std is None):
        raise InputError("Got one of --mean and --std. Expected both or neither, one number per channel.")
    if told.std is not None and min(told.std, default=0) <= 0:
        raise InputError(f"--std {told.std}: expected numbers above 0, one per channel.")
    if sum((told.as_is, told.zca is not None)) > 1:
        raise InputError("--zca undoes the whitening and --as-is keeps it. Expected one of them.")


def _flags(names: Sequence[str]) -> str:
    shown = {"class_names": "--classes"}
    return ", ".join(shown.get(name, "--" + name.replace("_", "-")) for name in names)


def _pair(path: Path, entry: Any, label_file: Path | None = None) -> Found:
    """Images and labels as they come, checked for kind and shape."""
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not all(isinstance(each, Stored) for each in entry):
        raise refused(path, "it holds no pair of tensors, images and labels, where such a set has one")
    stored, stored_labels = entry
    shape, n = stored.shape, (stored.shape or (0,))[0]
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or not 2 <= shape[2] <= _MAX_SIZE:
        raise refused(path, f"images have the shape {list(shape)}; expected (n, c, h, w) with c 1 or 3 and h = w")
    if not stored.dtype.is_floating_point:
        raise refused(path, f"images are {stored.dtype}; expected floating-point numbers")
    labels_shape = stored_labels.shape
    if len(labels_shape) not in (1, 2) or labels_shape[0] != n or max(labels_shape[1:], default=0) > _MAX_CLASSES:
        raise refused(label_file or path, f"labels have the shape {list(labels_shape)} for {n} images")
    found = Found(images=stored.read().float(), labels=stored_labels.read())
    _settle_labels(label_file or path, found)
    return found


def _settle_labels(path: Path, found: Found) -> None:
    """Whole numbers, from soft labels by their largest entry."""
    labels = found.labels
    if labels.ndim == 2:
        found.classes = labels.shape[1]
        found.labels = labels.float().argmax(1)
        found.notes.append("soft labels replaced by their largest entry: accdd's sets have hard labels")
    elif labels.is_floating_point():
        raise refused(path, f"labels are {labels.dtype} of shape (n,); expected integers, or (n, classes)")
    else:
        found.labels = labels.long()


def _denormalise(path: Path, found: Found, told: Told) -> None:
    """Undo (pixels - mean) / std, in place."""
    channels = found.images.shape[1]
    if told.mean is None or told.std is None:
        raise InputError(f"{path} holds normalised images. Expected {_constants(channels)}.")
    _check_channels(told, channels)
    mean, std = (torch.tensor(each)[:, None, None] for each in (told.mean, told.std))
    found.images.mul_(std).add_(mean)


def _check_channels(told: Told, channels: int) -> None:
    if told.mean is not None and told.std is not None and not len(told.mean) == len(told.std) == channels:
        raise InputError(
            f"--mean and --std have {len(told.mean)} and {len(told.std)} numbers for images of {channels} channels. "
            "Expected one per channel."
        )


def _constants(channels: int) -> str:
    """What to type for the data sets that the field normalises."""
    known = (
        f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))} for {name}"
        for name, (mean, std) in CONSTANTS.items()
        if len(mean) == channels
    )
    return f"the constants they were normalised by ({'; '.join(known)})"


def _stretch(found: Found) -> None:
    """To [0, 1] by one line for all pixels, with the mean and std that undo it."""
    low, high = (float(bound) for bound in found.images.aminmax())
    spread = (high - low) or 1.0
    found.images.sub_(low).div_(spread).clamp_(0, 1)
    channels = found.images.shape[1]
    found.moments = ((-low / spread,) * channels, (1 / spread,) * channels)
    found.notes.append(
        "kept whitened: a network trained on it sees what it saw before, and must be tested on images whitened "
        "alike; scores on plain images say nothing of the set"
    )


def _colour(path: Path, found: Found, zca: Path) -> None:
    """Undo whitening: pixels = whitened @ transform_inv + mean_vector, on flattened images (kornia)."""
    tree, d = torch_file.read(zca), found.images[0].numel()
    parts = [tree.get(name) if isinstance(tree, dict) else None for name in ("mean_vector", "transform_inv")]
    if [part.shape if isinstance(part, Stored) else None for part in parts] != [(1, d), (d, d)]:
        raise refused(
            zca, f"it is not {{'mean_vector': (1, {d}), 'transform_inv': ({d}, {d})}}, the whitening of {path.name}"
        )
    mean, inverse = (part.read().float() for part in parts if isinstance(part, Stored))
    found.images = (found.images.flatten(1) @ inverse + mean).reshape(found.images.shape)
    found.notes.append("whitening undone")


def _clamp(path: Path, found: Found) -> None:
    """To [0, 1], noting what that changes; refused where the images are plainly in other units."""
    images = found.images
    low, high = (float(bound) for bound in images.aminmax())
    outside = int(((images < 0) | (images > 1)).sum()) / images.numel()
    if outside > MAX_OUTSIDE:
        raise InputError(
            f"{path}: pixels reach from {low:.3g} to {high:.3g}, {100 * outside:.0f} % of them outside [0, 1]. The "
            "images are normalised or whitened otherwise than was said. Expected another --from, or other constants "
            f"({_constants(images.shape[1])})."
        )
    if outside:
        images.clamp_(0, 1)
        furthest = max(-low, high - 1)
        found.notes.append(f"{100 * outside:.2g} % of the pixels were outside [0, 1], by up to {furthest:.2g}: clamped")


def _class_names(path: Path, found: Found, told: Told) -> tuple[str, ...]:
    first, last = (int(bound) for bound in found.labels.aminmax())
    names = told.class_names or found.class_names
    # Every class has an image, so a label that no count of images explains asks for names nobody needs.
    classes = len(names) if names else found.classes or last + 1
    if first < 0 or last >= classes or (not names and not found.classes and classes > len(found.labels)):
        raise InputError(
            f"{path}: {len(found.labels)} images have labels from {first} to {last}. Expected 0 to {classes - 1}, or "
            "with --classes a file of one name a line for all of them."
        )
    if found.classes and classes != found.classes:
        raise InputError(f"Got {classes} class names; {path} has {found.classes} classes. Expected one a class.")
    return names or tuple(map(str, range(classes)))


def _moments(found: Found, told: Told) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std for training: told, or measured."""
    _check_channels(told, found.images.shape[1])
    if told.mean is not None and told.std is not None:
        return told.mean, told.std
    std, mean = torch.std_mean(found.images, dim=(0, 2, 3), correction=0)
    found.notes.append("mean and std measured on these images; --mean and --std of the real data are better")
    return tuple(mean.tolist()), tuple(value or 1.0 for value in std.tolist())


def _picture_size(root: Path) -> int | None:
    """Short side of the first picture, that sets of large pictures stay as they are; None where there is none."""
    for file in sorted(root.glob("*/*")):
        try:
            with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP")) as picture:
                return min(max(min(picture.size), 4), _MAX_SIZE)
        except OSError:
            continue
    return None
