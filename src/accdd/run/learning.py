"""The loop under a clock: budget, snapshots, checkpoints, metrics, progress, signals."""

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import execution
from accdd.config import Settings
from accdd.loop import Progress, State
from accdd.parallel import ALONE, Ranks
from accdd.run import trouble
from accdd.run.checkpoints import Checkpoint
from accdd.run.folder import RunFolder
from accdd.run.progress import Reporter
from accdd.run.trouble import Begin

LOOK_SECONDS = 0.1
"""How often a GPU is waited for and the clock read: in between, later sweeps are drawn and launched while it works."""

SAVE_SECONDS, SAVED_SHARE = 30.0, 0.005
"""How often all that is needed to go on is saved, and how much of the time that may take; see `loop.checkpoint`."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop: it is saved, and the message says how to go on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        """Of the signal."""


class Learned(NamedTuple):
    """What came of a loop."""

    images: Tensor
    """float32 (classes, ipc, c, h, w) in [0, 1]."""
    sweeps: int
    seconds: float
    """Of the loop alone."""
    halvings: int = 0
    """Of the images' step size, after numbers that were not finite."""


def learn(
    begin: Begin,
    where: torch.device,
    settings: Settings,
    reporter: Reporter,
    folder: RunFolder | None,
    since: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> Learned:
    """Run a loop until its steps or its budget are used up.

    Loss and images are looked at about once a second and before they are saved. Where they are no longer finite, the
    run goes back to the last state that was saved (without a folder: that would have been) and goes on from there with
    half the step size, at most `trouble.HALVINGS` times.

    Args:
        begin: starts the loop; it is told how to find out where the run stands, and after which state to go on.
        where: the device.
        settings: resolved.
        reporter: told of progress.
        folder: where metrics, snapshots and checkpoints go, if anywhere; of rank 0.
        since: what to go on from.
        ranks: who this is among those that share the classes. The clock of rank 0 is everyone's, and what is looked at,
            saved and returned is of all classes.

    Raises:
        ArithmeticError: the loss or the images are not finite, with the smallest step size, too.
        Stopped: SIGTERM or SIGINT came; with a folder, everything is saved. A second signal ends the process at once.
    """
    steps, budget = settings.loop.steps, settings.loop.budget
    total = None if steps is None else steps * settings.loop.inner_steps
    reporter.phase("distilling")
    state, spent = (since.state, since.seconds) if since else (None, 0.0)  # `spent` leaves out what saving takes
    logged, loss = spent - 1, None

    def progress(sweeps: int) -> float:
        return max(spent / budget if budget else 0.0, sweeps / total if total else float(total == 0))

    def ahead(state: State | None) -> list[float]:
        return [mark for mark in _marks(settings.loop.snapshots) if not state or mark > progress(state.sweep)]

    if since and progress(since.state.sweep) >= 1:
        return Learned(since.state.images.clamp(0, 1), since.state.sweep, spent, since.state.halvings)
    marks = ahead(state)
    good, good_metrics = state, since.metrics if since else 0
    stop, keeping, nothing = 0.0, ranks.largest([float(folder is not None)]) == [1.0], -math.inf

    def together(state: State) -> State:
        images, velocity, losses = map(ranks.whole, (state.images, state.velocity, state.losses))
        return state._replace(images=images, velocity=velocity, losses=losses)

    with _signals() as came:

        def stopping() -> bool:
            """Whether a signal came; of several ranks to any, by the time this sweep had ended."""
            return bool(came if ranks.alone else stop)

        saved, until = time.perf_counter(), settings.loop.checkpoint or SAVE_SECONDS
        resumed = saved
        states = begin(progress, state)
        while (following := next(states, None)) is not None:
            state = following
            must = state.sweep in (0, total) or state.overfit is not None or came or not ranks.alone
            if where.type != "cpu" and not must and good and time.perf_counter() - resumed < LOOK_SECONDS:
                continue
            execution.synchronise(where)  # without it, seconds would count launches
            now = time.perf_counter()
            mine = (spent + now - resumed, float(now - saved >= until)) if ranks.leads else (nothing, nothing)
            stop, spent, due = ranks.largest([float(bool(came)), *mine])
            share = progress(state.sweep)
            over = share >= 1
            told = bool(state.sweep) and (over or spent - logged >= 1 or state.overfit is not None)
            save = stopping() or over or due > 0
            shown = keeping and bool(settings.loop.snapshots) and (state.sweep == 0 or over or share >= marks[0])
            broken, losses = False, state.losses
            if told or save or shown:  # each rank looks at its own share: images travel only where they are kept
                broken = ranks.largest([float(not trouble.finite(state))]) != [0.0]
            if save or shown or broken or not good:
                state = together(state)
                good = good or state
            if broken:
                states, good, good_metrics = _again(
                    begin, progress, good, good_metrics, state, folder, reporter, together
                )
                state, marks, saved = good, ahead(good), now
                resumed = time.perf_counter()
                continue
            if told:
                logged, loss = spent, ranks.whole(losses).sum().item()
                if folder:
                    folder.log(state.sweep, spent, loss, state.overfit)
            if shown and folder:
                folder.snapshot(state.sweep, spent, state.images)
            marks = [mark for mark in marks if mark > share]
            of = f"/{total}" if total and not budget else ""
            reporter.update(
                min(share, 1.0), f"sweep {state.sweep}{of}" + ("" if loss is None else f", loss {loss:.4g}")
            )
            if save or (stopping() and trouble.finite(state)):  # a signal may have come since
                began = time.perf_counter()
                if folder:
                    folder.checkpoint(state, spent)
                good, good_metrics = state, folder.written() if folder else 0
                saved = time.perf_counter()
                until = settings.loop.checkpoint or max(SAVE_SECONDS, (saved - began) / SAVED_SHARE)
            if stopping() or over:
                break
            resumed = time.perf_counter()
    assert state is not None
    if stopping():
        again = f" Go on with: accdd distill --resume {shlex.quote(str(folder.path))}" if folder else ""
        number = came[0] if came else signal.SIGTERM  # it came to another rank
        raise Stopped(number, f"Stopped after sweep {state.sweep}.{again}")
    return Learned(state.images.detach().clamp(0, 1), state.sweep, spent, state.halvings)  # the last is of all classes


def _again(
    begin: Begin, progress: Progress, good: State, metrics: int, bad: State, folder: RunFolder | None,
    reporter: Reporter, together: Callable[[State], State],
) -> tuple[Iterator[State], State, int]:  # fmt: skip
    """Go on from the last good state with half the step size; its states, that state, its bytes of metrics.jsonl."""
    failing = trouble.last_finite(begin, progress, good, bad.sweep, together)
    where = f"by sweep {bad.sweep}" if failing is None else f"in sweep {failing.sweep + 1}"
    if good.halvings == trouble.HALVINGS:
        loss = bad.losses.sum().item()
        what = f"The loss became {loss}" if not math.isfinite(loss) else "The images became infinite"
        raise ArithmeticError(
            f"{what} {where}, also with the images' step size halved {good.halvings} times. "
            "Lower images.lr, or train.lr."
        )
    good = good._replace(halvings=good.halvings + 1)
    reporter.note(
        f"Not finite {where}: back to sweep {good.sweep}, with the images' step size halved "
        f"({good.halvings} of at most {trouble.HALVINGS} times)."
    )
    if folder:
        folder.restored(good.sweep, metrics, failing or good, good.halvings)
        metrics = folder.written()
    return begin(progress, good), good, metrics


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


def _marks(count: int) -> list[float]:
    """Shares of the run at which snapshots are kept: each twice the one before, the last at the end."""
    return [2.0**-halvings for halvings in range(count - 1, -1, -1)]
