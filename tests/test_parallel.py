"""Ranks: the same images on any number of them, to the last bit, and what they tell each other."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from divided import CLASSES, HOSTS, runs
from helpers import assert_same
from torch import Tensor

from accdd.parallel import ALONE, Ranks

COUNTS = (2, 3)
DIVIDED = str(Path(__file__).with_name("divided.py"))


def launch(count: int, *command: str) -> list["subprocess.Popen[str]"]:
    """Start a Python command on `count` ranks as torchrun would, on a port that was free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


@pytest.fixture(scope="module", params=COUNTS)
def divided(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """How many ranks there were, and what rank 0 saw."""
    folder = tmp_path_factory.mktemp("divided")
    said = [process.communicate(timeout=300)[0] for process in launch(request.param, DIVIDED, str(folder))]
    assert (folder / f"{request.param}.pt").exists(), "\n".join(said)
    return request.param, torch.load(folder / f"{request.param}.pt")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """The same runs in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("alone")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        found = runs(ALONE)
        torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("classes", [1, 2, 5, 10, 200])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_cover_all_classes_once_and_differ_by_one_at_most(classes: int, count: int):
    shares = [range(classes)[Ranks(rank, count).share(classes)] for rank in range(count)]
    assert [label for share in shares for label in share] == list(range(classes))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("host", HOSTS)
def test_the_images_do_not_depend_on_how_many_ranks_there_are(divided, alone, host: str):
    images, losses = alone[host]
    assert len(images) == len(losses) == CLASSES
    assert_same(divided[1]["runs"][host], (images, losses))


def test_hosts_do_not_learn_the_same(alone: dict[str, tuple[Tensor, Tensor]]):
    assert len({images.sum().item() for images, _ in alone.values()}) == len(HOSTS)


def test_what_ranks_tell_each_other(divided):
    count, found = divided
    words, last = found["words"], count - 1
    assert words["largest"] == [last, 0.1, 0]
    assert words["together"] == ["0", f"On rank {last} of {count}: no good on {last}", "no good on 0"]
    assert words["leader"] == "by 0"
    assert words["agree"].startswith("Ranks disagree: ipc is 1 here and 2 on rank 1.")


def test_alone_nothing_is_told():
    assert ALONE.leads and ALONE.share(7) == slice(0, 7)
    assert (ALONE.largest([3.0, 1.0]), ALONE.leader(lambda: 5)) == ([3.0, 1.0], 5)
    tensor = torch.arange(3)
    assert ALONE.whole(tensor) is tensor
    ALONE.agree({"seed": 0})


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_dies_is_named_by_all_others_and_one_that_works_is_not(victim: int):
    ranks = launch(3, DIVIDED, "wait", str(victim))
    said = [process.communicate(timeout=100)[0] for process in ranks]
    for rank, (process, words) in enumerate(zip(ranks, said, strict=True)):
        assert "heard" in words and "not reached" not in words
        if rank == victim:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 1
            assert f"error: Rank {victim} is gone (no sign of life for 1.5 s), so the others stop." in words
