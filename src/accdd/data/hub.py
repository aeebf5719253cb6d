"""Data sets of the Hugging Face hub, and objects of the `datasets` library that the user already holds."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accdd import files
from accdd.config import Data, InputError
from accdd.data import arrays, folders, parquet
from accdd.data.dataset import Dataset, build, choose_splits
from accdd.data.pictures import Picture, Pictures, read

_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load_hub(repository: str, settings: Data) -> Dataset:
    """A data set of the hub by its "owner/name".

    Raises:
        InputError: the hub cannot be reached or has no such data set, or the data set has no pictures or
            no classes.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"'hf:{repository}' does not name a data set of the hub; expected hf:owner/name.")
    # Imported here: it takes seconds, and only this source needs it.
    import datasets

    try:
        loaded = datasets.load_dataset(repository, cache_dir=str(files.cache_folder() / "datasets"))
    except Exception as error:  # whatever the client's transport raises means the same to the user
        raise InputError(_why(repository, error)) from error
    return load_object(loaded, settings, name=repository)


def is_object(source: Any) -> bool:
    """Whether `source` is a Dataset or DatasetDict of the `datasets` library, which is not imported to find out."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(source, datasets.Dataset | datasets.DatasetDict)


def load_object(source: Any, settings: Data, *, name: str | None = None) -> Dataset:
    """A `datasets.Dataset` (no test split) or `datasets.DatasetDict` with an Image and a class column.

    Raises:
        InputError: no column of pictures, no column of integer classes, or no training split.
    """
    splits = dict(source) if isinstance(source, dict) else {"train": source}
    name = str(name or next(iter(splits.values())).info.dataset_name or "dataset")
    train, test, notes = choose_splits(splits, name)
    image, label, class_names = _columns(splits[train].features, name)
    chosen = [_pictures(splits[split], image, label, f"{name}, {split}") for split in (train, test) if split]
    decoded, read_notes = read(chosen, settings)
    return build(
        name,
        decoded[0],
        decoded[1] if test else None,
        class_names=class_names,
        notes=[*notes, *read_notes],
        test_fraction=settings.test_fraction,
    )


def _why(repository: str, error: Exception) -> str:
    local = f"Local data works without the hub: {folders.LAYOUT}, {parquet.LAYOUT}, or {arrays.LAYOUT}."
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, FileNotFoundError):
        return f"The hub has no data set '{repository}' that can be read from here ({reason}). {local}"
    if isinstance(error, ValueError):
        return f"'{repository}' could not be loaded from the hub ({reason}). {local}"
    return f"The hub could not be reached for '{repository}' ({reason}). {local}"


def _columns(features: Any, name: str) -> tuple[str, str, list[str] | None]:
    """Names of the picture's and the label's column, and the class names if the label's column has them."""
    import datasets

    pictures = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    named = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    numbered = [column for column, feature in features.items() if str(getattr(feature, "dtype", "")).startswith("int")]
    labels = named or [column for column in numbered if column in parquet.LABEL_COLUMNS]
    if not pictures or not labels:
        raise InputError(
            f"'{name}' has the columns {', '.join(features)}; expected one of type Image and one of type ClassLabel."
        )
    label = next((column for column in parquet.LABEL_COLUMNS if column in labels), labels[0])
    return pictures[0], label, list(features[label].names) if named else None


def _pictures(split: Any, image: str, label: str, where: str) -> Pictures:
    import datasets

    # Undecoded, so that our limits on formats and sizes apply to these pictures too.
    rows = split.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))

    def pictures() -> Iterator[Picture]:
        for row, content in enumerate(rows):
            place, encoded, number = f"{where}, row {row}", content[image], content[label]
            if number is None:
                raise InputError(f"{place} has no label; expected an integer in every row.")
            if encoded is not None and encoded["bytes"] is None and encoded["path"]:
                yield Picture(place, number, Path(encoded["path"]))
            else:
                yield Picture(place, number, (encoded or {}).get("bytes") or b"")

    return pictures
