"""What is in accdd's cache, and what may go: `accdd cache ls` and `accdd cache prune`.

Nothing is ever evicted unasked. An entry that goes is renamed first, so that readers find it whole or not at all;
what accdd does not know is listed and stays.
"""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from accdd import files, locks
from accdd.config import InputError
from accdd.text import quantity

LIMIT = "ACCDD_CACHE_LIMIT"
"""Environment variable: the size that `prune` keeps to where it is told none."""

IN_USE = 3600.0
"""Seconds: what was touched later than that may be in use."""

BUILDING = 86400.0
"""Seconds, of what is still being built: an early-stage model may be trained for hours before it is written."""

KINDS = {"pools": "pool.json", "data": "key.json", "targets": "bank.json"}
"""The folders of entries, with the file that makes one of theirs known."""

GROWING = ("pools", "targets")
"""Those whose entries are made part by part."""

WHOLE = ("compiled", "datasets", "scores", "executor")
"""Folders that go as a whole: other libraries fill the first two, scores and what workers say are small files."""

_ENTRY = re.compile(r"[0-9a-f]{32}")


class Entry(NamedTuple):
    """Something in the cache."""

    path: Path
    kind: str
    """A name from `KINDS` or `WHOLE`, `left over` (killed or damaged) or `unknown`."""
    name: str
    """Of the data, where that can be told."""
    bytes: int
    used: float
    """Seconds since 1970 of the last use, or of the last change of a file in it."""


def entries() -> list[Entry]:
    """Everything in the cache, the longest unused first."""
    root = files.cache_folder()
    names = _data_names(root)
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        inside = sorted(path.iterdir()) if path.name in KINDS and path.is_dir() and not path.is_symlink() else [path]
        if path.name in GROWING:
            known = [entry for entry in inside if _kind(entry, root) == path.name]
            inside += [left for entry in known for left in entry.glob("*") if _left_over(left)]
        found += [_entry(each, root, names) for each in inside if not locks.LOCK.fullmatch(each.name)]
    return sorted(found, key=lambda entry: entry.used)


def prune(
    *, max_size: int | None = None, older_than: float | None = None, everything: bool = False, in_use: bool = False
) -> list[Entry]:
    """Remove entries, the longest unused first, and return those that went.

    What was touched in the last hour stays (what is still being built: in the last day), and so does whatever accdd
    does not know.

    Args:
        max_size: bytes that may stay.
        older_than: seconds; whatever was not used for that long goes.
        everything: all of it goes.
        in_use: also what may be in use.

    Raises:
        InputError: nothing says what is to go.
        OSError: the system refuses.
    """
    if max_size is None and older_than is None and not everything:
        if not (limit := os.environ.get(LIMIT)):
            raise InputError(
                "Nothing says what is to go. Expected --max-size, as in 10GB, --older-than, as in 30d, or --all; "
                f"or {LIMIT} in the environment."
            )
        max_size = parse_size(limit)
    present, now, gone = entries(), time.time(), []
    total = sum(entry.bytes for entry in present)
    for entry in present:
        age = now - entry.used
        wanted = everything or (older_than is not None and age > older_than)
        wanted |= max_size is not None and total > max_size
        if not wanted or entry.kind == "unknown":
            continue
        quiet = BUILDING if entry.kind == "left over" or _locked(entry.path) else IN_USE
        if (in_use or age > quiet) and _remove(entry.path):
            total -= entry.bytes
            gone.append(entry)
    return gone


def parse_size(text: str) -> int:
    """'10GB', '500 MB' or plain bytes to bytes.

    Raises:
        InputError: it is no size.
    """
    size = quantity(text, {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12})
    if size is None:
        raise InputError(f"'{text}' is no size. Expected a number with kB, MB, GB or TB, as in 10GB.")
    return int(size)


def parse_age(text: str) -> float:
    """'30d', '12h' or '10m' to seconds.

    Raises:
        InputError: it is no age.
    """
    age = quantity(text, {"d": 86400, "h": 3600, "m": 60})
    if age is None:
        raise InputError(f"'{text}' is no age. Expected a number with d, h or m, as in 30d.")
    return age


def _entry(path: Path, root: Path, names: dict[str, str]) -> Entry:
    kind = _kind(path, root)
    size, used = 0, path.lstat().st_mtime
    for file in _files(path):
        with contextlib.suppress(FileNotFoundError):
            status = file.lstat()
            # What others fill is read without being touched; only the time of access may tell.
            used = max(used, status.st_mtime, status.st_atime if path.name in WHOLE else 0)
            elsewhere = kind in GROWING and _left_over(path / file.relative_to(path).parts[0])  # an entry of its own
            size += 0 if elsewhere else status.st_size
    name = names.get(str(_json(path / KINDS[kind]).get("data")), "") if kind in KINDS and kind != "data" else ""
    return Entry(path, kind, str(_json(path / "data.json").get("name", "")) if kind == "data" else name, size, used)


def _kind(path: Path, root: Path) -> str:
    if path.is_symlink() or not path.is_dir():
        return "unknown"
    if path.parent == root and not path.name.startswith(tuple(f".{name}." for name in WHOLE)):
        return path.name if path.name in WHOLE else "unknown"
    if _left_over(path):
        return "left over"
    known = _ENTRY.fullmatch(path.name) and (path / KINDS[path.parent.name]).is_file()
    return path.parent.name if known else "unknown"


def _left_over(path: Path) -> bool:
    return bool(files.LEFT_OVER.fullmatch(path.name) or files.ASIDE.fullmatch(path.name))


def _locked(path: Path) -> bool:
    """Whether an entry, or a part of it, may be in the making; a killed process leaves its lock."""
    inside = path.glob(".*.lock")  # of an entry that has just gone there are none
    return path.with_name(f".{path.name}.lock").exists() or any(locks.LOCK.fullmatch(each.name) for each in inside)


def _files(path: Path) -> Iterator[Path]:
    """All files below a folder, or the path itself; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, _, inside in os.walk(path):
        yield from (Path(folder, name) for name in inside)


def _data_names(root: Path) -> dict[str, str]:
    """Fingerprint -> name, of all data that was decoded into the cache."""
    known = {}
    for record in map(_json, root.glob("data/*/data.json")):
        known[str(record.get("fingerprint"))] = str(record.get("name", ""))
    return known


def _json(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _remove(path: Path) -> bool:
    """Take an entry away; False where another process was faster."""
    aside = files.temporary_sibling(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    shutil.rmtree(aside)
    return True
