"""Locks of files, where the file system has them: who makes what others need, and who works in a folder.

They save work and tell of mistakes. Nothing is correct only because of them, since not every file system has some.
"""

import contextlib
import errno
import os
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from accdd.config import Notice

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = re.compile(r"\.([0-9a-f]{32}|[0-9]{6,})\.lock")
"""Empty files whose holder makes the cache entry of that name; see `turn`."""
SAY_AFTER = 5.0
"""Seconds of waiting for another process after which that is said."""


def open_locked(file: Path) -> int:
    """A handle to a file, created if need be, that no other is given until it is closed.

    On file systems without locks, and on Windows, everybody is given one.

    Raises:
        BlockingIOError: another has it.
        OSError: it cannot be created.
    """
    for left in reversed(range(100)):
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if fcntl is None:
            return handle
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), file.stat()) or not left:
                return handle  # where the two never agree, it is as if there were no locks
        except FileNotFoundError:  # who had it before has just taken it away
            pass
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:  # this file system has no locks
            return handle
        os.close(handle)
    raise BlockingIOError(errno.EWOULDBLOCK, "was another's at every try", str(file))


@contextlib.contextmanager
def turn(entry: Path) -> Iterator[None]:
    """Wait while another process makes this cache entry; where there are no locks, do not."""
    file = entry.with_name(f".{entry.name}.lock")
    handle = _waited_for(file) if fcntl else None
    try:
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):  # it is empty, and the next to want it takes it as it is
                file.unlink()  # before it is closed: who has opened it meanwhile finds that it is gone
            os.close(handle)


def _waited_for(file: Path) -> int | None:
    """The handle of a lock once it is free; None where there can be none."""
    began = time.monotonic()
    pause, said = 0.01, os.environ.get("RANK", "0") != "0"  # of processes that torchrun launched the first alone speaks
    while True:
        try:
            return open_locked(file)
        except BlockingIOError:
            if not said and time.monotonic() - began > SAY_AFTER:
                said = True
                # The same words for all blocks of a bank: Python shows them once.
                warnings.warn(
                    f"Another process is making something in '{file.parent}' that is needed here, too, so this one "
                    "waits. If that process was suspended, remove the files named .*.lock there.",
                    Notice,
                    stacklevel=6,  # the caller of `files.cached`
                )
            time.sleep(pause)
            pause = min(1.0, 1.5 * pause)
        except OSError:  # whoever makes it meets that, too, and says it
            return None
