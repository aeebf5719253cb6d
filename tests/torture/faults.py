"""Commits that are cut off: at every operation, by the power, and checkpoints that are damaged afterwards."""

import contextlib
import errno
import itertools
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from helpers import CPU

import accdd.run.checkpoints as checkpoints
from torture import disk
from torture.commits import COMMITS, Commit, fresh, save_checkpoint, state


class Outcome(NamedTuple):
    """Of one kind of torture."""

    tried: int
    wrong: tuple[str, ...]
    """What went wrong, a line each."""
    said: str = ""
    """Beside that."""


def faults(folder: Path, kinds: tuple[str, ...] = tuple(COMMITS)) -> Outcome:
    """An error, a full disk and an abrupt end at every operation of every kind of commit."""
    tried, wrong, said = 0, [], []
    for kind in kinds:
        commit = COMMITS[kind]
        operations = 0
        for name, run in (("error", _failing(errno.EIO)), ("full disk", _failing(errno.ENOSPC)), ("end", _ending)):
            for k in itertools.count(1):
                here = fresh(folder)
                commit.prepare(here)
                completed = run(commit, here, k)
                tried += 1
                found = commit.found(here)
                if found != "new" and (completed or found != "old"):
                    wrong.append(f"{kind}, {name} at operation {k}: {found}")
                if completed:
                    operations = max(operations, k - 1)
                    break
        said.append(f"{kind} {operations}")
    return Outcome(tried, tuple(wrong), f"operations: {', '.join(said)}")


def _failing(code: int) -> Callable[[Commit, Path, int], bool]:
    def run(commit: Commit, here: Path, k: int) -> bool:
        """Whether the commit was over before the fault."""
        failing = disk.failing_at(k, code)
        with failing.mounted(), contextlib.suppress(OSError):
            commit.commit(here)
        return failing.count < k

    return run


def _ending(commit: Commit, here: Path, k: int) -> bool:
    with forked() as child:
        if child is None:
            with disk.ending_at(k).mounted():
                commit.commit(here)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), f"the child ended with {code}"
    return code == 0


@contextlib.contextmanager
def forked() -> Iterator[int | None]:
    """A copy of this process, whose block sees None; if that raises, the copy ends with 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that other threads may be at work: none of ours is
        child = os.fork() or None
    if child is not None:
        yield child
        return
    try:
        yield None
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def power_cuts(folder: Path, count: int, seed: int = 0, kinds: tuple[str, ...] = tuple(COMMITS)) -> Outcome:
    """States that a power cut may leave, at every operation of a commit; after it, only the new one may be found."""
    draw, each = random.Random(seed), -(-count // len(kinds))
    wrong = [line for kind in kinds for line in _power_cuts(kind, folder, each, draw)]
    return Outcome(each * len(kinds), tuple(wrong))


def _power_cuts(kind: str, folder: Path, count: int, draw: random.Random) -> list[str]:
    commit, wrong, done = COMMITS[kind], [], 0
    times = -(-count // (_operations(commit, fresh(folder / "count")) + 1))
    here, left = fresh(folder / "disk"), folder / "left"
    commit.prepare(here)

    def cut(journal: disk.Journal, allowed: tuple[str, ...] = ("old", "new"), times: int = times) -> None:
        nonlocal done
        for _ in range(min(times, count - done)):
            journal.state(fresh(left), draw)
            found = commit.found(left)
            done += 1
            if found not in allowed:
                wrong.append(f"{kind}, after {journal.disk.count} operations: {found}")

    with contextlib.closing(disk.Journal(here, cut)) as journal:
        with journal.disk.mounted():
            commit.commit(here)
        cut(journal, ("new",), count - done)
    return wrong


def _operations(commit: Commit, here: Path) -> int:
    commit.prepare(here)
    counted: list[None] = []
    with contextlib.closing(disk.Journal(here, lambda journal: counted.append(None))) as journal:
        with journal.disk.mounted():
            commit.commit(here)
    return len(counted)


def damaged_checkpoints(folder: Path, count: int, seed: int = 0) -> Outcome:
    """The newest checkpoint cut, flipped, zeroed, swapped or short of a file: named, and the one before used."""
    draw, wrong = random.Random(seed), []
    for number in range(count):
        here = fresh(folder)
        for sweep in (1, 2):
            save_checkpoint(here, sweep)
        file = draw.choice(sorted((here / "sweep-0000002").iterdir()))
        before = file.read_bytes()
        how = damage(file, draw)
        if file.is_file() and file.read_bytes() == before:
            continue
        found, problems = checkpoints.newest(here, CPU)
        right = found and found.state.sweep == 1 and bool((found.state.images == state(1).images).all())
        if not right or len(problems) != 1 or "sweep-0000002" not in problems[0]:
            wrong.append(f"{number}: {file.name} {how}: {problems}")
    return Outcome(count, tuple(wrong))


def damage(file: Path, draw: random.Random, removable: bool = True) -> str:
    """Damage a file in one of many ways; returns which."""
    raw = bytearray(file.read_bytes())
    at = draw.randrange(len(raw))
    length = 1 + draw.randrange(min(64, len(raw) - at))
    ways = ("cut", "flipped", "flipped", "zeroed", "random", "longer", "doubled", "emptied")
    how = draw.choice((*ways, "removed", "a folder") if removable else ways)
    if how in ("removed", "a folder"):
        file.unlink()
        if how == "a folder":
            file.mkdir()
        return how
    if how == "cut":
        del raw[at:]
    elif how == "flipped":
        raw[at] ^= 1 << draw.randrange(8)
    elif how == "zeroed":
        raw[at : at + length] = bytes(length)
    elif how == "random":
        raw[at : at + length] = draw.randbytes(length)
    elif how == "longer":
        raw += draw.randbytes(length)
    elif how == "doubled":
        raw[at:at] = raw[at : at + length]
    else:
        raw.clear()
    file.write_bytes(raw)
    return how
