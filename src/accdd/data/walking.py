"""What lies below a folder, through links too."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

Part = Path | os.DirEntry[str]
"""A file or folder. Of tens of thousands, making a `Path` of each takes longer than all that is asked of it."""
OF_SYSTEMS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that macOS and Windows put into every folder that is looked at, and write again. They are not there."""


def everything_below(folder: Part, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Part]:
    """All files and folders below a folder, through links too, in order of their names.

    Args:
        folder: where to begin; one that may not be read has nothing below it.
        above: device and inode of the folders that led here, so that a link back to one of them ends.
    """
    if (identity := _identity(folder)) in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if entry.name in OF_SYSTEMS:
            continue
        yield entry
        if (found := status_of(entry)) and stat.S_ISDIR(found.st_mode):
            yield from everything_below(entry, above | {identity})


def files_below(folder: Path) -> list[tuple[str, ...]]:
    """The parts of the paths of all files below a folder, relative to it, in order; none of what a link leads to that
    goes up again, where the same files would be found as another folder's."""
    above = frozenset(_identity(each) for each in folder.absolute().parents)
    found = [
        part for part in everything_below(folder, above) if (status := status_of(part)) and stat.S_ISREG(status.st_mode)
    ]
    return sorted(Path(part).relative_to(folder).parts for part in found)


def _identity(folder: Part) -> tuple[int, int]:
    status = Path(folder).stat()  # an entry's own stat() has no inode on Windows
    return status.st_dev, status.st_ino


def status_of(part: Part) -> os.stat_result | None:
    """What the system says of it; None of a link that leads nowhere, or to itself."""
    try:
        return part.stat()
    except OSError:
        return None
