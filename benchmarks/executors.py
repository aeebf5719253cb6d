"""A grid of 24 cells on every executor: the same table, seconds each, and no cell lost when a worker is killed.

    python benchmarks/executors.py --out FOLDER [--executors inline local:2 slurm:cluster=local,timeout_min=60 ray]

slurm:cluster=local is submitit on this machine, which starts all cells at once, ray a cluster of its own here; each is
left out where its extra is not installed. Of every kind with workers, the grid is made a second time, with the first
worker that is seen killed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import accdd
from accdd.config import InputError

GRID = {"perturb.magnitude": [0.05, 0.1, 0.2], "images.lr": [0.01, 0.03], "pool.use": [True, False]}
SETTINGS = {
    "loop.steps": 20, "targets.count": 0, "network.width": 8, "pool.networks": 2, "pool.epochs": 0.5,
    "score.seeds": 1, "score.epochs": 50, "images.step": "gradient",
}  # fmt: skip
SEEDS = 2
EXECUTORS = ["inline", "local:2", "slurm:cluster=local,timeout_min=60", "ray"]


def kill_one(over: threading.Event) -> None:
    """Kill the first process that works for this one, once it has worked a while."""
    while not over.wait(0.2):
        said = subprocess.run(["ps", "-eo", "pid,ppid,etimes,args"], capture_output=True, text=True).stdout
        listed = [line.split(maxsplit=3) for line in said.splitlines()[1:]]
        servers = {pid for pid, parent, _, line in listed if "forkserver" in line and int(parent) == os.getpid()}
        for pid, parent, seconds, line in listed:
            works = parent in servers or "submitit.core._submit" in line or line.startswith("ray::_call")
            if works and "IDLE" not in line and int(seconds) >= 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
                    print(f"killed: {line[:60]}", file=sys.stderr)
                    return


def main() -> None:
    """Make the grid with every executor, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--executors", nargs="+", default=EXECUTORS)
    told = parser.parse_args()
    expected = None
    print("| executor | a worker is killed | seconds | cells | table |")
    print("|---|---|---|---|---|")
    for executor in told.executors:
        for killed in (False, True) if executor != "inline" else (False,):
            out, over = told.out / f"{executor.partition(':')[0]}{'-killed' if killed else ''}", threading.Event()
            killer = threading.Thread(target=kill_one, args=(over,))
            if killed:
                killer.start()
            began = time.perf_counter()
            try:
                found = accdd.ablate("digits", out, GRID, seeds=SEEDS, settings=SETTINGS, executor=executor)
            except InputError as error:
                print(f"{executor}: {error}", file=sys.stderr)
                continue
            finally:
                over.set()
            seconds = time.perf_counter() - began
            rows = [(row.what, row.values) for row in found.rows]
            expected = expected or rows
            cells = len(list(out.glob("*/seed-*/scores.json")))
            same = "the same" if rows == expected else "OTHER"
            print(f"| {executor} | {'yes' if killed else 'no'} | {seconds:.0f} | {cells} | {same} |", flush=True)


if __name__ == "__main__":
    main()
