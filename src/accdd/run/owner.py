"""One process at a time writes into a run folder.

    .owner.json   who writes here: a token that only that process knows, its host and its number

A lock (flock) turns a second process away while the first is at work. On file systems where it lets everybody in, the
second takes the folder over by writing a token of its own, and the first, which looks for its own before everything
it writes, stops. What both may have written in between is the same: a run's states follow from its settings.
"""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from accdd import locks
from accdd.config import InputError

FILE = ".owner.json"


class NotOurs(OSError):
    """The run folder was taken over by another process, or is gone."""


class Owner:
    """The right to write into a run folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._folder = folder
        self._token: str | None = None

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for the length of a block.

        Raises:
            InputError: another process is at work there.
        """
        handle = _open_locked(self._file)
        token = self._token = secrets.token_hex(16)
        try:
            about = {"token": token, "host": socket.gethostname(), "process": os.getpid()}
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(about).encode())
            os.fsync(handle)
            yield
        finally:
            with contextlib.suppress(OSError):
                self.check()
                self._file.unlink()
            self._token = None
            os.close(handle)

    def check(self) -> None:
        """Look whether the folder is still this process's; before everything that is written.

        Raises:
            NotOurs: it is not.
        """
        if self._token is None:  # nobody has claimed it: a folder that is only looked at, or written by a test
            return
        found = _read(self._file)
        if found.get("token") == self._token:
            return
        if not self._folder.is_dir():
            raise NotOurs(f"The run folder '{self._folder}' was removed while the run went on, so the run stops.")
        by = f" {found.get('process')} on {found.get('host')}" if found else ""
        raise NotOurs(
            f"Another process{by} has taken over the run in '{self._folder}', so this one stops. Nothing is lost."
        )


def _open_locked(file: Path) -> int:
    try:
        return locks.open_locked(file)  # where there are no locks, the token has to do
    except BlockingIOError:
        by = _read(file)
        raise InputError(
            f"Process {by.get('process')} on {by.get('host')} is at work on the run in '{file.parent}'. "
            "Expected a run that nobody works on: stop that process first (SIGTERM makes it save)."
        ) from None


def _read(file: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else {}
    return {}
