"""What test_parallel.py launches on every rank: short runs of all hosts, and what ranks tell each other.

    python tests/divided.py FOLDER
    python tests/divided.py wait RANK

With a folder, rank 0 leaves what it saw in FOLDER/RANKS.pt, beside the cache; otherwise RANK dies while others wait.
"""

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from helpers import Pool, early_stage, network, settings, several, trained
from torch import Tensor

from accdd import defaults, loop, methods, parallel
from accdd.config import InputError
from accdd.data import Dataset
from accdd.loop import State
from accdd.parallel import Ranks
from accdd.targets import Bank

CLASSES = 5
HOSTS: dict[str, dict[str, Any]] = {
    "idc": {"method": "idc", "images.factor": 2},
    "dsa": {"method": "dsa", "loop.train_images": 0, "loop.train_epochs": 2},
    "dm": {"method": "dm", "loop.inner_steps": 1, "loop.train_images": 0, "loop.steps": 4},
    "idc on targets": {"method": "idc", "images.factor": 2, "targets.count": 10},
    "dsa on targets": {"method": "dsa", "targets.count": 10},
    "dm on targets": {"method": "dm", "targets.count": 10},
    "idc, split": {"method": "idc", "images.factor": 2, "loop.split_training": True},
    "dsa, split": {"method": "dsa", "loop.train_images": 0, "loop.train_epochs": 2, "loop.split_training": True},
    "a refreshed bank": {"method": "idc", "images.factor": 1, "targets.count": 10, "targets.refresh": 1e-6},
}
ON_TARGETS = {"loop.inner_steps": 1, "loop.train_images": 0, "loop.steps": 12, "targets.real_batch": 6}


def run(data: Dataset, models: Pool, changes: dict[str, Any], ranks: Ranks) -> State:
    """The last state of this rank."""
    on_targets = "targets.count" in changes
    wanted = settings({**changes, **(ON_TARGETS if on_targets else {"targets.count": 0})})
    given = defaults.resolve(wanted, data)
    pieces = methods.problem(given, data, network(num_classes=CLASSES))
    if on_targets:
        bank = Bank(data, pieces, early_stage(models), given)
        bank.build(given.targets.count or 0, ranks=ranks)
        states = list(loop.distill_on_targets(data, pieces, bank, given, ranks=ranks))
    else:
        states = list(loop.distill(data, pieces, early_stage(models), given, ranks=ranks))
    return states[-1]


def runs(ranks: Ranks) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and losses of all classes after some sweeps, by host."""
    data = several(CLASSES)
    models = trained(data, network(num_classes=CLASSES), settings({"pool.networks": 3}))
    found = {}
    for name, changes in HOSTS.items():
        last = run(data, models, changes, ranks)
        found[name] = tuple(ranks.whole(each) for each in (last.images, last.losses))
    return found


def words(ranks: Ranks) -> dict[str, Any]:
    """What comes of ranks telling each other things."""

    def fail(*on: int) -> str:
        def work() -> int:
            if ranks.rank in on:
                raise InputError(f"no good on {ranks.rank}")
            return ranks.rank

        try:
            return str(ranks.together(work))
        except InputError as error:
            return str(error)

    def disagree() -> str:
        try:
            ranks.agree({"seed": 0, "ipc": 1 if ranks.rank < 1 else 2})
        except InputError as error:
            return str(error)
        return "agreed"

    ranks.agree({"seed": 0})
    return {
        "largest": ranks.largest([ranks.rank, 0.1 if ranks.leads else -math.inf, -ranks.rank]),
        "together": [fail(), fail(ranks.count - 1), fail(*range(ranks.count))],
        "leader": ranks.leader(lambda: f"by {ranks.rank}"),
        "agree": disagree(),
    }


def wait(ranks: Ranks) -> None:
    """Everyone works a while on what others wait for; then the last rank dies and is waited for."""
    for rank in range(ranks.count):
        ranks.together(lambda rank=rank: time.sleep(2 * parallel.SILENCE if rank == ranks.rank else 0))
    print("heard", flush=True)
    if ranks.rank == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.whole(torch.zeros(1))
    print("not reached", flush=True)


def main() -> None:
    if sys.argv[1] == "wait":
        parallel.BEAT, parallel.SILENCE = 0.1, 1.5
        with parallel.joined() as ranks:
            wait(ranks)
        return
    folder = Path(sys.argv[1])
    os.environ["XDG_CACHE_HOME"] = str(folder / f"cache of {os.environ['WORLD_SIZE']}")
    with parallel.joined() as ranks:
        found = {"runs": runs(ranks), "words": words(ranks)}
        if ranks.leads:
            torch.save(found, folder / f"{ranks.count}.pt")


if __name__ == "__main__":
    main()
