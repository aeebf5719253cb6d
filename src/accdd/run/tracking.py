"""Followers of a run from outside, as TensorBoard: they are told what happens and can neither stop nor slow it.

The files of the run are the truth; what a tracker loses is lost to it alone.
"""

import contextlib
import importlib.util
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from accdd.config import InputError, choose
from accdd.run.folder import RunFolder
from accdd.run.progress import Reporter

WAITING = 100
"""Messages kept for a tracker that is slow, at most; later ones are dropped."""
PATIENCE = 5.0
"""Seconds that the end of a run waits for its tracker."""


class Tracker(Protocol):
    """Told of a run, in a thread of its own. It may raise anything: then it is not told any more."""

    def scalars(self, sweep: int, values: Mapping[str, float]) -> None: ...
    def images(self, sweep: int, images: Tensor) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Events in OUT/tensorboard."""

    def __init__(self, folder: Path, first: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # the extra `track`

        # What a killed run wrote after the sweep that it goes on from would be shown twice.
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=first)

    def scalars(self, sweep: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, sweep)

    def images(self, sweep: int, images: Tensor) -> None:
        """The first image of the first classes, of float (classes, ipc, c, h, w) in [0, 1]."""
        self._writer.add_images("learned", images[:32, 0], sweep)

    def close(self) -> None:
        self._writer.close()


TRACKERS: dict[str, Callable[[Path, int | None], Tracker]] = {"tensorboard": TensorBoard}
"""Signature: `(run folder, first sweep, or None in a new run) -> tracker`."""

_PACKAGES = {"tensorboard": "tensorboard"}


def check(name: str | None) -> None:
    """Before a run begins: refuse an unknown tracker, or one that is not installed, with an `InputError`."""
    if name is None:
        return
    choose("tracker", name, TRACKERS)
    package = _PACKAGES.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise InputError(f"--track {name} needs {package}. Expected: pip install {package}.")


@contextlib.contextmanager
def tracked(folder: RunFolder, name: str | None, reporter: Reporter, first: int | None = None) -> Iterator[None]:
    """Let a tracker follow what is written into a run folder while the block runs."""
    if name is None:
        yield
        return
    make = TRACKERS[name]
    follower = Follower(lambda: make(folder.path, first), lambda text: reporter.note(f"--track {name}: {text}"))
    folder.tracker = follower
    try:
        yield
    finally:
        folder.tracker = None
        follower.close()


class Follower:
    """Hands messages to a tracker in a thread, and keeps whatever it does from the run.

    Args:
        make: begins the tracker; called in the thread, for even that may hang.
        note: told once of what went wrong.
    """

    def __init__(self, make: Callable[[], Tracker], note: Callable[[str], None]) -> None:
        self._make, self._note = make, note
        self._messages: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(WAITING)
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="accdd tracker", daemon=True)
        self._thread.start()

    def scalars(self, sweep: int, values: Mapping[str, float]) -> None:
        """Numbers at a sweep."""
        self._tell("scalars", sweep, dict(values))

    def images(self, sweep: int, images: Tensor) -> None:
        """Stored images at a sweep, float (classes, ipc, c, h, w) in [0, 1]."""
        self._tell("images", sweep, images)

    def close(self) -> None:
        """Let it finish, but not for ever."""
        if not self._broken:
            with contextlib.suppress(queue.Full):
                self._messages.put(("close", ()), timeout=PATIENCE)  # a full queue is no reason to drop this one
        self._thread.join(PATIENCE)

    def _tell(self, what: str, *values: Any) -> None:
        if not self._broken:
            with contextlib.suppress(queue.Full):
                self._messages.put_nowait((what, values))

    def _work(self) -> None:
        try:
            tracker = self._make()
            while True:
                what, values = self._messages.get()
                getattr(tracker, what)(*values)
                if what == "close":
                    return
        except Exception as error:
            self._broken = True
            self._note(f"{type(error).__name__}: {error}. It is told nothing more; the run goes on.")
