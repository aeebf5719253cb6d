"""Ranks: the same images on any number of them, to the last bit, and what they tell each other."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Command
from divided import CLASSES, HOSTS, runs
from helpers import assert_same, settings
from torch import Tensor

from accdd import api, defaults, parallel
from accdd.config import InputError
from accdd.data import Dataset
from accdd.parallel import ALONE, Ranks
from accdd.run import course
from accdd.run.progress import Quiet

COUNTS = (2, 3)
DIVIDED = str(Path(__file__).with_name("divided.py"))


def launch(folder: Path, count: int, *command: str, own: tuple[str, ...] = ()) -> list[Command]:
    """Start a Python command on `count` ranks as torchrun would, on a port that was free; `own` on the last alone.
    What they say goes to files of `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        Command(
            (*command, *(own if rank == count - 1 else ())),
            Path(tempfile.mkdtemp(dir=folder)) / "said",
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def ended(ranks: list[Command]) -> tuple[list[int], list[str]]:
    """How all ended, and what they said."""
    return [rank.wait() for rank in ranks], [rank.said.read_text() for rank in ranks]


@pytest.fixture(scope="module", params=COUNTS)
def divided(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    """How many ranks there were, and what rank 0 saw."""
    folder = tmp_path_factory.mktemp("divided")
    _, said = ended(launch(folder, request.param, DIVIDED, str(folder)))
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
    found = divided[1]["runs"][host]
    if "split" in host:  # sums in another order
        torch.testing.assert_close(found, (images, losses), rtol=1e-4, atol=1e-5)
        assert not torch.equal(found[1], losses)
    else:
        assert_same(found, (images, losses))


def test_hosts_do_not_learn_the_same(alone: dict[str, tuple[Tensor, Tensor]]):
    split = sum("split" in name for name in HOSTS)  # alone, there is nobody to share with
    assert len({images.sum().item() for images, _ in alone.values()}) == len(HOSTS) - split


def test_what_ranks_tell_each_other(divided):
    count, found = divided
    words, last = found["words"], count - 1
    assert words["largest"] == [last, 0.1, 0]
    assert words["together"] == ["0", f"On rank {last} of {count}: no good on {last}", "no good on 0"]
    assert words["leader"] == "by 0"
    assert words["agree"].startswith("Ranks disagree: ipc is 1 on rank 0 and 2 on rank 1.")


def test_a_rank_without_a_world_is_alone_and_speaks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")  # as schedulers export it
    with parallel.joined() as ranks:
        assert ranks.alone and parallel.leads()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="Expected torchrun to launch accdd"), parallel.joined():
        pass
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(InputError, match="WORLD_SIZE=x"), parallel.joined():
        pass


def test_the_leader_s_watch_lives_without_a_store(monkeypatch: pytest.MonkeyPatch):
    class Gone:
        def set(self, *args: object) -> None:
            over.set()
            raise RuntimeError("the store is gone")

    over = threading.Event()
    monkeypatch.setattr(parallel, "BEAT", 0.001)
    parallel._watch(Gone(), Ranks(0, 2), over)  # pyright: ignore[reportArgumentType]


def test_alone_nothing_is_told():
    assert ALONE.leads and ALONE.share(7) == slice(0, 7)
    assert (ALONE.largest([3.0, 1.0]), ALONE.leader(lambda: 5)) == ([3.0, 1.0], 5)
    tensor = torch.arange(3)
    assert ALONE.whole(tensor) is tensor
    ALONE.agree({"seed": 0})


def test_processes_on_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch, data: Dataset):
    work = course.prepare("here", data, defaults.resolve(settings({}), data), Quiet())
    monkeypatch.setattr(Ranks, "agree", lambda ranks, facts: None)
    for apart in ([None, None], [None, "GPU-1"], ["GPU-1", "GPU-2"]):
        monkeypatch.setattr(Ranks, "gathered", lambda ranks, mine, apart=apart: apart)
        api._agree(Ranks(0, 2), work)  # says nothing
    monkeypatch.setattr(Ranks, "gathered", lambda ranks, mine: ["GPU-1", "GPU-1"])
    with pytest.raises(InputError, match="Several processes on one GPU"):
        api._agree(Ranks(0, 2), work)


@pytest.mark.parametrize("victim", [0, 2])
def test_a_rank_that_dies_is_named_by_all_others_and_one_that_works_is_not(victim: int, tmp_path: Path):
    codes, said = ended(launch(tmp_path, 3, DIVIDED, "wait", str(victim)))
    for rank, (code, words) in enumerate(zip(codes, said, strict=True)):
        assert "heard" in words and "not reached" not in words
        if rank == victim:
            assert code == -signal.SIGKILL
        else:
            assert code == 1
            assert f"error: Rank {victim} is gone (no sign of life for 1.5 s), so the others stop." in words


# The command ----------------------------------------------------------------------------------------------------

DISTILL = (
    "-m", "accdd", "distill", "digits", "--ipc=1", "--compile=never", "--set=score.seeds=0", "--set=pool.networks=1",
    "--set=pool.epochs=0.2", "--set=match.classes=1",
)  # fmt: skip


def images(run: Path) -> bytes:
    return (run / "distilled" / "images.safetensors").read_bytes()


def test_a_run_on_three_ranks_is_the_run_on_one_and_speaks_once(tmp_path: Path):
    said = {}
    for count in (1, 3):
        command = (*DISTILL, "--steps=3", "--targets=0", "--out", str(tmp_path / str(count)))
        codes, said[count] = ended(launch(tmp_path, count, *command))
        assert codes == [0] * count, said[count]
    assert images(tmp_path / "1") == images(tmp_path / "3")
    assert "The classes are divided among 3 processes." in said[3][0] and "learned in 3 sweeps" in said[3][0]
    assert said[3][1:] == ["", ""]


SAVING = """
from accdd.run import learning
learning.SAVE_SECONDS, learning.SAVED_SHARE = 0.02, 0.05
from accdd.cli import main
main()
"""


def test_all_ranks_save_together_though_one_of_them_alone_knows_what_it_takes(tmp_path: Path):
    """How often is saved follows from what the last saving took, which is measured by the rank that writes."""
    command = ("-c", SAVING, *DISTILL[2:], "--steps=40", "--targets=0", "--out", str(tmp_path / "run"))
    codes, said = ended(launch(tmp_path, 3, *command))
    assert codes == [0] * 3, said
    assert len(list((tmp_path / "run" / "checkpoints").glob("sweep-*"))) == 2


def test_a_run_begun_on_two_ranks_goes_on_alone(tmp_path: Path):
    out = tmp_path / "cut"
    long = (*DISTILL, "--steps=12", "--inner-steps=2", "--set=loop.train_images=64", "--set=loop.checkpoint=0.01")
    ranks = launch(tmp_path, 2, *long, "--out", str(out))
    give_up = time.monotonic() + 100
    while len(list(out.glob("checkpoints/sweep-*"))) < 2:
        assert time.monotonic() < give_up and ranks[0].code is None
        time.sleep(0.01)
    ranks[1].send(signal.SIGTERM)  # one hears it, both stop
    codes, said = ended(ranks)
    assert codes == [128 + signal.SIGTERM] * 2, said
    assert said[0].count("Go on with: accdd distill --resume") == 1 and said[1] == ""
    codes, said = ended(launch(tmp_path, 1, *DISTILL[:3], "--resume", str(out)))
    assert codes == [0] and "Going on after sweep" in said[0]
    codes, said = ended(launch(tmp_path, 1, *long, "--out", str(tmp_path / "whole")))
    assert codes == [0], said
    assert images(out) == images(tmp_path / "whole")


@pytest.mark.parametrize(
    ("count", "own", "said"),
    [
        (3, (), "3 processes for 2 classes: some would have none"),
        (2, ("--seed=7",), "Ranks disagree: seed is 0 on rank 0 and 7 on rank 1"),
        (2, ("--ipc=999",), "On rank 1 of 2: Class '0' has"),
        (2, ("--preset=none",), "On rank 1 of 2: Unknown preset 'none'"),
    ],
)
def test_ranks_that_cannot_work_together_say_so_once(tmp_path: Path, count: int, own: tuple[str, ...], said: str):
    labels = np.arange(24) % 2
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", images=pixels, labels=labels, test_images=pixels, test_labels=labels)
    command = (*DISTILL[:3], str(tmp_path / "two.npz"), *DISTILL[4:], "--targets=0", "--out", str(tmp_path / "run"))
    codes, words = ended(launch(tmp_path, count, *command, own=own))
    assert codes == [2] * count, words
    assert f"error: {said}" in words[0] and not any(words[1:])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_launches_again_what_died_and_the_run_goes_on(tmp_path: Path):
    out, own = tmp_path / "cut", ("--steps=30", "--targets=0", "--set=loop.checkpoint=0.01")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", *DISTILL)
    process = subprocess.Popen(
        [sys.executable, *torchrun, *own, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(list(out.glob("checkpoints/sweep-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = next(pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(int(victim), signal.SIGKILL)
    said = process.communicate(timeout=110)[0]
    assert process.returncode == 0 and "Going on after sweep" in said, said
    ended(launch(tmp_path, 1, *DISTILL, *own, "--out", str(tmp_path / "whole")))
    assert images(out) == images(tmp_path / "whole")
    codes, words = ended(launch(tmp_path, 2, *DISTILL, *own, "--out", str(out)))
    assert codes == [0, 0]
    assert "it is finished" in words[0] and not words[1]
