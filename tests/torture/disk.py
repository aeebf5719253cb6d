"""A disk that fails at a given operation, and one that forgets what was not synced.

`Disk` stands between Python and the system: it counts every operation that changes files and can let one fail, or end
the process there. `Journal` records them, and says in which states a power cut may leave the disk: of each folder, any
of the changes since it was last synced may be lost; of each file that was not synced, the contents may be missing, cut,
zeroed, or there. File systems keep an order among such changes; none is assumed here.
"""

import builtins
import contextlib
import errno
import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch

OPERATIONS = ("open", "fsync", "mkdir", "rename", "replace", "chmod", "unlink", "rmdir", "utime")


class Disk:
    """Every operation on files, in the order in which they come.

    Args:
        before: called before each with its number from 1, its name and its path; may raise, or not return.
        after: called after each that succeeded.
    """

    def __init__(
        self,
        before: Callable[[int, str, Path], None] = lambda number, name, path: None,
        after: Callable[[str, Path, Path | None], None] = lambda name, path, to: None,
    ) -> None:
        self.count = 0
        self._before, self._after = before, after
        self._paths: dict[int, Path] = {}  # of open handles

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Watch for the length of a block."""
        system = {name: getattr(os, name) for name in OPERATIONS}
        plain_open, save_file = io.open, safetensors.torch.save_file

        def path_of(path: Any, dir_fd: int | None = None) -> Path:
            if isinstance(path, int):
                return self._paths.get(path, Path("?"))
            return self._paths.get(dir_fd, Path()) / path if dir_fd is not None else Path(path)

        def watched(name: str) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **kwargs: Any) -> Any:
                found = path_of(path, kwargs.get("dir_fd"))
                quiet = name == "open" and not args[0] & os.O_CREAT
                to = Path(args[0]) if name in ("rename", "replace") else None
                if not quiet:
                    self._next(name, found)
                result = system[name](path, *args, **kwargs)
                if name == "open":
                    self._paths[result] = found
                if not quiet:
                    self._after("write" if name == "open" else name, found, to)
                return result

            return call

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wxa+") or isinstance(file, int):
                return plain_open(file, mode, *args, **kwargs)
            self._next("create", Path(file))
            stream = plain_open(file, mode, *args, **kwargs)
            self._after("write", Path(file), None)
            write = stream.write

            def half_written(data: Any) -> int:
                try:
                    self._next("write", Path(file))
                except OSError:
                    write(data[: len(data) // 2])
                    raise
                return write(data)

            with contextlib.suppress(AttributeError):  # a stream of C, whose methods cannot be replaced
                stream.write = half_written
            return stream

        def saved(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            try:
                self._next("write", Path(path))
            except OSError as error:  # as safetensors says it
                Path(path).write_bytes(b"half")
                raise safetensors.SafetensorError(f"I/O error: x (os error {error.errno})") from None
            save_file(tensors, path, *args, **kwargs)
            self._after("write", Path(path), None)

        patches = [(os, name, watched(name)) for name in OPERATIONS]
        patches += [(io, "open", opened), (builtins, "open", opened), (safetensors.torch, "save_file", saved)]
        before = [getattr(place, name) for place, name, _ in patches]
        for place, name, new in patches:
            setattr(place, name, new)
        try:
            yield
        finally:
            for (place, name, _), old in zip(patches, before, strict=True):
                setattr(place, name, old)

    def _next(self, name: str, path: Path) -> None:
        self.count += 1
        self._before(self.count, name, path)


def failing_at(k: int, code: int) -> Disk:
    """The k-th operation fails, and all later ones if the disk is full."""

    def before(number: int, name: str, path: Path) -> None:
        frees = name in ("unlink", "rmdir")
        if number == k or (number > k and code == errno.ENOSPC and not frees):
            raise OSError(code, os.strerror(code), str(path))

    return Disk(before)


def ending_at(k: int) -> Disk:
    """The process ends at the k-th operation, and nothing is cleaned up."""

    def before(number: int, name: str, path: Path) -> None:
        if number == k:
            os._exit(9)

    return Disk(before)


class _File:
    """An inode: what was synced, if it was, and a stream of what is there now."""

    def __init__(self, synced: bytes | None, stream: io.FileIO | None = None) -> None:
        self.synced, self.stream = synced, stream


class _Folder:
    """An inode: the names that were synced, and the changes since, each a set of names to set or take away."""

    def __init__(self) -> None:
        self.synced: dict[str, Any] = {}
        self.changes: list[dict[str, Any]] = []

    @property
    def now(self) -> dict[str, Any]:
        return _applied(self.synced, self.changes)


def _applied(names: dict[str, Any], changes: list[dict[str, Any]]) -> dict[str, Any]:
    for change in changes:
        names = names | change
    return {name: inode for name, inode in names.items() if inode is not None}


class Journal:
    """The operations below a folder, as inodes with what is durable of them.

    Args:
        root: what is in it now counts as synced.
        power_cut: called after each operation.
    """

    def __init__(self, root: Path, power_cut: Callable[["Journal"], None]) -> None:
        self._root, self._power_cut = root, power_cut
        self._tree = self._read(root)
        self._streams: list[io.FileIO] = []
        self.disk = Disk(after=self._note)

    def close(self) -> None:
        """Let go of the files."""
        for stream in self._streams:
            stream.close()

    def state(self, into: Path, random: random.Random) -> None:
        """Write one state that a power cut may leave now, into an empty folder."""
        self._write(self._tree, into, random)

    def _read(self, path: Path) -> Any:
        if path.is_file():
            return _File(path.read_bytes())
        folder = _Folder()
        folder.synced = {each.name: self._read(each) for each in path.iterdir()}
        return folder

    def _find(self, path: Path) -> Any:
        inode = self._tree
        for name in path.absolute().relative_to(self._root).parts:
            inode = inode.now[name]
        return inode

    def _note(self, name: str, path: Path, to: Path | None) -> None:
        if not path.absolute().is_relative_to(self._root):
            return
        change: dict[str, Any] = {}
        if name == "write":
            before = self._find(path.parent).now.get(path.name)
            if before is None:
                self._streams.append(io.FileIO(path))
                change = {path.name: _File(None, self._streams[-1])}
        elif name == "mkdir":
            change = {path.name: _Folder()}
        elif name in ("unlink", "rmdir"):
            change = {path.name: None}
        elif to is not None:
            assert path.parent == to.parent, "no rename goes from folder to folder"
            change = {path.name: None, to.name: self._find(path)}
        if change:
            self._find(path.parent).changes.append(change)
        if name == "fsync":
            inode = self._find(path)
            if isinstance(inode, _File):
                inode.synced = path.read_bytes()
            else:
                inode.synced, inode.changes = inode.now, []
        self._power_cut(self)

    def _write(self, inode: Any, path: Path, random: random.Random) -> None:
        if isinstance(inode, _File):
            path.write_bytes(inode.synced if inode.synced is not None else _torn(inode.stream, random))
            return
        path.mkdir(exist_ok=True)
        kept = [change for change in inode.changes if random.random() < 0.5]
        for name, child in _applied(inode.synced, kept).items():
            self._write(child, path / name, random)


def _torn(stream: io.FileIO | None, random: random.Random) -> bytes:
    """What may be in a file that was never synced: nothing, a beginning, zeros, or all."""
    assert stream is not None
    stream.seek(0)
    whole = stream.read()
    return random.choice((b"", whole[: random.randrange(len(whole) + 1)], bytes(len(whole)), whole))
