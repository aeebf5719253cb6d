"""Data sets of the Hugging Face hub, and objects of the `datasets` library that the user already holds."""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accdd import files
from accdd.config import Data, InputError
from accdd.data import cache, parquet, paths
from accdd.data.dataset import Dataset, build, choose_splits, has_labels
from accdd.data.named import Named, subset
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
    local = f" Local data works without the hub: {paths.LAYOUTS}."
    return _kept(_download(repository, {}, local), settings, repository, None)


def load_named(name: str, facts: Named, settings: Data, advice: str) -> Dataset:
    """A data set that is known by name.

    Args:
        name: its name.
        facts: what is known.
        settings: the working size and the rest.
        advice: sentences for the user whom the hub does not answer.

    Raises:
        InputError: as for `load_hub`.
    """
    return _kept(_download(facts.hub, facts.options, advice), settings, name, facts)


def _download(repository: str, options: Mapping[str, Any], advice: str) -> Any:
    # Imported here: it takes seconds, and only this source needs it.
    import datasets

    try:
        return datasets.load_dataset(repository, cache_dir=str(files.cache_folder() / "datasets"), **options)
    except Exception as error:  # whatever the client's transport raises means the same to the user
        raise InputError(_why(repository, error) + advice) from error


def _kept(loaded: Any, settings: Data, name: str, facts: Named | None) -> Dataset:
    """Decoded now or found in the cache; what the library has downloaded has a fingerprint of its own."""
    fingerprints = {split: rows._fingerprint for split, rows in dict(loaded).items()}
    key_parts = {"hub": name, "facts": facts and facts._asdict(), "fingerprints": fingerprints}
    return cache.keep(key_parts, settings, lambda: load_object(loaded, settings, name=name, facts=facts))


def is_object(source: Any) -> bool:
    """Whether `source` is a Dataset or DatasetDict of the `datasets` library, which is not imported to find out."""
    datasets = sys.modules.get("datasets")
    return datasets is not None and isinstance(source, datasets.Dataset | datasets.DatasetDict)


def load_object(source: Any, settings: Data, *, name: str | None = None, facts: Named | None = None) -> Dataset:
    """A `datasets.Dataset` (no test split) or `datasets.DatasetDict` with an Image and a class column.

    `facts` say which columns, splits and classes, where that is known.

    Raises:
        InputError: no column of pictures, no column of integer classes, or no training split.
    """
    splits = dict(source) if isinstance(source, dict) else {"train": source}
    name = str(name or next(iter(splits.values())).info.dataset_name or "dataset")
    if facts:
        splits = {split: rows for split, rows in splits.items() if split in ("train", facts.test)}

    def columns(split: str) -> tuple[str, str, list[str] | None]:
        known = (facts.image, facts.label) if facts else splits[split].features
        return _columns({column: kind for column, kind in splits[split].features.items() if column in known}, name)

    def labelled(split: str) -> bool:
        try:
            return has_labels(splits[split][columns(split)[1]])
        except InputError:  # no such column
            return False

    train, test, notes = choose_splits(splits, name, labelled)
    image, label, class_names = columns(train)
    number_of: Mapping[int, int] | None = None
    if facts and facts.only:
        ids = subset(facts.only)
        class_names, number_of = list(ids), {theirs: number for number, theirs in enumerate(ids.values())}
    chosen = [_pictures(splits[each], image, label, number_of, f"{name}, {each}") for each in (train, test) if each]
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
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, FileNotFoundError):
        return f"The hub has no data set '{repository}' that can be read from here ({reason})."
    if isinstance(error, ValueError):
        return f"'{repository}' could not be loaded from the hub ({reason})."
    return f"The hub could not be reached for '{repository}' ({reason})."


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


def _pictures(split: Any, image: str, label: str, number_of: Mapping[int, int] | None, where: str) -> Pictures:
    """The pictures of a split; with `number_of` only those of these classes, which get other numbers."""
    import datasets

    # Undecoded, so that our limits on formats and sizes apply to these pictures too.
    rows = split.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    if number_of:
        rows = rows.select([row for row, number in enumerate(rows[label]) if number in number_of])

    def pictures() -> Iterator[Picture]:
        for row, content in enumerate(rows):
            place, encoded, number = f"{where}, row {row}", content[image], content[label]
            number = number_of[number] if number_of else number
            if number is None:
                raise InputError(f"{place} has no label; expected an integer in every row.")
            if encoded is not None and encoded["bytes"] is None and encoded["path"]:
                yield Picture(place, number, Path(encoded["path"]))
            else:
                yield Picture(place, number, (encoded or {}).get("bytes") or b"")

    return pictures
