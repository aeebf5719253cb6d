"""Trials in the cache: one small file for every network that was trained on a set and tested.

What was scored once is found again, so that an evaluation of many sets, networks and seeds goes on where it was
stopped, and more seeds cost only themselves.
"""

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from torch import Tensor

from accdd import files
from accdd.config import Notice
from accdd.keys import Key, digest

VERSION = 4
"""Raised when scores of the same parts would differ, or are written otherwise; old trials, and old scores of studies,
are then never found."""


class Trial(NamedTuple):
    """One network, trained on a set and tested."""

    accuracy: float
    """Percent, after the last epoch."""
    best_on_test: float
    """Percent, at the highest of the looks that were taken."""
    seconds: float
    """Its share of the wall-clock time."""
    right: tuple[int, ...]
    """Test images of each class that it tells after the last epoch."""
    diverged: bool = False
    """Whether a weight is no number by then."""


@dataclasses.dataclass(frozen=True)
class KeptTrials:
    """The trials of one set, network and protocol; one for each key of initialisation, order and augmentation."""

    parts: Mapping[str, Any]
    """Everything else that decides the accuracy, as JSON values."""

    def find(self, key: Key, rows: Tensor | None) -> Trial | None:
        """The trial of a network that was trained on the images `rows`; None where it is missing or damaged."""
        parts = self._parts(key, rows)
        try:
            record = json.loads(files.cache_entry("scores", parts).with_suffix(".json").read_text())
            trial = TypeAdapter(Trial).validate_python(record["trial"])
            return trial if record == _record(parts, trial) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # trained again, and written over

    def keep(self, key: Key, rows: Tensor | None, trial: Trial) -> None:
        """Write a trial, which appears whole; where the cache cannot be written, it is only said."""
        parts = self._parts(key, rows)
        file = files.cache_entry("scores", parts).with_suffix(".json")
        try:
            files.write_text(file, json.dumps(_record(parts, trial)))
        except OSError as error:
            warnings.warn(
                f"Scores cannot be kept in the cache ({error.strerror or error}), so asking for them again makes them "
                "again. Make room there, or set ACCDD_CACHE to a folder that can be written.",
                Notice,
                stacklevel=3,
            )

    def _parts(self, key: Key, rows: Tensor | None) -> dict[str, Any]:
        own = {"version": VERSION, "key": [key.seed, *key.path], "rows": None if rows is None else digest(rows)}
        return dict(self.parts) | own


def _record(parts: Mapping[str, Any], trial: Trial) -> dict[str, Any]:
    """What a file holds: with a checksum, because a changed digit is as good JSON as the right one."""
    found = trial._asdict()
    if not trial.diverged:  # as in records from before, which do not tell it
        del found["diverged"]
    text = files.key_text({"parts": parts, "trial": found})
    return json.loads(text) | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
