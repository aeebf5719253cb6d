"""A folder of class folders, optionally below train/ and test/."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from accdd.config import Data, InputError
from accdd.data.dataset import TEST_SPLITS, Dataset, build, choose_splits
from accdd.data.pictures import Picture, Pictures, read

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings, in any case, of files taken for pictures; other files are counted and left alone."""

LAYOUT = "a folder with one folder of pictures per class (optionally below train/ and test/)"


def load_folder(root: Path, settings: Data) -> Dataset:
    """The pictures of a folder of class folders; classes are sorted by folder name.

    Raises:
        InputError: no class folders, only one, one without pictures, a test class that is not trained on,
            or an unreadable picture.
    """
    top = _folders(root)
    if named := [name for name in top if name in ("train", *TEST_SPLITS)]:
        train, test, notes = choose_splits(named, str(root))
        roots = [root / train, *([root / test] if test else [])]
    else:
        roots, notes = [root], []
    names = list(_folders(roots[0]))
    _check_classes(roots, names)
    found = [_find(split, names, must_have=split == roots[0]) for split in roots]
    splits, read_notes = read([_pictures(files) for files, _ in found], settings)
    ignored = sum(count for _, count in found)
    notes += [*read_notes, *([f"files ignored: {ignored} (hidden or not PNG, JPEG, WebP or BMP)"] if ignored else [])]
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
    _check_classes([root], names)
    found, _ = _find(root, names, must_have=True)
    ((images, labels),), notes = read([_pictures(found)], settings)
    return images, labels, names, notes


def _folders(root: Path) -> dict[str, Path]:
    entries = sorted(root.iterdir(), key=lambda entry: entry.name)
    return {entry.name: entry for entry in entries if entry.is_dir() and not _is_hidden(entry.name)}


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


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


def _find(root: Path, names: list[str], *, must_have: bool) -> tuple[list[tuple[int, Path]], int]:
    """Labels and paths of a split's pictures, and the number of files that are not taken for pictures."""
    pictures, ignored = [], sum(entry.is_file() for entry in root.iterdir())
    for label, name in enumerate(names):
        below = sorted(path.relative_to(root).parts for path in (root / name).rglob("*") if path.is_file())
        chosen = [parts for parts in below if _is_picture(parts)]
        if must_have and not chosen:
            raise InputError(
                f"Class folder '{root / name}' holds no pictures ({len(below)} other files); expected PNG, JPEG, "
                "WebP or BMP files. Remove the folder or fill it."
            )
        pictures += [(label, root.joinpath(*parts)) for parts in chosen]
        ignored += len(below) - len(chosen)
    if not pictures:
        raise InputError(f"'{root}' holds no pictures; expected class folders as in train/, or no such folder.")
    return pictures, ignored


def _is_picture(parts: tuple[str, ...]) -> bool:
    return parts[-1].lower().endswith(SUFFIXES) and not any(_is_hidden(part) for part in parts)


def _pictures(files: list[tuple[int, Path]]) -> Pictures:
    def pictures() -> Iterator[Picture]:
        for label, path in files:
            yield Picture(where=f"'{path}'", label=label, encoded=path)

    return pictures
