"""Class names as names of folders and of classes in other programs, which allow less than ours do."""

import itertools
import re
import unicodedata
from collections.abc import Sequence

SPLIT_WORDS = {"test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev"}
"""Words by which `datasets` takes a folder for a split of the data."""

_RESERVED = {"__macosx", "con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
"""What is left out as rubbish, and the names of devices on Windows."""
_LONGEST = 50  # characters; of up to four bytes, where 255 bytes are usual


def folder_names(class_names: Sequence[str]) -> list[str]:
    """One folder name per class: distinct on every file system, and in the order of the labels when sorted.

    Names that are so already stay as they are. Otherwise the label comes first, as in `03-cat`, and in the rest
    everything but letters, digits, spaces, `-` and `_` becomes `_`; of a name that means something to the file system
    or to `datasets` (`con`, `test`), or that is itself the label, only the label is left.
    """
    safe = [_safe(name) for name in class_names]
    folded = [unicodedata.normalize("NFC", name.casefold()) for name in safe]
    if all(safe) and safe == list(class_names) == sorted(safe) and len(set(folded)) == len(folded):
        return safe
    digits = len(str(len(class_names) - 1))
    return [
        f"{label:0{digits}}-{name}" if name not in ("", str(label)) else f"{label:0{digits}}"
        for label, name in enumerate(safe)
    ]


def distinct_names(class_names: Sequence[str]) -> list[str]:
    """The names with ` (2)`, ` (3)` and so on behind those that were there before."""
    distinct: dict[str, None] = {}
    for name in class_names:
        candidates = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
        distinct[next(each for each in candidates if each not in distinct)] = None
    return list(distinct)


def _safe(name: str) -> str:
    """The name as it may be in a path; empty where it means something there."""
    kept = "".join(each if each.isalnum() or each in " -_" else "_" for each in name)[:_LONGEST].strip(" ")
    words = set(re.split(r"[-_ 0-9]+", kept.lower()))
    return "" if kept.lower() in _RESERVED or words & SPLIT_WORDS or not kept.strip("_") else kept
