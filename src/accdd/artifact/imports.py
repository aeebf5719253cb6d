"""Distilled sets of other programs: IDC's and AccDD's, those of DC, DSA and DM, of MTT and DATM, and pictures.

What their files hold was read in the repositories snu-mllab/Efficient-Dataset-Condensation, VICO-UoE/
DatasetCondensation, GeorgeCazenavette/mtt-distillation and NUS-HPC-AI-Lab/DATM.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from accdd import data, files
from accdd.artifact import foreign, torch_file
from accdd.artifact.distilled import Distilled
from accdd.artifact.names import folder_names
from accdd.artifact.torch_archive import refused
from accdd.config import LARGEST, SMALLEST, Data, InputError, choose


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
    told = foreign.Told(
        labels=None if labels is None else Path(labels), index=index, factor=factor,
        class_names=None if class_names is None else tuple(class_names),
        mean=None if mean is None else tuple(mean), std=None if std is None else tuple(std),
        zca=None if zca is None else Path(zca), as_is=as_is,
    )  # fmt: skip
    _check_told(kind, told, takes)
    path = Path(path)
    found = read(path, told)
    factor = _FACTORS.get(kind, 1) if factor is None else factor
    if told.factor is None and factor > 1:
        found.notes.append(f"factor {factor} assumed, as IDC has it for small images; say --factor if it is another")
    names = _class_names(path, found, told)
    foreign.clamp(path, found)
    mean_std = found.moments or foreign.moments(found, told)
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


def _idc(path: Path, told: foreign.Told) -> foreign.Contents:
    """[images, labels] in pixels, stored as they are learned: not decoded."""
    del told
    return foreign.pair(path, torch_file.read(path))


def _dc(path: Path, told: foreign.Told) -> foreign.Contents:
    """{"data": [[images, labels], ...], ...}, an entry an experiment, normalised."""
    tree = torch_file.read(path)
    entries = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not entries:
        raise refused(path, "it has no list called 'data', so it is no res_*.pt of DC, DSA or DM")
    index = told.index or 0
    if not 0 <= index < len(entries):
        raise InputError(f"--index {index}: {path} holds {len(entries)} experiments. Expected 0 to {len(entries) - 1}.")
    found = foreign.pair(path, entries[index])
    if len(entries) > 1:
        found.notes.append(f"experiment {index} of 0 to {len(entries) - 1} in the file")
    foreign.denormalise(path, found, told)
    return found


def _mtt(path: Path, told: foreign.Told) -> foreign.Contents:
    """A tensor of images and, in another file, one of labels."""
    beside = path.with_name(path.name.replace("images_zca_", "labels_").replace("images_", "labels_"))
    label_file = told.labels or beside
    if label_file == path or not label_file.is_file():
        raise InputError(f"There are no labels for {path} at {label_file}. Expected --labels FILE, as in labels_*.pt.")
    found = foreign.pair(path, [torch_file.read(path), torch_file.read(label_file)], label_file)
    if path.name.startswith("images_zca_"):  # what MTT saves beside whitened images
        if told.zca or told.as_is:
            raise InputError(f"{path} is not whitened any more. Expected neither --zca nor --as-is.")
        found.notes.append("whitening already undone by MTT (images_zca_*)")
    elif told.as_is:
        foreign.stretch(found)
    elif told.zca:
        foreign.colour(path, found, told.zca)
    elif told.mean:
        foreign.denormalise(path, found, told)
    else:
        raise InputError(
            f"{path}: are the images whitened (ZCA) or normalised? The file does not say; MTT and DATM whiten where "
            "their --zca is on, for CIFAR mostly. Expected --zca FILE to undo the whitening; or the images_zca_*.pt "
            "that lies beside such images, where it is undone; or --as-is to keep whitened images; or, if they are "
            f"only normalised, {foreign.constants(found.images.shape[1])}."
        )
    return found


def _folder(path: Path, told: foreign.Told) -> foreign.Contents:
    """Class folders of pictures, each picture one stored image."""
    del told
    if not path.is_dir():
        raise InputError(f"{path} is no folder. Expected one with a folder of pictures per class.")
    train = path / "train"
    root = train if train.is_dir() and any(each.is_dir() for each in train.iterdir()) else path  # or a class of trains
    images, labels, names, notes = data.class_folders(root, Data(size=_picture_size(root)))
    names = _names_before_export(root, names)
    return foreign.Contents(
        images=images.float() / 255, labels=labels, classes=len(names), class_names=names, notes=notes
    )


def _names_before_export(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """The names of classes whose folders `accdd export` had to call otherwise; where it did not make them, as given."""
    said: dict[str, set[str]] = {}
    if not (root / "metadata.jsonl").is_file():  # reading a pipe might never end
        return tuple(folders)
    try:
        for line in (root / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            said.setdefault(str(entry["file_name"]).partition("/")[0], set()).add(str(entry["class_name"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return tuple(folders)
    names = [next(iter(said[folder])) for folder in folders if len(said.get(folder, ())) == 1]
    return tuple(names) if folder_names(names) == list(folders) else tuple(folders)


KINDS: dict[str, tuple[Callable[[Path, foreign.Told], foreign.Contents], frozenset[str]]] = {
    "idc": (_idc, frozenset({"factor", "class_names", "mean", "std"})),
    "dc": (_dc, frozenset({"index", "factor", "class_names", "mean", "std"})),
    "mtt": (_mtt, frozenset({"labels", "factor", "class_names", "mean", "std", "zca", "as_is"})),
    "folder": (_folder, frozenset({"factor", "class_names", "mean", "std"})),
}
"""What reads each kind, and what the user may say of it. Signature: `(path, told) -> found`."""

_FACTORS = {"idc": 2}


# What several of them need.


def _check_told(kind: str, told: foreign.Told, takes: frozenset[str]) -> None:
    given = {name for name, value in vars(told).items() if value is not None and value is not False}
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


def _class_names(path: Path, found: foreign.Contents, told: foreign.Told) -> tuple[str, ...]:
    first, last = (int(bound) for bound in found.labels.aminmax())
    names = found.class_names if told.class_names is None else told.class_names
    classes = (found.classes or last + 1) if names is None else len(names)
    if found.classes not in (None, classes):
        raise InputError(f"Got {classes} class names; {path} has {found.classes} classes. Expected one a class.")
    if first < 0 or last >= classes:
        raise InputError(
            f"{path} has labels from {first} to {last}. Expected 0 to {classes - 1}, for {classes} classes."
        )
    # Without names every class is taken to have an image, or a single label could ask for any number of names.
    if names is None and found.classes is None and classes > len(found.labels):
        raise InputError(
            f"{path} has labels up to {last} on {len(found.labels)} images. Expected an image of every class; if some "
            "have none, --classes FILE with one name a line for all."
        )
    return names or tuple(map(str, range(classes)))


def _picture_size(root: Path) -> int | None:
    """Short side of the first picture, that sets of large pictures stay as they are; None where there is none."""
    for file in sorted(root.glob("*/*")):
        try:
            with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP")) as picture:
                return min(max(min(picture.size), SMALLEST), LARGEST)
        except (OSError, Image.DecompressionBombError):  # whoever reads them all refuses it by name
            continue
    return None
