"""A folder of parquet files as the Hugging Face hub lays them out, read with pyarrow alone."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from accdd.config import Data, InputError
from accdd.data.dataset import Dataset, build, choose_splits, has_labels
from accdd.data.folders import hold_pictures
from accdd.data.pictures import Picture, Pictures, read

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")

LAYOUT = "a folder of parquet files (train-*.parquet, optionally test-*.parquet or validation-*.parquet)"

_SPLIT = re.compile(r"(?:^|(?<=[-_.]))(train|test|validation|valid|val)(?=[-_.])")
_ROWS = 1024
"""Rows read at a time."""
_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for damaged files; names in them are decoded as UTF-8."""


def find_parquet(root: Path) -> list[Path]:
    """Parquet files of a folder: its own, else those of data/, else those of its only folder with any.

    Files without pictures, in or below a folder of class folders with some, are about these and not among them.

    Raises:
        InputError: several folders hold parquet files, as in a data set with several configurations.
    """
    own = sorted(root.glob("*.parquet")) or sorted(root.glob("data/*.parquet"))
    files = own or sorted(root.glob("*/*.parquet"))
    if files and not any(map(_has_pictures, files)) and hold_pictures(root):
        return []
    if not own and len(parents := sorted({str(path.parent) for path in files})) > 1:
        raise InputError(f"Several folders in '{root}' hold parquet files; name one of them: {', '.join(parents)}.")
    return files


def load_parquet(name: str, files: Sequence[Path], settings: Data) -> Dataset:
    """Pictures and labels of parquet files, grouped into splits by their names.

    The picture is a struct {bytes, path} in a column of `IMAGE_COLUMNS`, the class an integer in one of
    `LABEL_COLUMNS`; class names come from the schema's "huggingface" metadata when that is there.

    Raises:
        InputError: a file that is not parquet, missing columns, empty labels, an unreadable picture (file
            and row named), or no training split.
    """
    groups = _grouped(files, within=True)
    if "train" not in groups:  # then a word within a name is of something else
        groups = _grouped(files, within=False)
    train, test, notes = choose_splits(groups, name, lambda split: has_labels(_labels(groups[split])))
    chosen = [groups[split] for split in (train, test) if split]
    for path in (path for group in chosen for path in group):
        _columns(path)
    splits, read_notes = read([_pictures(group) for group in chosen], settings)
    return build(
        name,
        splits[0],
        splits[1] if test else None,
        class_names=_class_names(groups[train][0]),
        notes=[*notes, *read_notes],
        test_fraction=settings.test_fraction,
    )


def _grouped(files: Sequence[Path], *, within: bool) -> dict[str, list[Path]]:
    """Files by the split that their names begin with, or else, if `within`, by the last one in them."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        first = _SPLIT.match(path.name)
        *_, split = ["unnamed", *(_SPLIT.findall(path.name) if within else [])]
        groups.setdefault(first[1] if first else split, []).append(path)
    return groups


def _schema(path: Path) -> pa.Schema:
    try:
        schema = pq.read_schema(path)
        _ = schema.names  # decoded only here
        return schema
    except _BROKEN as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' cannot be read as parquet ({reason}). Download or write it again.") from None


def _has_pictures(path: Path) -> bool:
    schema = _schema(path)
    return any(_are_pictures(schema.field(name).type) for name in IMAGE_COLUMNS if name in schema.names)


def _are_pictures(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _columns(path: Path) -> tuple[str, str]:
    """Names of the picture's and the label's column."""
    schema = _schema(path)
    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if image is None or label is None:
        raise InputError(
            f"'{path}' has the columns {', '.join(schema.names)}; expected a picture in one called "
            f"{' or '.join(IMAGE_COLUMNS)} and a class in one called {', '.join(LABEL_COLUMNS[:-1])} or labels."
        )
    kind = schema.field(image).type
    if not _are_pictures(kind):
        raise InputError(f"Column '{image}' of '{path}' is {kind}; expected struct<bytes: binary, path: string>.")
    if not pa.types.is_integer(schema.field(label).type):
        raise InputError(f"Column '{label}' of '{path}' is {schema.field(label).type}; expected integer labels.")
    return image, label


def _class_names(path: Path) -> list[str] | None:
    described = (_schema(path).metadata or {}).get(b"huggingface")
    if described is None:
        return None
    try:
        names = json.loads(described)["info"]["features"][_columns(path)[1]]["names"]
    except (ValueError, KeyError, TypeError):  # the metadata is optional, and so is each of its parts
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _labels(files: Sequence[Path]) -> Iterator[int | None]:
    """Those of a split, without its pictures; none where it has no column of them."""
    for path in files:
        label = next((name for name in LABEL_COLUMNS if name in _schema(path).names), None)
        if label is None:
            return
        try:
            yield from pq.ParquetFile(path).read([label]).column(label).to_pylist()
        except _BROKEN as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"'{path}' is damaged ({reason}). Download or write it again.") from None


def _pictures(files: Sequence[Path]) -> Pictures:
    def pictures() -> Iterator[Picture]:
        for path in files:
            yield from _rows(path)

    return pictures


def _rows(path: Path) -> Iterator[Picture]:
    image, label = _columns(path)
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=[f"{image}.bytes", label]):
                encoded = batch.column(image).field("bytes")
                for content, number in zip(encoded, batch.column(label).to_pylist(), strict=True):
                    where = f"'{path}', row {row}"
                    if number is None:
                        raise InputError(f"{where} has no label; expected an integer in every row.")
                    yield Picture(where, number, content.as_py() or b"")
                    row += 1
    except _BROKEN as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' is damaged after row {row} ({reason}). Download or write it again.") from None
