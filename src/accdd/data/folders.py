"""A folder of class folders, optionally below train/ and test/."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from accdd.config import Data, InputError
from accdd.data.dataset import TEST_SPLITS, Dataset, build, choose_splits, listed
from accdd.data.pictures import of_files, read

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings, in any case, of files taken for pictures; other files are counted and left alone."""

OF_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that macOS and Windows put into every folder that is looked at, and write again. It is as if they were not
there."""

SPLITS = {name: name for name in ("train", *TEST_SPLITS)} | {"training": "train", "testing": "test"}
"""What folders of splits are called, in any case, and the splits that they are."""
_BY_A_WORD = re.compile(
    rf"(.+[-_ ])?({'|'.join(sorted(SPLITS, key=len, reverse=True))})([-_ ]?(?:set|data|dataset|images|split))?"
)
"""Other names of splits, where a folder to train on and one to test on differ in that word alone."""

LAYOUT = "a folder with one folder of pictures per class (optionally below train/ and test/)"


def load_folder(root: Path, settings: Data, only: Sequence[str] = ()) -> Dataset:
    """The pictures of a folder of class folders; classes are sorted by folder name, or are `only` these, in this order.

    Raises:
        InputError: no class folders, only one, one without pictures, one of `only` missing, a test class that is not
            trained on, or an unreadable picture.
    """
    roots, notes = _splits(root)
    names = list(only or _folders(roots[0]))
    check_text("name of the class folder", *names)
    if only:
        _check_present(roots[0], names)
    else:
        _check_classes(roots, names)
    found = [_find(split, names, must_have=split == roots[0]) for split in roots]
    splits, read_notes = read([of_files(files) for files, _, _ in found], settings)
    ignored, links = sum(count for _, count, _ in found), [link for _, _, links in found for link in links]
    why = "in no class folder, hidden, or not PNG, JPEG, WebP or BMP"
    notes += [*read_notes, *([f"files ignored: {ignored} ({why})"] if ignored else [])]
    notes += _unread(links)
    return build(
        root.resolve().name,
        splits[0],
        splits[1] if len(splits) > 1 else None,
        class_names=names,
        notes=notes,
        test_fraction=settings.test_fraction,
    )


def class_folders(root: Path, settings: Data) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """All pictures of a folder of class folders, with nothing kept aside.

    Returns:
        A 4-tuple of `(images, labels, class names, notes)`; images uint8 (n, c, h, w), labels int64 (n,).

    Raises:
        InputError: as for `load_folder`.
    """
    names = list(_folders(root))
    check_text("name of the class folder", *names)
    _check_classes([root], names)
    found, _, links = _find(root, names, must_have=True)
    ((images, labels),), notes = read([of_files(found)], settings)
    return images, labels, names, [*notes, *_unread(links)]


def hold_pictures(root: Path) -> bool:
    """Whether a folder has class folders, perhaps below train/, at least two of them with a picture."""
    classes = list[Path]()
    with contextlib.suppress(InputError):  # no folder to train on
        classes += _folders(_splits(root)[0][0]).values()
    return sum(any(_is_picture(path.relative_to(each).parts) for path in each.rglob("*")) for each in classes) > 1


def parts(root: Path, only: Sequence[str]) -> list[Path]:
    """What the pictures of `only` these classes depend on: their folders and all that is below."""
    roots, _ = _splits(root)
    chosen = [split / name for split in roots for name in only if (split / name).is_dir()]
    below = [path for folder in chosen for path in (folder, *sorted(folder.rglob("*")))]
    return [path for path in below if path.name not in OF_SYSTEMS]


def _splits(root: Path) -> tuple[list[Path], list[str]]:
    """The folder to train on and that to test on, if there is one, and what is unused."""
    folders = _folders(root)
    named: dict[str, Path] = {}
    for name, folder in sorted(folders.items(), key=lambda each: SPLITS.get(each[0]) == each[0]):  # usual names win
        if split := SPLITS.get(name.casefold()):
            named[split] = folder
    named = named or _by_a_word(folders)
    others = [name for name, folder in folders.items() if folder not in named.values()]
    holds_classes = {split: bool(_folders(folder)) for split, folder in named.items()}
    if not named:
        return [root], []
    if others and not any(holds_classes.values()):  # "train" is also what trains are called
        called = ", ".join(sorted(folder.name for folder in named.values()))
        return [root], [f"without class folders, so taken for classes: {called}"]
    # ImageNet's test pictures have no classes, hence no folders.
    train, test, notes = choose_splits(named, str(root), lambda split: holds_classes[split])
    notes += [f"beside {named[train].name}, not used: {', '.join(others)}"] if others else []
    return [named[train], *([named[test]] if test else [])], notes


def _by_a_word(folders: Mapping[str, Path]) -> dict[str, Path]:
    """Splits as in seg_train/ and seg_test/; none where it is not clear which folders they are."""
    pairs: dict[tuple[str | None, ...], dict[str, list[Path]]] = {}
    for name, folder in folders.items():
        if (found := _BY_A_WORD.fullmatch(name.casefold())) and _folders(folder):
            before, word, after = found.groups()
            pairs.setdefault((before, after), {}).setdefault(SPLITS[word], []).append(folder)
    known = [splits for splits in pairs.values() if len(splits) > 1 and "train" in splits]
    clear = len(known) == 1 and all(len(several) == 1 for several in known[0].values())
    return {split: folder for split, (folder,) in known[0].items()} if clear else {}


def _folders(root: Path) -> dict[str, Path]:
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    return {entry.name: entry for entry in entries if entry.is_dir() and not _is_hidden(entry.name)}


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def check_text(what: str, *names: str) -> None:
    """Refuse what no file of ours could hold, before anything is learned of it."""
    for name in names:
        if any(0xD800 <= ord(character) <= 0xDFFF for character in name):  # how Python keeps bytes that are no UTF-8
            raise InputError(f"The {what} {name!r} is no UTF-8. Rename it.")


def _check_present(root: Path, names: list[str]) -> None:
    present = _folders(root)
    if missing := [name for name in names if name not in present]:
        raise InputError(
            f"'{root}' has no class folders {listed(missing)}; expected one for each of the {len(names)} classes, "
            "named by its WordNet id, as in ImageNet's train/ and val/."
        )


def _check_classes(roots: list[Path], names: list[str]) -> None:
    if not names:
        raise InputError(f"No class folders in '{roots[0]}'; expected {LAYOUT}, parquet files or an .npz file.")
    if len(names) == 1:
        raise InputError(f"Only one class folder ('{names[0]}') in '{roots[0]}'; expected at least 2: {LAYOUT}.")
    for split in roots[1:]:
        if unknown := [name for name in _folders(split) if name not in names]:
            raise InputError(
                f"'{split}' has the class folders {', '.join(unknown)}, which '{roots[0]}' has not; "
                "expected the same class folders in both."
            )


def _find(root: Path, names: list[str], *, must_have: bool) -> tuple[list[tuple[int, Path]], int, list[Path]]:
    """Labels and paths of a split's pictures, the number of files that are not taken for pictures, and linked folders,
    which are not followed: they may lead to pictures that are there already."""
    pictures, links = [], list[Path]()
    ignored = sum(entry.is_file() and entry.name not in OF_SYSTEMS for entry in root.iterdir())
    for label, name in enumerate(names):
        below, first = [], len(links)
        for path in (root / name).rglob("*"):
            if path.is_file():
                below += [path.relative_to(root).parts] if path.name not in OF_SYSTEMS else []
            elif path.is_symlink() and path.is_dir():
                links.append(path)
        below.sort()
        chosen = [parts for parts in below if _is_picture(parts)]
        if must_have and not chosen:
            linked = "; linked folders inside of it are not read" if links[first:] else ""
            raise InputError(
                f"Class folder '{root / name}' holds no pictures ({len(below)} other files{linked}); expected PNG, "
                "JPEG, WebP or BMP files. Remove the folder or fill it."
            )
        pictures += [(label, root.joinpath(*parts)) for parts in chosen]
        ignored += len(below) - len(chosen)
    if not pictures:
        raise InputError(
            f"'{root}' holds no pictures in class folders; expected class folders as in train/, or no such folder."
        )
    return pictures, ignored, links


def _unread(links: list[Path]) -> list[str]:
    quoted = listed([f"'{link}'" for link in links])
    return [f"linked folders inside of class folders, not read: {quoted}"] if links else []


def _is_picture(parts: tuple[str, ...]) -> bool:
    return parts[-1].lower().endswith(SUFFIXES) and not any(_is_hidden(part) for part in parts)
