"""Folders and files that appear whole or not at all, their checksums, and the cache.

Everything is written to a temporary sibling, fsynced, renamed, and the parent folder is fsynced: a process
killed at any moment leaves the old state or the new one, and at worst a sibling named `.<name>.<hex>.tmp`.
Those, and anything else not recognised, are never deleted here: they may belong to a process still at work. (The lock
of a cache entry, `.<name>.lock`, is deleted by whoever holds it.)
"""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from accdd import locks
from accdd.config import Notice

MANIFEST = "manifest.json"
"""Name of the file that lists all others of a committed folder with size and SHA-256; written last."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """What a manifest says about one file."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal digest of the contents."""


LEFT_OVER = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
"""What a process that was killed leaves behind; see `temporary_sibling`."""
ASIDE = re.compile(r".+\.damaged-\d+")
"""What was damaged and moved aside; see `aside`."""
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextlib.contextmanager
def commit_folder(
    path: str | Path, *, manifest: bool = False, winner_ok: bool = False, empty_ok: bool = False
) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path`, durably, when the block ends without an exception.

    Args:
        manifest: also write `manifest.json`, so that `verify_folder` can tell damage later.
        winner_ok: where `path` has appeared meanwhile, keep that one if it verifies and drop this one.
        empty_ok: take the place of an empty folder.

    Raises:
        FileExistsError: `path` exists, and neither `winner_ok` nor `empty_ok` allows it; found before the block runs
            wherever possible.
        OSError: the disk refuses, or `path` appeared meanwhile and is damaged.
    """
    path = Path(path).absolute()
    if not winner_ok:
        _refuse_existing(path, empty_ok)
    temporary = temporary_sibling(path)
    try:
        with naming(path):
            _make_folders(path.parent)
            temporary.mkdir()
            yield temporary
            _settle(temporary, manifest)
            if empty_ok and path.is_dir() and not path.is_symlink():
                path.rmdir()  # fails where something has come into it meanwhile
            _publish(temporary, path, winner_ok)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # after the rename there is nothing left to remove


@contextlib.contextmanager
def commit_file(path: str | Path) -> Iterator[Path]:
    """A temporary file name to write, which replaces `path`, durably, when the block ends without an exception."""
    path = Path(path).absolute()
    temporary = temporary_sibling(path)
    try:
        with naming(path):
            _make_folders(path.parent)
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)  # as the umask asks
            yield temporary
            temporary.chmod(mode)  # safetensors leaves 0600 whatever the umask
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the disk name what was to be written, where they do not: a full one is noticed without a name."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_DISKS and error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write or replace one UTF-8 file, atomically and durably; line ends are kept as they are."""
    with commit_file(path) as temporary:
        temporary.write_bytes(text.encode())


def save_tensors(tensors: Mapping[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file of contiguous tensors on the CPU.

    Raises:
        OSError: as every other write has it; safetensors' own error is none, and would not say which disk is full.
    """
    import safetensors.torch  # not for those who only look at files

    try:
        safetensors.torch.save_file(dict(tensors), path, metadata=metadata)
    except safetensors.SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's contents."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_folder(path: str | Path, *, hashed_up_to: int | None = None) -> list[str]:
    """What is wrong with a folder committed with a manifest, one line each; empty when it is whole.

    Files the manifest does not list are no damage: file browsers and network file systems leave some behind.

    Args:
        path: the folder.
        hashed_up_to: of files of more bytes than this only the size is compared; None compares all contents.
    """
    folder = Path(path)
    try:
        # Only regular files found by walking are opened: a link, or a name like ../../secret, leads nowhere.
        found = _regular_files(folder)
        if MANIFEST not in found:
            return [f"{MANIFEST}: is missing"]
        listed = TypeAdapter(dict[str, Listed]).validate_json(found[MANIFEST].read_bytes())
        problems = [_problem(found.get(name), name, expected, hashed_up_to) for name, expected in listed.items()]
    except OSError as error:
        return [f"{error.filename}: cannot be read ({error.strerror})"]
    except ValueError:
        return [f"{MANIFEST}: is not a manifest"]
    return [problem for problem in problems if problem]


def cache_folder() -> Path:
    """`$ACCDD_CACHE`, or `accdd` in the user's cache folder (`$XDG_CACHE_HOME` or ~/.cache). Not created here."""
    if own := os.environ.get("ACCDD_CACHE"):
        return Path(own).expanduser().absolute()
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says that a relative path is invalid and must be ignored.
    return (user if user.is_absolute() else Path.home() / ".cache") / "accdd"


def cached(
    kind: str, key_parts: Mapping[str, Any], build: Callable[[Path], None], *, hashed_up_to: int | None = None
) -> Path:
    """The cache's folder for a key, built first if it is not there.

    Where the file system has locks that work, one process builds and others that want the same wait for it. That
    only saves work, because not every shared one has: each builder works in its own temporary folder, the first to
    rename wins, and the others verify and use the winner's. `build` must therefore depend on nothing but `key_parts`.
    A damaged entry is moved aside with a warning and built again.

    Args:
        kind: what is kept, as in "pool"; the name of a folder in the cache.
        key_parts: everything the contents depend on, as JSON values; also stored as `key.json` in the entry.
        build: fills a folder. Signature: `(folder) -> None`.
        hashed_up_to: as for `verify_folder`, for entries too large to be read whole at every use.

    Raises:
        TypeError, ValueError: `key_parts` is not JSON.
    """
    entry, key = cache_entry(kind, key_parts), key_text(key_parts)

    def build_with_key(folder: Path) -> None:
        build(folder)
        (folder / "key.json").write_text(key)

    return made(entry, build_with_key, hashed_up_to=hashed_up_to)


def made(entry: Path, build: Callable[[Path], None], *, hashed_up_to: int | None = None) -> Path:
    """The folder `entry`, built first if it is not there, as for `cached`."""
    if usable(entry, hashed_up_to=hashed_up_to):
        return entry
    with contextlib.suppress(OSError):  # whoever builds meets that, too, and says it
        _make_folders(entry.parent)
    with locks.turn(entry):
        if not usable(entry, hashed_up_to=hashed_up_to):  # nor was it made in the meantime
            with commit_folder(entry, manifest=True, winner_ok=True) as temporary:
                build(temporary)
    return entry


def cache_entry(kind: str, key_parts: Mapping[str, Any]) -> Path:
    """Where the cache keeps what a key names; not created here."""
    return cache_folder() / kind / hashlib.sha256(key_text(key_parts).encode()).hexdigest()[:32]


def key_text(key_parts: Mapping[str, Any]) -> str:
    """A key as text: the same for equal parts in any order.

    Raises:
        TypeError, ValueError: `key_parts` is not JSON.
    """
    return json.dumps(dict(key_parts), sort_keys=True, separators=(",", ":"), allow_nan=False)


def usable(entry: Path, *, hashed_up_to: int | None = None) -> bool:
    """Whether a cache entry is there and whole, and if so used now; a damaged one is moved aside with a warning."""
    identity = _identity(entry)
    if identity is None:
        return False
    problems = verify_folder(entry, hashed_up_to=hashed_up_to)
    # Verifying takes time. An entry that was replaced meanwhile is somebody's repaired one: leave it alone.
    if problems and _identity(entry) == identity:
        _move_aside(entry, problems)
        return False
    if not problems:
        with contextlib.suppress(OSError):  # a cache that can only be read
            os.utime(entry / MANIFEST)  # `accdd cache prune` goes by that
    return not problems


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _move_aside(entry: Path, problems: list[str]) -> None:
    moved = aside(entry)
    with contextlib.suppress(FileNotFoundError):  # another process has moved it first
        entry.rename(moved)
        warnings.warn(
            f"The cache entry {entry} is damaged ({'; '.join(problems[:3])}). It was moved to {moved.name} and "
            f"is built again; the moved folder can be deleted.",
            Notice,
            stacklevel=5,  # the caller of `cached`
        )


def _refuse_existing(path: Path, empty_ok: bool = False) -> None:
    empty = empty_ok and path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not empty:
        raise FileExistsError(errno.EEXIST, "exists already and is not overwritten", str(path))


def _make_folders(folder: Path) -> None:
    """Create a folder and its parents; a new folder is durable only once the one above it is synced."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def temporary_sibling(path: Path) -> Path:
    """A free name beside `path`, as everything has that is not finished or about to go."""
    # Same folder, so that the rename cannot cross file systems; the name is cut to fit the usual 255 bytes.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")


def aside(path: Path) -> Path:
    """A free name beside `path` for what is damaged there."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def _settle(folder: Path, manifest: bool) -> None:
    """Give files the modes the umask asks for, bring everything to the disk, and write the manifest last."""
    folder_mode = stat.S_IMODE(folder.stat().st_mode)  # made by plain mkdir, so it shows the umask
    files = _regular_files(folder)
    for file in files.values():
        file.chmod(folder_mode & 0o666)  # safetensors leaves 0600 whatever the umask
        _sync(file)
    if manifest:
        assert MANIFEST not in files, f"'{MANIFEST}' is a reserved name"
        listed = {name: dataclasses.asdict(_listed(file)) for name, file in files.items()}
        (folder / MANIFEST).write_text(json.dumps(listed, indent=1))
        _sync(folder / MANIFEST)
    for each in (*(inner for inner in folder.rglob("*") if inner.is_dir()), folder):
        _sync(each)


def _publish(temporary: Path, path: Path, winner_ok: bool) -> None:
    """Rename `temporary` to `path`, or with `winner_ok` accept a whole folder that is there already."""
    try:
        _refuse_existing(path)  # a rename would silently replace an empty folder
        temporary.rename(path)
    except OSError as error:
        if not winner_ok or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if problems := verify_folder(path):
            raise OSError(f"{path} was written by another process meanwhile and is damaged: {problems[0]}") from error
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Bring a file, or the list of names in a folder, to the disk."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return  # Windows has no such call for folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync folders. A file that cannot be synced is an error.
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _regular_files(folder: Path) -> dict[str, Path]:
    """Relative name with forward slashes -> path, of all files below; links and devices are left out."""
    found = sorted(path for path in folder.rglob("*") if stat.S_ISREG(path.lstat().st_mode))
    return {path.relative_to(folder).as_posix(): path for path in found}


def _listed(path: Path) -> Listed:
    return Listed(path.stat().st_size, sha256(path))


def _problem(path: Path | None, name: str, expected: Listed, hashed_up_to: int | None) -> str | None:
    if path is None:
        return f"{name}: is missing"
    if (size := path.stat().st_size) != expected.size:
        return f"{name}: has {size} bytes instead of {expected.size}"
    hashed = hashed_up_to is None or size <= hashed_up_to
    if hashed and sha256(path) != expected.sha256:
        return f"{name}: has changed (other SHA-256)"
    return None
