"""`make torture`: everything at length, as one table. Arguments: a scale (1 is an hour or two), and names to run."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from torture import faults, hostile, processes
from torture.faults import Outcome

TORTURES: dict[str, tuple[str, int, Callable[[Path, int], Outcome]]] = {
    "faults": ("a fault at every operation of a commit", 1, lambda folder, count: faults.faults(folder)),
    "power": ("states that a power cut may leave", 20_000, faults.power_cuts),
    "kills": ("SIGKILL and resume, bits compared", 300, processes.kills),
    "damage": ("damaged newest checkpoint", 2_000, faults.damaged_checkpoints),
    "hostile": ("hostile files", 200_000, hostile.hostile),
    "crowd": ("rounds of 16 processes on one cache", 300, processes.crowd),
}


def main(arguments: list[str]) -> int:
    """Print a row for each; the number of those with something wrong."""
    torch.set_num_threads(1)
    scale = float(arguments[0]) if arguments else 1.0
    names, failed = arguments[1:] or list(TORTURES), 0
    for name in names:
        title, count, torture = TORTURES[name]
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = torture(Path(folder), max(1, round(count * scale)))
        took = time.monotonic() - began
        print(f"{title:<42} {found.tried:>8,} tried  {len(found.wrong):>4} wrong  {took:>7.0f} s  {found.said}")
        for line in found.wrong[:20]:
            print(f"    {line}")
        sys.stdout.flush()
        failed += bool(found.wrong)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
