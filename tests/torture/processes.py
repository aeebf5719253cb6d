"""Processes that are killed: runs that go on, and sixteen at once on one cache."""

import contextlib
import os
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import accdd
from accdd import files
from torture.commits import fresh
from torture.faults import Outcome, forked

RUNS: dict[str, dict[str, Any]] = {
    "idc": {"loop.steps": 3, "loop.inner_steps": 5, "loop.train_images": 16},
    "targets": {"loop.steps": 25, "targets.count": 10, "targets.real_batch": 6},
}
TINY = {
    "network.width": 4, "network.depth": 2, "pool.networks": 2, "pool.epochs": 0.5, "match.real_batch": 6,
    "score.seeds": 0, "precision": "fp32", "compile": "never", "loop.checkpoint": 1e-6, "device": "cpu",
}  # fmt: skip


def arrays() -> tuple[Any, Any]:
    images = (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    return images.numpy(), torch.arange(40).remainder(2).numpy()


def kills(folder: Path, count: int, seed: int = 0) -> Outcome:
    """Runs killed at any moment and gone on with until they finish: the images are those of one that was left alone."""
    draw, wrong, done = random.Random(seed), [], 0
    source = arrays()
    whole, seconds = {}, {}
    for name, changes in RUNS.items():
        # In this process, so that those begun from it need not import anything.
        accdd.distill(source, 2, settings={**TINY, **changes})
        began = time.monotonic()
        assert _wait(_started(folder / "whole" / name, fresh(folder / "cache" / name), source, changes)) == 0
        seconds[name] = time.monotonic() - began
        whole[name] = accdd.load(folder / "whole" / name).images
    finished = 0
    while done < count or finished < len(RUNS):
        name = list(RUNS)[finished % len(RUNS)]
        out, cache = folder / "cut" / name, fresh(folder / "cut cache" / name)
        fresh(out).rmdir()
        while not (out / "evaluation.json").exists():  # it may also be killed when it has finished
            child = _started(out, cache, source, RUNS[name])
            if done < count:
                time.sleep(draw.uniform(0, seconds[name]))
                os.kill(child, signal.SIGKILL)  # a child that has ended is not gone before it is waited for
            code = _wait(child)
            done += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                return Outcome(done, (*wrong, f"{name}: ended with {code}"))
        finished += 1
        found = accdd.load(out).images
        if not torch.equal(found, whole[name]):
            wrong.append(f"{name}: {int((found != whole[name]).sum())} numbers differ after kill {done}")
    return Outcome(done, tuple(wrong), f"{finished} runs finished and compared")


def _started(out: Path, cache: Path, source: Any, changes: dict[str, Any]) -> int:
    """A process that begins a run, or goes on with it."""
    with forked() as child:
        if child is not None:
            return child
        os.environ["ACCDD_CACHE"] = str(cache)
        if (out / "config.yaml").exists():
            accdd.resume(out, source)
        else:  # killed before it was a run: whatever is there goes, as the user is told
            fresh(out)
            accdd.distill(source, 2, out=out, settings={**TINY, **changes})
        os._exit(0)
    raise AssertionError


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# The cache ----------------------------------------------------------------------------------------------------

PROCESSES, KEYS = 16, 4


def crowd(folder: Path, rounds: int, seed: int = 0) -> Outcome:
    """Sixteen processes that want the same entries, some killed meanwhile; in every other round locks do nothing.

    Where they do something, an entry is made once, and at most once more for each process that was killed; in half of
    those rounds none is.
    """
    draw, wrong = random.Random(seed), []
    before = os.environ.get("ACCDD_CACHE")
    try:
        for number in range(rounds):
            os.environ["ACCDD_CACHE"] = str(fresh(folder / "cache"))
            fresh(folder / "begun")
            with _no_locks() if number % 2 else contextlib.nullcontext():
                children = [_wanting(draw.random()) for _ in range(PROCESSES)]
                told_to_die = set(draw.sample(children, draw.randrange(6) if number % 4 else 0))
                killed = 0
                for child in told_to_die:
                    time.sleep(draw.uniform(0, 0.01))
                    os.kill(child, signal.SIGKILL)
                for child in children:
                    code = _wait(child)
                    killed += code == -signal.SIGKILL
                    if code != 0 and not (child in told_to_die and code == -signal.SIGKILL):
                        wrong.append(f"round {number}: a process ended with {code}")
                wrong += [f"round {number}: {found}" for found in map(_wanted, range(KEYS)) if found]
            for each in (folder / "begun").iterdir() if number % 2 == 0 else ():
                times = each.stat().st_size
                if not 1 <= times <= 1 + killed:
                    wrong.append(f"round {number}: key {each.name} was made {times} times, {killed} killed")
            aside = list(folder.glob("cache/*/*.damaged-*"))
            wrong += [f"round {number}: {path.name} was never whole" for path in aside]
    finally:
        os.environ.pop("ACCDD_CACHE")
        os.environ |= {} if before is None else {"ACCDD_CACHE": before}
    return Outcome(rounds, tuple(wrong), f"{PROCESSES} processes, {KEYS} keys, locks a no-op in every other round")


def _wanting(first: float) -> int:
    with forked() as child:
        if child is not None:
            return child
        warnings.simplefilter("ignore")  # that one waits for another
        found = [_wanted((int(first * KEYS) + each) % KEYS) for each in range(KEYS)]
        os._exit(3 if any(found) else 0)
    raise AssertionError


def _wanted(key: int) -> str | None:
    """What is wrong with an entry, built if it is not there."""
    content = bytes([key]) * 50_000

    def build(folder: Path) -> None:
        with (files.cache_folder().with_name("begun") / str(key)).open("a") as file:
            file.write(".")
        for name in "ab":
            (folder / name).write_bytes(content)

    entry = files.cached("pools", {"key": key}, build)
    wrong = [name for name in "ab" if (entry / name).read_bytes() != content]
    return f"wrong contents of {wrong}" if wrong else None


@contextlib.contextmanager
def _no_locks() -> Iterator[None]:
    """`flock` lets everybody in, as on some network file systems."""
    import fcntl

    real: Callable[..., Any] = fcntl.flock
    fcntl.flock = lambda *args: None
    try:
        yield
    finally:
        fcntl.flock = real
