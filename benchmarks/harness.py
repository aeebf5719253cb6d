"""How the benchmarks measure: ours and the plain reference in turn, each in a process of its own.

Two processes, because settings of the process (how memory is kept, what is compiled) are part of what is measured.
Only one of them works at a time; which goes first alternates, so that a drifting machine is shared fairly.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from accdd import execution

Work = Callable[[], Any]
"""One repetition of what is timed."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table. `ours` and `reference` prepare in their own process and return what is then timed."""

    name: str
    ours: Callable[[], Work]
    reference: Callable[[], Work] | None = None
    flops: Callable[[], int] | None = None
    """Operations of one repetition, counted on the plain step."""
    repeats: int = 5


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out of a row; seconds are medians."""

    name: str
    ours: float
    reference: float | None
    ratio: tuple[float, float, float] | None
    """Reference over ours, pair by pair: median, smallest, largest."""
    first: float
    """Seconds of our first call, which compiles."""
    share: float | None
    """Our operations a second as a share of those of a large matrix product in the same precision."""
    memory: tuple[float, float | None]
    """MB that ours and the reference needed beyond their inputs, at most."""

    def __str__(self) -> str:
        reference = "" if self.reference is None else f"{self.reference:9.3f}"
        ratio = "" if self.ratio is None else "{:5.2f} ({:.2f} to {:.2f})".format(*self.ratio)
        share = "" if self.share is None else f"{self.share:4.0%}"
        theirs = "" if self.memory[1] is None else f"{self.memory[1]:6.0f}"
        return (
            f"{self.name:34} {self.ours:9.3f} {reference:9} {ratio:22} {share:5} "
            f"{self.memory[0]:6.0f} {theirs:6} {self.first:7.1f}"
        )


HEADER = (
    f"{'':34} {'ours, s':>9} {'plain, s':9} {'ratio (min to max)':22} {'share':5} {'MB':>6} {'plain':6} {'first, s':>8}"
)


def main(question: str, rows: Callable[[str], Sequence[Row]]) -> None:
    """Measure and print those of `rows(precision)` whose names hold the command line's words."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("words", nargs="*", help="only rows whose names hold one of these")
    parser.add_argument("--precision", default="auto", help="of ours: auto, fp32 or bf16")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--together", action="store_true", help="make all rows ready at once, on a machine with cores and memory for it"
    )
    arguments = parser.parse_args()
    where = execution.device("auto")
    execution.prepare(where)  # where compiled code is kept, which the processes of the rows inherit
    precision = execution.precision(arguments.precision, where)
    chosen = [
        row for row in rows(precision) if not arguments.words or any(word in row.name for word in arguments.words)
    ]
    product = matrix_product(where, precision)
    head = f"{question}\n{execution.machine(where)}, torch {torch.__version__}, {precision}; "
    if not arguments.json:
        print(f"{head}large matrix product {product / 1e9:.0f} GFLOP/s\n{HEADER}", flush=True)
    results = []
    ahead = [Sides(row) for row in chosen] if arguments.together else []
    for sides in ahead:
        sides.wait()
    for sides in ahead or map(Sides, chosen):
        results.append(measure(sides, product))
        if not arguments.json:
            print(results[-1], flush=True)
    if arguments.json:
        rows_ = [dataclasses.asdict(result) for result in results]
        print(
            json.dumps(
                {
                    "question": question,
                    "machine": execution.machine(where),
                    "precision": precision,
                    "product": product,
                    "rows": rows_,
                }
            )
        )


def measure(sides: "Sides", product: float) -> Measured:
    """Time a row's two sides in turn."""
    row, ours, other = sides.row, sides.ours, sides.other
    try:
        sides.wait()
        pairs = []
        for repeat in range(row.repeats):
            turns = [ours, other] if repeat % 2 else [other, ours]
            seconds = {side: side.time() for side in turns if side}
            pairs.append((seconds[ours], seconds[other] if other else None))
        memory = (ours.memory(), other.memory() if other else None)
    finally:
        ours.close()
        if other:
            other.close()
    own = statistics.median(pair[0] for pair in pairs)
    ratios = [theirs / mine for mine, theirs in pairs if theirs]
    share = row.flops() / own / product if row.flops else None
    return Measured(
        row.name, own, statistics.median(pair[1] for pair in pairs if pair[1]) if other else None,
        (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None, ours.first, share, memory,
    )  # fmt: skip


def matrix_product(where: torch.device, precision: str) -> float:
    """Operations a second of a large matrix product, the best of six: 2048 x 2048, on a GPU 8192 x 8192."""
    kind, size = torch.bfloat16 if precision == "bf16" else torch.float32, 8192 if where.type == "cuda" else 2048
    left, right = (torch.randn(size, size, device=where).to(kind) for _ in range(2))
    return 2 * size**3 / min(_timed(lambda: left @ right, where) for _ in range(6))


def _timed(work: Work, where: torch.device) -> float:
    began = time.perf_counter()
    work()
    execution.synchronise(where)
    return time.perf_counter() - began


class _Side:
    """A process that holds one side of a row ready."""

    def __init__(self, prepare: Callable[[], Work]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(prepare, theirs), daemon=True)
        self._process.start()
        theirs.close()

        self.first = math.nan
        """Seconds of the first call, once it has been waited for."""

    def wait(self) -> None:
        """Until it is ready to be timed."""
        if math.isnan(self.first):
            self.first = self._pipe.recv()

    def time(self) -> float:
        self._pipe.send("time")
        return self._pipe.recv()

    def memory(self) -> float:
        self._pipe.send("memory")
        return self._pipe.recv()

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


class Sides:
    """The processes of a row, which start at once."""

    def __init__(self, row: Row) -> None:
        self.row, self.ours = row, _Side(row.ours)
        self.other = _Side(row.reference) if row.reference else None

    def wait(self) -> None:
        """Until both are ready to be timed."""
        for side in filter(None, (self.ours, self.other)):
            side.wait()


def _serve(prepare: Callable[[], Work], pipe: Connection) -> None:
    where = execution.device("auto")
    work = prepare()
    before = _resident(where)
    pipe.send(_timed(work, where))
    _timed(work, where)  # what is compiled is warm only after its second call
    while True:
        if pipe.recv() == "time":
            pipe.send(_timed(work, where))
        else:
            pipe.send((_peak(where) - before) / 1e6)


def _resident(where: torch.device) -> float:
    """Bytes held now, so that inputs and libraries are left out of the peak."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        return torch.cuda.memory_allocated(where)
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak(where: torch.device) -> float:
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
