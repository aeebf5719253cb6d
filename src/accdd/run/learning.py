"""The loop under a clock: budget, snapshots, checkpoints, metrics, progress, signals."""

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from accdd import execution
from accdd.config import Settings
from accdd.loop import Progress, State
from accdd.parallel import ALONE, Ranks
from accdd.run.checkpoints import Checkpoint
from accdd.run.folder import RunFolder
from accdd.run.progress import Reporter

LOOK_SECONDS = 0.1
"""How often a GPU is waited for and the clock read: in between, later sweeps are drawn and launched while it works."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop: it is saved, and the message says how to go on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        """Of the signal."""


def learn(
    begin: Callable[[Progress, State | None], Iterator[State]],
    where: torch.device,
    settings: Settings,
    reporter: Reporter,
    folder: RunFolder | None,
    since: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, int, float]:
    """Run a loop until its steps or its budget are used up.

    Args:
        begin: starts the loop; it is told how to find out where the run stands, and after which state to go on.
        where: the device.
        settings: resolved.
        reporter: told of progress.
        folder: where metrics, snapshots and checkpoints go, if anywhere; of rank 0.
        since: what to go on from.
        ranks: who this is among those that share the classes. The clock of rank 0 is everyone's, and the images that
            are saved and returned are those of all.

    Returns:
        The images, float32 (classes, ipc, c, h, w) in [0, 1]; the sweeps done; the seconds of the loop alone.

    Raises:
        ArithmeticError: the loss is no longer finite (looked at once a second).
        Stopped: SIGTERM or SIGINT came; with a folder, everything is saved. A second signal ends the process at once.
    """
    steps, budget = settings.loop.steps, settings.loop.budget
    total = None if steps is None else steps * settings.loop.inner_steps
    reporter.phase("distilling")
    state, spent = (since.state, since.seconds) if since else (None, 0.0)  # `spent` leaves out what saving takes
    logged, loss = spent - 1, None

    def progress(sweeps: int) -> float:
        return max(spent / budget if budget else 0.0, sweeps / total if total else float(total == 0))

    if since and progress(since.state.sweep) >= 1:
        return since.state.images.clamp(0, 1), since.state.sweep, spent
    marks = [mark for mark in _marks(settings.loop.snapshots) if not since or mark > progress(since.state.sweep)]
    stop, keeping, nothing = 0.0, ranks.largest([float(folder is not None)]) == [1.0], -math.inf
    with _signals() as came:

        def stopping() -> bool:
            """Whether a signal came; of several ranks to any, by the beginning of this sweep's end."""
            return bool(came if ranks.alone else stop)

        saved = resumed = time.perf_counter()
        for state in begin(progress, since and since.state):
            must = state.sweep in (0, total) or state.overfit is not None or came or not ranks.alone
            if where.type != "cpu" and not must and time.perf_counter() - resumed < LOOK_SECONDS:
                continue
            execution.synchronise(where)  # without it, seconds would count launches
            now = time.perf_counter()
            spent += now - resumed
            mine = (spent, now - saved) if ranks.leads else (nothing, nothing)
            stop, spent, unsaved = ranks.largest([float(bool(came)), *mine])
            share = progress(state.sweep)
            over = share >= 1
            if state.sweep and (over or spent - logged >= 1 or state.overfit is not None):
                logged, loss = spent, _finite(ranks.whole(state.losses).sum().item(), state.sweep)
                if folder:
                    folder.log(state.sweep, spent, loss, state.overfit)
            if keeping and settings.loop.snapshots and (state.sweep == 0 or over or share >= marks[0]):
                images = ranks.whole(state.images)
                if folder:
                    folder.snapshot(state.sweep, spent, images)
            marks = [mark for mark in marks if mark > share]
            of = f"/{total}" if total and not budget else ""
            reporter.update(
                min(share, 1.0), f"sweep {state.sweep}{of}" + ("" if loss is None else f", loss {loss:.4g}")
            )
            if keeping and (stopping() or over or unsaved >= settings.loop.checkpoint):
                whole = state._replace(images=ranks.whole(state.images), velocity=ranks.whole(state.velocity))
                if folder:
                    folder.checkpoint(whole, spent)
                saved = time.perf_counter()
            if stopping() or over:
                break
            resumed = time.perf_counter()
    assert state is not None
    if stopping():
        again = f" Go on with: accdd distill --resume {shlex.quote(str(folder.path))}" if folder else ""
        number = came[0] if came else signal.SIGTERM  # it came to another rank
        raise Stopped(number, f"Stopped after sweep {state.sweep}.{again}")
    return ranks.whole(state.images.detach()).clamp(0, 1), state.sweep, spent


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first SIGTERM or SIGINT in a list instead of dying of it; the second is obeyed at once."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there Python lets signals be handled
        yield came
        return

    def note(number: int, frame: object) -> None:
        came.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    # What the parent wants ignored stays ignored, as in a script's background jobs.
    found = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    before = {each: handler for each, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for each in before:
            signal.signal(each, note)
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _finite(loss: float, sweep: int) -> float:
    if not math.isfinite(loss):
        raise ArithmeticError(f"The loss became {loss} by sweep {sweep}. Lower images.lr, or train.lr.")
    return loss


def _marks(count: int) -> list[float]:
    """Shares of the run at which snapshots are kept: each twice the one before, the last at the end."""
    return [2.0**-halvings for halvings in range(count - 1, -1, -1)]
