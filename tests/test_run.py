"""Runs from the command to the files: what they leave behind, whether they repeat, and what they say meanwhile."""

import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
import yaml
from helpers import assert_same
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from accdd import artifact
from accdd.augmented_models import pool
from accdd.cli import app
from accdd.config import InputError
from accdd.run import Quiet, newest_snapshot, progress, read_snapshot, reporter, snapshots
from accdd.run.folder import CONTENTS
from accdd.run.snapshot_files import write_snapshot

TINY = "--set pool.networks=1 --set pool.epochs=0.1 --set network.width=4"
UNSCORED = f"{TINY} --steps 2 --set score.seeds=0"
SET = {"images.safetensors", "distilled.json", "preview.png", "README.md"}


def accdd(command: str) -> Any:
    """The result of a command in this process, which must succeed."""
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.stderr or result.exception
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Digits, one image per class, two sweeps, scored; no test changes it."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(root / "cache"))
        accdd(f"distill digits --out {root}/digits {TINY} --steps 2 --set score.seeds=2 --set score.epochs=1")
    yield root / "digits"


def images_of(run: Path) -> bytes:
    return (run / "distilled" / "images.safetensors").read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_photographs(root: Path) -> None:
    """Three classes of 6, 8 and 10 JPEGs, no two of one size; a grey one and an RGBA PNG among them."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for index in range(6 + 2 * label):
            size = (66 + 7 * index, 90 - 3 * index + label, 3)
            Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(root / name / f"{index}.jpg")
    Image.fromarray(generator.integers(0, 256, (80, 70), dtype=np.uint8)).save(root / "bee" / "0.jpg")
    Image.fromarray(generator.integers(0, 256, (70, 90, 4), dtype=np.uint8)).save(root / "cat" / "rgba.png")


# Files --------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_the_documented_files_and_no_others(run: Path):
    assert names(run) == set(CONTENTS) - {"tensorboard"}  # only when it is asked for
    assert names(run / "distilled") == SET
    assert names(run / "snapshots") == {f"sweep-{sweep:07d}.safetensors" for sweep in (0, 1, 2)}


def test_a_run_folder_records_what_was_asked_and_what_it_became(run: Path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"] == "digits"
    assert config["given"]["loop.steps"] == 2 and "images.factor" not in config["given"]
    assert config["resolved"]["loop"]["steps"] == 2 and config["resolved"]["images"]["factor"] == 1
    environment = json.loads((run / "env.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["device"] == "cpu"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sweep"] == 2 and last["loss"] > 0


def test_the_scores_of_a_run_are_in_both_its_records(run: Path):
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    assert [score["set"] for score in scores] == ["distilled", "random"]
    assert all(score["n"] == 2 and score["protocol"] == "quick, no flip, 1 epochs" for score in scores)
    assert artifact.load(run).info["scores"] == scores


def test_a_damaged_snapshot_is_named(run: Path, tmp_path: Path):
    shutil.copytree(run / "snapshots", tmp_path / "snapshots")
    first, *_, last = snapshots(tmp_path)
    whole = last.path.read_bytes()
    last.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"The snapshot '{re.escape(str(last.path))}' cannot be read: it has changed"):
        read_snapshot(last)
    first.path.write_bytes(first.path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"The snapshot '{re.escape(str(first.path))}' cannot be read"):
        snapshots(tmp_path)


def test_snapshots_are_in_the_order_of_their_sweeps(tmp_path: Path):
    for sweep in (9_999_999, 10_000_000, 8):
        write_snapshot(tmp_path, sweep, 1.0, torch.zeros(1, 1, 1, 2, 2))
    assert [each.sweep for each in snapshots(tmp_path)] == [8, 9_999_999, 10_000_000]
    newest = newest_snapshot(tmp_path)
    assert newest and newest[0].sweep == 10_000_000


def test_snapshots_begin_with_the_start_and_end_with_the_result(run: Path):
    first, *_, last = snapshots(run)
    result = artifact.load(run).images
    assert (first.sweep, last.sweep) == (0, 2) and 0 <= first.seconds < last.seconds
    torch.testing.assert_close(read_snapshot(last).flatten(0, 1), result, rtol=0, atol=2**-12)
    assert (read_snapshot(first).flatten(0, 1) - result).abs().max() > 2**-11


# The other commands on a run ----------------------------------------------------------------------------------


def test_info_says_what_a_set_is_after_verifying_it(run: Path):
    told = accdd(f"info {run}")
    assert "ipc: 1\n" in told.stdout and "class_names: 0, 1, 2" in told.stdout
    assert "distilled convnet " in told.stdout and told.stdout.endswith("checksum\n") and told.stderr == ""
    about = json.loads(accdd(f"info {run}/distilled --json").stdout)
    assert about["images"] == [10, 1, 8, 8] and about["sweeps"] == 2 and about["method"] == "idc"


@pytest.mark.parametrize("scores", [5, [1], [{}], None, "text"])
def test_info_survives_what_a_stranger_s_file_says_about_itself(run: Path, tmp_path: Path, scores: Any):
    stranger = artifact.load(run)
    stranger.info.update(scores=scores, ipc=999)
    stranger.save(tmp_path / "set")
    told = accdd(f"info {tmp_path}/set").stdout
    assert "ipc: 1\n" in told and "999" not in told and f"scores: {scores}" in told


def test_evaluate_prints_one_json_object_of_scores(run: Path):
    told = accdd(f"evaluate {run} {run}/distilled --seeds 2 --epochs 1 --json")
    scores = json.loads(told.stdout)["scores"]
    assert [score["set"] for score in scores] == [str(run), f"{run}/distilled"]
    for score in scores:
        assert set(score) >= {"set", "network", "protocol", "n", "mean", "std", "accuracies"}
        assert (score["network"], score["protocol"], score["n"]) == ("convnet", "idc, no flip, 1 epochs", 2)
        assert len(score["accuracies"]) == 2 and all(0 <= accuracy <= 100 for accuracy in score["accuracies"])
        assert score["mean"] == pytest.approx(np.mean(score["accuracies"]), abs=0.01)
        assert score["std"] == pytest.approx(np.std(score["accuracies"], ddof=1), abs=0.01)
    assert scores[0]["accuracies"] == scores[1]["accuracies"]


def test_evaluate_tells_a_line_per_set(run: Path):
    told = accdd(f"evaluate {run} --seeds 1 --epochs 1 --protocol quick --quiet")
    assert told.stdout.startswith(f"{run}  convnet  ") and told.stdout.count("\n") == 1
    assert "(n = 1, protocol quick, no flip, 1 epochs)" in told.stdout and told.stderr == ""


def test_evaluate_scores_the_snapshots_of_a_run(run: Path):
    scores = json.loads(accdd(f"evaluate {run} --snapshots --seeds 1 --epochs 1 --json").stdout)["scores"]
    sets = [score["set"].removeprefix(f"{run}@").split("@") for score in scores]
    assert [int(sweep) for sweep, _ in sets] == [0, 1, 2]
    assert [float(seconds.removesuffix("s")) for _, seconds in sets] == sorted(float(s[:-1]) for _, s in sets)


def test_an_exported_set_can_be_distilled_again(run: Path, tmp_path: Path):
    told = accdd(f"export {run} --to npz {tmp_path}/few.npz")
    assert told.stdout == f"{tmp_path}/few.npz: 10 images, float32 in [0, 1]\n"
    # A class of one image could keep none aside for testing.
    accdd(f"distill digits --ipc 2 --out {tmp_path}/two {UNSCORED}")
    assert json.loads(accdd(f"export {tmp_path}/two {tmp_path}/more.npz --json").stdout)["images"] == 20
    accdd(f"distill {tmp_path}/more.npz --ipc 1 --out {tmp_path}/again {UNSCORED}")
    assert artifact.load(tmp_path / "again").images.shape == (10, 1, 8, 8)


def test_a_pool_made_ahead_of_time_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = json.loads(accdd(f"pool digits {TINY} --json").stdout)
    assert Path(made["pool"]).is_dir() and [model["epoch"] for model in made["models"]] == [0.1]
    monkeypatch.setattr(pool, "build", lambda *_: pytest.fail("networks were trained again"))
    accdd(f"distill digits --out {tmp_path}/run {UNSCORED}")
    accdd(f"distill digits --ipc 2 --out {tmp_path}/more {UNSCORED}")
    assert f"{made['pool']}: trained in" in accdd(f"pool digits {TINY}").stdout
    with pytest.raises(pytest.fail.Exception):  # another seed of the pool needs other networks
        CliRunner().invoke(app, shlex.split(f"pool digits {TINY} --set pool.seed=1"), catch_exceptions=False)


def test_settings_lists_every_setting_with_default_and_meaning():
    rows = json.loads(accdd("settings --json").stdout)["settings"]
    assert {"pool.epochs", "loop.budget", "ipc"} <= {row["key"] for row in rows}
    assert all(row["meaning"].endswith(".") for row in rows)
    told = accdd("settings").stdout
    assert all(f"{row['key']} = {json.dumps(row['default'])}\n" in told for row in rows)


# What is said -------------------------------------------------------------------------------------------------


def test_distill_prints_one_json_object_and_tells_the_rest_elsewhere(tmp_path: Path):
    command = f"distill digits --out out --json {TINY} --steps 1 --set score.seeds=1 --set score.epochs=1"
    told = subprocess.run(
        [sys.executable, "-m", "accdd", *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0
    record = json.loads(told.stdout)
    assert set(record) == {"verdict", "out", "scores", "seconds"}
    assert record["out"] == "out" and [score["set"] for score in record["scores"]] == ["distilled", "random"]
    assert set(record["seconds"]) == {"pool", "distilling", "scoring"}
    assert "digits: 10 classes, " in told.stderr and "Warning" not in told.stderr
    assert names(tmp_path) == {"out", "accdd-cache"}


def test_distill_ends_with_the_verdict_the_files_and_what_to_type_next(tmp_path: Path):
    told = accdd(f"distill digits --out {tmp_path}/run {UNSCORED}")
    assert told.stdout.startswith("10 images (1 per class) of digits learned in ")
    listed = {line.split()[0].rstrip("/") for line in told.stdout.splitlines() if line.startswith("  ")}
    assert listed == set(CONTENTS) - {"tensorboard"} | {"accdd"}
    shown = [line.strip().removeprefix("accdd ") for line in told.stdout.splitlines() if line.startswith("  accdd ")]
    assert len(shown) == 2
    for command in shown:  # they work as printed
        accdd(command.replace(" run.npz", f" {tmp_path}/run.npz").replace("--seeds 5", "--seeds 1 --epochs 1"))


def test_no_verb_needs_a_network(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def away(*args: Any) -> None:
        raise OSError("the network is away")

    monkeypatch.setattr(socket.socket, "connect", away)
    monkeypatch.setattr(socket, "getaddrinfo", away)
    scored = f"{TINY} --steps 2 --set score.seeds=1 --set score.epochs=1"
    lines = (
        f"distill digits --out {tmp_path}/run {scored}", f"evaluate {run} --seeds 1 --epochs 1 --baselines random",
        f"distill digits --shard 1/2 --out {tmp_path}/first {UNSCORED}",
        f"distill digits --shard 2/2 --out {tmp_path}/second {UNSCORED}",
        f"merge {tmp_path}/first {tmp_path}/second --out {tmp_path}/merged",
        f"pool digits {TINY}", f"targets digits --count 10 --set targets.real_batch=8 {TINY}",
        f"info {run}", f"check {run}", f"watch {run} --once", f"report {run} --out {tmp_path}/page.html",
        f"export {run} {tmp_path}/pictures --to png", f"import {tmp_path}/pictures {tmp_path}/back --from folder",
        f"compare digits --methods dm --baselines random --out {tmp_path}/compare {scored}",
        f"ablate digits --over ipc=1,2 --out {tmp_path}/ablate {scored}", "presets", "settings", "cache ls",
    )  # fmt: skip
    for line in lines:
        accdd(line)
    verbs = set(typer.main.get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    assert verbs - {line.split()[0] for line in lines} == {"push", "reproduce"}  # to the hub; of data that is not here


def test_quiet_says_nothing_but_the_result(tmp_path: Path):
    loud, quiet = (accdd(f"distill digits --out {tmp_path}/run{flag} {UNSCORED} {flag}") for flag in ("", "--quiet"))
    assert loud.stderr.startswith(
        "digits: 10 classes, 1,438 training and 359 test images of 1 x 8 x 8; 139 to 146 of a class for "
        "training, fewest of '8'; 1797 pictures of 8x8, grey; no test split"
    )
    assert quiet.stderr == "" and quiet.stdout.startswith("10 images")


# Repetition ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def again(run: Path) -> bytes:
    return images_of(run)


def test_the_same_command_gives_the_same_bytes(again: bytes, tmp_path: Path):
    accdd(f"distill digits --out {tmp_path}/run {UNSCORED}")
    assert images_of(tmp_path / "run") == again


def test_the_configuration_of_a_run_repeats_it(run: Path, again: bytes, tmp_path: Path):
    accdd(f"distill digits --config {run}/config.yaml --set score.seeds=0 --out {tmp_path}/run")
    assert images_of(tmp_path / "run") == again


def test_the_resolved_settings_of_a_run_repeat_it(run: Path, again: bytes, tmp_path: Path):
    resolved = yaml.safe_load((run / "config.yaml").read_text())["resolved"]
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    accdd(f"distill digits --config {tmp_path}/resolved.yaml --set score.seeds=0 --out {tmp_path}/run")
    assert images_of(tmp_path / "run") == again


def test_another_seed_gives_other_images(again: bytes, tmp_path: Path):
    accdd(f"distill digits --out {tmp_path}/run {UNSCORED} --seed 1")
    assert images_of(tmp_path / "run") != again


@pytest.mark.parametrize("perturb", ["--perturb", "--no-perturb"])
@pytest.mark.parametrize("early_stage", ["--early-stage", "--no-early-stage"])
def test_the_parts_of_the_paper_switch_on_and_off(
    run: Path, again: bytes, tmp_path: Path, early_stage: str, perturb: str
):
    accdd(f"distill digits --out {tmp_path}/run {UNSCORED} {early_stage} {perturb}")
    has_pool = (tmp_path / "accdd-cache" / "pools").exists()
    assert has_pool == (early_stage == "--early-stage")
    both = (early_stage, perturb) == ("--early-stage", "--perturb")
    assert (images_of(tmp_path / "run") == again) == both


# Ways to run --------------------------------------------------------------------------------------------------


def test_a_budget_ends_a_run_in_time_and_the_sweeps_are_recorded(tmp_path: Path):
    accdd(f"distill digits --out {tmp_path}/run {TINY} --set score.seeds=0 --budget 1s")
    info = artifact.load(tmp_path / "run").info
    assert 1 <= info["seconds"]["distilling"] < 10
    assert info["sweeps"] == snapshots(tmp_path / "run")[-1].sweep >= 1
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["sweep"] == info["sweeps"]


def test_steps_end_a_run_before_its_budget(tmp_path: Path):
    accdd(f"distill digits --out {tmp_path}/run {UNSCORED} --inner-steps 3 --budget 1h")
    assert artifact.load(tmp_path / "run").info["sweeps"] == 6


def test_a_preset_runs_on_a_folder_of_coloured_pictures(tmp_path: Path):
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(8):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    accdd(
        f"distill {tmp_path}/data --out {tmp_path}/run --preset accdd-cifar10 --steps 1 --inner-steps 2 "
        "--set network.width=4 --set score.seeds=0"
    )
    distilled = artifact.load(tmp_path / "run")
    assert (distilled.class_names, distilled.factor) == (("ant", "bee"), 2)
    assert distilled.mean == (0.4914, 0.4822, 0.4465)
    assert distilled.info["settings"]["loop"]["train_images"] == 2000 and distilled.info["sweeps"] == 2
    assert distilled.info["source"]["path"] == str(tmp_path / "data")


def test_photographs_of_all_sizes_and_colours_need_no_settings(tmp_path: Path):
    write_photographs(tmp_path / "photos")
    told = accdd(
        f"distill {tmp_path}/photos --ipc 2 --out {tmp_path}/run "
        "--steps 1 --set network.width=4 --set score.epochs=1 --set score.seeds=1"
    )
    assert "3 classes" in told.stderr and "resized to 64 x 64" in told.stderr
    assert "grey pictures made RGB: 1; pictures with transparency laid on white: 1" in told.stderr
    distilled = artifact.load(tmp_path / "run")
    assert (distilled.images.shape, distilled.factor) == ((6, 3, 64, 64), 2)
    assert distilled.decode()[0].shape == (24, 3, 64, 64)
    stored = load_file(tmp_path / "run" / "distilled" / "images.safetensors")
    assert_same(stored["labels"], torch.arange(3).repeat_interleave(2))


# Progress -----------------------------------------------------------------------------------------------------


class Clock:
    """A time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


def lines_of(clock: Clock, seconds: float, updates: int, end: float = 1.0) -> list[str]:
    """What `Lines` says about a phase of so many evenly spread updates, up to the share `end`."""
    written = io.StringIO()
    telling = progress.Lines(Console(file=written, width=60))
    telling.phase("distilling")
    for update in range(updates + 1):
        telling.update(end * update / updates, f"sweep {update}")
        clock.now += seconds / updates
    telling.close()
    return written.getvalue().splitlines()


@pytest.mark.parametrize("kind", [progress.Lines, progress.Bar])
def test_what_a_file_calls_itself_cannot_act_on_the_terminal(kind: type[progress.Lines] | type[progress.Bar]):
    """Class names and paths come from files of strangers: no escape reaches the terminal, and no markup is obeyed."""
    written = io.StringIO()
    telling = kind(Console(file=written, force_terminal=kind is progress.Bar, width=100))
    telling.note("read \x1b]0;owned\x07 and [bold]this[/bold] \u202e")
    telling.phase("scoring, \x1b[2J")
    telling.update(0.5, "sweep \x1b[31m")
    telling.close()
    shown = written.getvalue()
    assert "[bold]this[/bold]" in shown
    assert not any(each in shown for each in ("\x1b]0;", "\x1b[2J", "\x1b[31m", "\x07", "\u202e"))


def test_lines_are_sparse_and_say_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch):
    said = lines_of(Clock(monkeypatch), 1000, 1000)
    assert 15 <= len(said) <= 23
    assert said[0] == "distilling:   1%  sweep 10  10 s passed, about 16 min 30 s left"
    shares = [int(line.split("%")[0].split()[-1]) for line in said]
    assert shares == sorted(set(shares)) and {1, 2, 5, 50, 95} <= set(shares)


def test_a_short_phase_needs_no_lines(monkeypatch: pytest.MonkeyPatch):
    assert lines_of(Clock(monkeypatch), 4, 1000) == []


def test_a_phase_that_hardly_moves_says_so_every_five_minutes(monkeypatch: pytest.MonkeyPatch):
    said = lines_of(Clock(monkeypatch), 3600, 3600, end=0.005)
    assert len(said) == 12
    assert "left" in said[0] and " h " in said[0]


def test_no_time_left_is_invented_before_the_first_step(monkeypatch: pytest.MonkeyPatch):
    assert all("about ? left" in line for line in lines_of(Clock(monkeypatch), 3600, 3600, end=0.0))


@pytest.mark.parametrize("name", ["distilling", "my[/]set on convnet", "[red]"])
def test_a_bar_shows_phases_and_notes_as_they_are(name: str):
    written = io.StringIO()
    telling = progress.Bar(Console(file=written, force_terminal=True, width=120, color_system=None))
    telling.update(0.5)  # before any phase there is nothing to show
    telling.note(f"{name}: 12 images")
    for _ in range(2):
        telling.phase(name)
        for share in (0.0, 0.5, 1.0):
            telling.update(share, f"sweep {share} [{name}]")
    telling.close()
    assert f"{name}: 12 images" in written.getvalue()
    assert f"{name} " in written.getvalue() and "100 %" in written.getvalue() and f"[{name}]" in written.getvalue()


def test_the_reporter_suits_standard_error(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(reporter(quiet=True), Quiet)
    for terminal, kind in ((False, progress.Lines), (True, progress.Bar)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        telling = reporter()
        assert isinstance(telling, kind)
        telling.close()
