"""What a run does about numbers that are not finite, and about memory that does not suffice."""

import dataclasses
import gc
import math
from collections.abc import Callable, Iterator

import torch

from accdd.execution import Plan
from accdd.loop import Progress, State

HALVINGS = 3
"""How often the images' step size is halved before a run is given up."""

Begin = Callable[[Progress, State | None], Iterator[State]]
"""Starts a loop: it is told how to find out where the run stands, and after which state to go on."""


def finite(state: State) -> bool:
    """Whether a state's loss and images are numbers; waits for the device."""
    return math.isfinite(state.losses.sum().item()) and bool(torch.isfinite(state.images).all())


def last_finite(
    begin: Begin, progress: Progress, good: State, until: int, together: Callable[[State], State] = lambda state: state
) -> State | None:
    """The state before the first that is not finite, found by repeating the sweeps after `good`: draws are keyed.

    None where the sweeps up to `until` are finite this time, as they may be on a GPU, or under a clock. `together`
    makes a state of all classes of that of a rank's own.
    """
    before = good
    for own in begin(progress, good):
        state = together(own)
        if not finite(state):
            return before
        if state.sweep >= until:
            return None
        before = state
    return None


def within_memory(
    begin: Callable[[Plan, Progress, State | None], Iterator[State]],
    plan: Plan,
    note: Callable[[str], None],
    most_parts: int = 1,
    release: Callable[[], None] = lambda: None,
) -> Begin:
    """A loop that matches half as many classes at once when the device's memory does not suffice, and then one class in
    twice as many parts.

    The sweep in which it happened is repeated, with the same draws; results change by rounding alone.

    Args:
        begin: starts the loop with a plan.
        plan: the first.
        note: told of it.
        most_parts: that the images of a class may be matched in.
        release: lets go of what can be made again, before the sweep is repeated.
    """

    def halving(progress: Progress, since: State | None) -> Iterator[State]:
        current, last = plan, since
        while True:
            try:
                for state in begin(current, progress, last):
                    last = state
                    yield state
                return
            except torch.OutOfMemoryError:
                if current.classes * current.overlapping > 1:
                    fewer = "classes" if current.classes > 1 else "overlapping"
                    current = dataclasses.replace(current, **{fewer: -(-getattr(current, fewer) // 2)})
                    now = f"{current.classes * current.overlapping} classes at once"
                elif current.parts < most_parts:
                    current = dataclasses.replace(current, parts=min(2 * current.parts, most_parts))
                    now = f"the synthetic images of a class in {current.parts} parts"
                else:
                    raise
            # After the exception has let go of what it held.
            release()
            if torch.cuda.is_initialized():
                gc.collect()
                torch.cuda.empty_cache()
            sweep = 0 if last is None else last.sweep
            note(f"Out of memory after sweep {sweep}: going on with {now}.")

    return halving
