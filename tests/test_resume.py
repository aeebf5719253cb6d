"""Runs that go on: the same bits after a stop at any sweep, after a real kill, with a damaged newest checkpoint."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Command
from helpers import CPU, Notes, assert_same, network, settings, stripes

import accdd
from accdd import config, defaults, evaluation, execution, loop, methods
from accdd.augmented_models import EarlyStage, EarlyStageModel, Perturbed
from accdd.config import InputError, Perturb, Settings
from accdd.data import Dataset
from accdd.execution import PLAIN
from accdd.loop import State
from accdd.run import Checkpoint, Quiet, RunFolder, checkpoints, learning

IDC = {"loop.steps": 3, "loop.inner_steps": 3, "loop.train_images": 16}
DC = {"method": "dc", "loop.steps": 2, "loop.inner_steps": 3, "loop.train_epochs": 2, "loop.train_images": 0}
WARM = {
    "loop.steps": 2, "loop.inner_steps": 2, "loop.warm_up": 0.5, "images.step": "normalised", "pool.use": False,
}  # fmt: skip


def trip(state: State, folder: Path) -> State:
    """A state after it was saved and read again."""
    checkpoints.save(folder, Checkpoint(state, 1.5, 7))
    found, problems = checkpoints.newest(folder, CPU)
    assert found and not problems and (found.seconds, found.metrics) == (1.5, 7)
    return found.state


@pytest.mark.parametrize("changes", [IDC, DC, WARM], ids=["idc", "dc", "warm up"])
def test_a_run_that_goes_on_after_any_sweep_ends_with_the_same_bits(
    data: Dataset, early_models: tuple[EarlyStageModel, ...], tmp_path: Path, changes: dict[str, Any]
):
    given = defaults.resolve(settings({"targets.count": 0, **changes}), data)
    assert given.loop.warm_up == changes.get("loop.warm_up", 0)
    problem, source = methods.problem(given, data, network()), Perturbed(EarlyStage(early_models), Perturb())
    whole = list(loop.distill(data, problem, source, given))
    for state in whole[:-1]:
        since = trip(state, tmp_path / str(state.sweep))
        rest = list(loop.distill(data, problem, source, given, since=since))
        assert [each.sweep for each in rest] == [each.sweep for each in whole[state.sweep + 1 :]]
        for mine, theirs in zip(rest, whole[state.sweep + 1 :], strict=True):
            assert_same(mine.images, theirs.images)
            assert_same(mine.losses, theirs.losses)


def arrays() -> tuple[Any, Any]:
    images = (torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    return images.numpy(), torch.arange(40).remainder(2).numpy()


def distilled(out: Path, **kwargs: Any) -> accdd.Distilled:
    return accdd.distill(arrays(), 2, out=out, settings=kwargs).distilled


TINY = {
    "network.width": 4, "network.depth": 2, "pool.networks": 2, "pool.epochs": 0.5, "match.real_batch": 6,
    "score.seeds": 0, "precision": "fp32", "compile": "never", "loop.checkpoint": 1e-6,
}  # fmt: skip
RUNS = {
    "idc": {"loop.steps": 3, "loop.inner_steps": 4, "loop.train_images": 8},
    "targets": {"loop.steps": 25, "targets.count": 10, "targets.real_batch": 6, "targets.refresh": 1e-9},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_a_run_folder_goes_on_to_the_same_set_and_the_same_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    """Stopped by a signal in the middle, and gone on with in a process that knows nothing of it."""
    whole = distilled(tmp_path / "whole", **TINY, **changes)
    real_checkpoint = accdd.api.RunFolder.checkpoint

    def stopping(folder: Any, state: State, seconds: float) -> None:
        real_checkpoint(folder, state, seconds)
        if state.sweep == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("accdd.run.folder.RunFolder.checkpoint", stopping)
        with pytest.raises(KeyboardInterrupt, match=r"Stopped after sweep 7\. Go on with: accdd distill --resume"):
            distilled(tmp_path / "cut", **TINY, **changes)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"sweep": 9, "seco')  # what a kill leaves: a torn line after the checkpoint
    source = arrays()
    rest = accdd.resume(tmp_path / "cut", source).distilled
    assert_same(rest.images, whole.images)
    assert_same(accdd.load(tmp_path / "cut").images, whole.images)

    def sweeps(name: str) -> list[int]:
        return [json.loads(line)["sweep"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    assert sweeps("cut") == sorted(set(sweeps("cut"))) and sweeps("cut")[-1] == sweeps("whole")[-1]
    assert len(checkpoints.listed(tmp_path / "cut" / "checkpoints")) == checkpoints.KEPT
    assert_same(accdd.resume(tmp_path / "cut").distilled.images, whole.images)  # finished: not even its data is needed


# Damage -------------------------------------------------------------------------------------------------------


def saved(folder: Path, sweeps: int = 3) -> list[State]:
    states = []
    for sweep in range(sweeps):
        images = torch.full((2, 1, 3, 8, 8), sweep / 10)
        states.append(State(sweep, images, images.new_zeros(0), images + 1))
        checkpoints.save(folder, Checkpoint(states[-1], float(sweep), sweep))
    return states


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path: Path, name: str, damage: str):
    states = saved(tmp_path)
    file = tmp_path / "sweep-0000002" / name
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        file.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes(content[:middle] if damage == "cut" else flipped)
    found, problems = checkpoints.newest(tmp_path, CPU)
    assert found and found.state.sweep == 1
    assert_same(found.state.velocity, states[1].velocity)
    assert len(problems) == 1 and "sweep-0000002" in problems[0]


def test_two_are_kept_and_nothing_unknown_is_touched(tmp_path: Path):
    (tmp_path / "sweep-mine").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "notes.txt", "sweep-0000003", "sweep-0000004", "sweep-mine"
    ]  # fmt: skip


def test_damaged_checkpoints_are_moved_aside_and_do_not_push_out_later_ones(tmp_path: Path):
    saved(tmp_path)
    for sweep in (1, 2):
        (tmp_path / f"sweep-000000{sweep}" / "state.json").unlink()
    found, problems = checkpoints.newest(tmp_path, CPU)
    assert found is None and len(problems) == 2
    saved(tmp_path, 2)
    assert [path.name for path in checkpoints.listed(tmp_path)] == ["sweep-0000001", "sweep-0000000"]
    assert len(list(tmp_path.glob("*.damaged-1"))) == 2


def test_a_manifest_that_lists_nothing_vouches_for_nothing(tmp_path: Path):
    saved(tmp_path, 2)
    (tmp_path / "sweep-0000001" / "manifest.json").write_text("{}")
    (tmp_path / "sweep-0000001" / "state.json").unlink()
    found, problems = checkpoints.newest(tmp_path, CPU)
    assert found and found.state.sweep == 0 and len(problems) == 1


def test_a_signal_in_the_last_sweep_stops_before_scoring_and_the_set_is_scored_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real_checkpoint = accdd.api.RunFolder.checkpoint

    def stopping(folder: Any, state: State, seconds: float) -> None:
        real_checkpoint(folder, state, seconds)
        if state.sweep == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    changes = {**TINY, **RUNS["idc"], "score.seeds": 1, "score.epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr("accdd.run.folder.RunFolder.checkpoint", stopping)
        with pytest.raises(KeyboardInterrupt, match="Stopped after sweep 12"):
            distilled(tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "distilled").exists()
    source = arrays()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "score", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            accdd.resume(tmp_path / "run", source)
    learned = accdd.load(tmp_path / "run")
    kept = {file.name: file.stat().st_size for file in (tmp_path / "run" / "snapshots").iterdir()}
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # to save room: the set is there
    notes = Notes()
    followed: list[int | None] = []
    with monkeypatch.context() as patch:
        patch.setattr("accdd.run.course.learn", lambda *args: pytest.fail("learned again"))
        patch.setattr("accdd.run.tracked", lambda *args: followed.append(args[3]) or contextlib.nullcontext())
        result = accdd.resume(tmp_path / "run", source, reporter=notes)
    assert followed == [None], "what a tracker was told before stays"
    assert "The set is there: it is scored." in notes.said
    assert {file.name: file.stat().st_size for file in (tmp_path / "run" / "snapshots").iterdir()} == kept != {}
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics != ""
    assert_same(result.distilled.images, learned.images)
    assert len(result.scores) == 2 and result.seconds["distilling"] > 0


def test_an_ignored_signal_stays_ignored(tmp_path: Path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with learning._signals() as came:
            os.kill(os.getpid(), signal.SIGINT)
        assert not came and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_only_a_second_signal_of_the_same_kind_is_obeyed_at_once():
    """Ctrl-C reaches the workers of an executor, too, and then the process that started them terminates them."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(kind) for kind in kinds]
    with learning._signals() as came:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, "or the next would end this process"
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [*kinds] and [signal.getsignal(kind) for kind in kinds] == [signal.SIG_DFL] * 2
    assert [signal.getsignal(kind) for kind in kinds] == before


@pytest.mark.parametrize("name", ["metrics.jsonl", ".owner.json"])
def test_links_in_a_run_folder_are_not_followed(tmp_path: Path, name: str):
    out, mine = tmp_path / "run", tmp_path / "mine.txt"
    distilled(out, **TINY, **RUNS["idc"])
    (out / "evaluation.json").unlink()
    (out / name).unlink(missing_ok=True)
    mine.write_text("precious")
    (out / name).symlink_to(mine)
    with pytest.raises(InputError, match=f"{name} is a link"):
        accdd.resume(out, arrays())
    assert mine.read_text() == "precious"


def test_metrics_torn_by_a_power_cut_go_on_with_a_whole_line(tmp_path: Path):
    out = tmp_path / "run"
    distilled(out, **TINY, **RUNS["idc"])
    (out / "evaluation.json").unlink()
    metrics = out / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-10])  # less than the checkpoint says
    folder, _ = RunFolder.open(out)
    folder.rewind(torch.device("cpu"))
    folder.log(99, 1.0, 0.5)
    assert [json.loads(line)["sweep"] for line in metrics.read_text().splitlines()][-1] == 99


def test_data_that_was_given_as_arrays_is_asked_for(tmp_path: Path):
    distilled(tmp_path / "run", **TINY, **RUNS["idc"])
    (tmp_path / "run" / "evaluation.json").unlink()
    with pytest.raises(InputError, match="was given as arrays"):
        accdd.resume(tmp_path / "run")


@pytest.mark.parametrize(("asked", "used"), [("auto", "fp32"), ("bf16", "bf16")])
def test_bf16_that_would_be_slow_here_is_not_kept_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, used: str
):
    out, told = tmp_path / "run", {**TINY, **RUNS["idc"], "precision": asked}
    distilled(out, **told)
    for made in ("evaluation.json", "report.html"):
        (out / made).unlink(missing_ok=True)
    shutil.rmtree(out / "distilled")
    env = json.loads((out / "env.json").read_text())
    (out / "env.json").write_text(json.dumps(env | {"plan": env["plan"] | {"precision": "bf16"}}))
    monkeypatch.setattr(execution, "precision", lambda name, where: "fp32" if name == "auto" else name)
    notes = Notes()
    accdd.resume(out, arrays(), reporter=notes)
    assert any(f": {used}, " in line for line in notes.said if line.startswith("On "))
    assert ("In fp32 instead of bf16, which is slow here." in notes.said) == (used == "fp32")


def test_data_that_has_moved_is_asked_for(tmp_path: Path):
    path, out = tmp_path / "mine.npz", tmp_path / "run"
    np.savez(path, images=arrays()[0], labels=arrays()[1])
    accdd.distill(path, 2, out=out, settings={**TINY, **RUNS["idc"]})
    (out / "evaluation.json").unlink()
    path.rename(tmp_path / "moved.npz")
    with pytest.raises(InputError, match=r"is not at '.*mine.npz'.*accdd distill DATA --resume"):
        accdd.resume(out)
    assert accdd.resume(out, tmp_path / "moved.npz").out == out


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "VERSION", 2)
    with pytest.raises(InputError, match=r"has version 1\. Expected 2"):
        checkpoints.newest(tmp_path, CPU)


# Real kills ---------------------------------------------------------------------------------------------------

COMMAND = [
    "digits", "--ipc=1", "--steps=4", "--inner-steps=30", "--seed=3", "--compile=never", "--precision=fp32",
    "--set=loop.train_images=64", "--set=score.seeds=0", "--set=loop.checkpoint=0.05", "--set=pool.networks=1",
    "--set=pool.epochs=0.2", "--set=network.width=32",
]  # fmt: skip


def command(said: Path, *arguments: str) -> Command:
    """A run of its own, which tells its progress to a file."""
    return Command(("-m", "accdd", "distill", *arguments), said, {})


def newest_name(out: Path) -> str | None:
    return next((path.name for path in checkpoints.listed(out / "checkpoints")), None)


@pytest.mark.timeout(300)  # a minute on a slow machine
def test_runs_that_are_killed_and_gone_on_with_end_with_the_same_bits(tmp_path: Path):
    out, said = tmp_path / "cut", tmp_path / "said.txt"
    whole = command(tmp_path / "whole.txt", *COMMAND, "--out", str(tmp_path / "whole"))
    ends = [
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGKILL, -signal.SIGKILL),
    ]
    for kill, (sent, code) in enumerate(ends):
        before = newest_name(out)
        assert not (out / "distilled").exists(), "finished before it was killed"
        process = command(said, *(["--resume", str(out)] if kill else [*COMMAND, "--out", str(out)]))
        while process.code is None and newest_name(out) == before:
            time.sleep(0.01)
        process.send(sent)
        assert process.wait() == code, said.read_text()
        assert sent == signal.SIGKILL or "Go on with: accdd distill --resume" in said.read_text()
    assert command(said, "--resume", str(out)).wait() == 0, said.read_text()
    assert whole.wait() == 0
    assert_same(accdd.load(out).images, accdd.load(tmp_path / "whole").images)


# Wrong input --------------------------------------------------------------------------------------------------


def test_what_is_no_run_is_not_gone_on_with(tmp_path: Path):
    with pytest.raises(InputError, match=r"is no run to go on with: config\.yaml is missing"):
        accdd.resume(tmp_path)
    (tmp_path / "config.yaml").write_text("data: [")
    with pytest.raises(InputError, match="is no run to go on with"):
        accdd.resume(tmp_path)


def test_an_unfinished_run_is_offered_to_be_gone_on_with_and_differing_settings_are_named(tmp_path: Path):
    out = tmp_path / "run"
    distilled(out, **TINY, **RUNS["idc"])
    (out / "evaluation.json").unlink()
    with pytest.raises(InputError, match=r"holds an unfinished run, and is not.*To go on with it: --resume"):
        distilled(out, **TINY, **RUNS["idc"])
    with pytest.raises(InputError, match=r"unfinished run with other settings \(loop\.steps: 3 there, 5 wanted\)"):
        distilled(out, **TINY, **{**RUNS["idc"], "loop.steps": 5})
    with pytest.raises(InputError, match="has changed since the run began"):
        accdd.resume(out, stripes_as_arrays())


def test_a_finished_run_asked_for_again_is_the_result_and_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = {**TINY, **RUNS["idc"], "score.seeds": 2, "score.epochs": 2}
    first = accdd.distill(arrays(), 2, out=tmp_path, settings=settings)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for again in (accdd.distill(arrays(), 2, out=tmp_path, settings=settings), accdd.resume(tmp_path)):
        assert_same(again.distilled.images, first.distilled.images)
        assert (again.scores, again.verdict, again.out) == (first.scores, first.verdict, tmp_path)
        assert dict(again.seconds) == dict(first.seconds)
    with pytest.raises(InputError, match="finished run that was asked for alike, but the data differed"):
        accdd.distill(stripes_as_arrays(), 2, out=tmp_path, settings=settings)
    with pytest.raises(InputError, match=r"finished run with other settings \(loop\.steps: 3 there, 4 wanted\)"):
        accdd.distill(arrays(), 2, out=tmp_path, settings={**settings, "loop.steps": 4})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "report.html").unlink()
    accdd.distill(arrays(), 2, out=tmp_path, settings=settings)
    assert (tmp_path / "report.html").exists()
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace("convnet", "nowhere:Net"))
    assert_same(accdd.resume(tmp_path).distilled.images, first.distilled.images)  # no code is looked for
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace("nowhere:Net", "convnet"))
    monkeypatch.setitem(methods.METHODS, "idc", dataclasses.replace(methods.METHODS["idc"], early_stage=False))
    with pytest.raises(InputError, match=r"asked for alike, but pool\.use differed"):
        accdd.distill(arrays(), 2, out=tmp_path, settings=settings)
    (tmp_path / "evaluation.json").write_text('{"scores": [{"set": 1}]}')
    with pytest.raises(InputError, match=r"evaluation\.json is damaged"):
        accdd.resume(tmp_path)


def stripes_as_arrays() -> tuple[Any, Any]:
    data = stripes()
    return data.images.numpy(), data.labels.numpy()


def test_a_network_that_a_folder_names_is_not_imported_unasked(tmp_path: Path):
    out = tmp_path / "run"
    distilled(out, **TINY, **RUNS["idc"])
    (out / "evaluation.json").unlink()
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("name: convnet", "name: os:kill"))
    with pytest.raises(
        InputError, match=r"names the network 'os:kill', which is code to be imported.*--resume OUT --network os:kill"
    ):
        accdd.resume(out)


def test_all_networks_of_ones_own_can_be_allowed_at_once(tmp_path: Path):
    out = tmp_path / "run"
    distilled(out, **TINY, **RUNS["idc"])
    (out / "evaluation.json").unlink()
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("- convnet\n", "- helpers:Plain\n    - helpers:Other\n"))
    for allowed in (None, "helpers:Plain"):
        with pytest.raises(InputError, match="--network helpers:Plain,helpers:Other"):
            accdd.resume(out, network=allowed)
    with pytest.raises(InputError, match="was given as arrays"):  # the next thing that is looked at
        accdd.resume(out, network=("helpers:Plain", "helpers:Other"))


@pytest.mark.parametrize(("seconds", "every"), [(0.1, 30), (0.2, 40)])
def test_saving_takes_half_a_percent_of_a_run_at_most(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, every: float
):
    """On a clock of its own: a sweep takes a second, a checkpoint as long as it is told."""
    now, at = [0.0], []

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return now[0]

    def sweeps(progress: object, since: State | None):
        images = torch.zeros(data.num_classes, 1, 3, 8, 8)
        for sweep in range(101):
            yield State(sweep, images, images.new_zeros(1), images)
            now[0] += 1

    def save(folder: RunFolder, state: State, spent: float) -> None:
        at.append(now[0])
        now[0] += seconds

    monkeypatch.setattr(learning, "time", Clock)
    monkeypatch.setattr(RunFolder, "checkpoint", save)
    given = config.override(Settings(), {"loop.steps": 100, "loop.snapshots": 0})
    folder = RunFolder.create(tmp_path / "run", None, data.fingerprint, {}, given, data.device, PLAIN)
    learning.learn(sweeps, data.device, given, Quiet(), folder)
    assert at[1] - at[0] == pytest.approx(every, abs=1.01) and len(at) == 1 + 100 // every
