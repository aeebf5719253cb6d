"""What is foretold of a run is what it takes, within what small steps and a busy machine allow."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Notes
from typer.testing import CliRunner

import accdd
from accdd import engine, files
from accdd.cli import app
from accdd.cli.shell import gigabytes_of
from accdd.config import InputError
from accdd.data import Dataset
from accdd.run import probing

TINY = {
    "network.width": 16, "network.depth": 2, "pool.networks": 2, "pool.epochs": 2, "match.real_batch": 6,
    "score.seeds": 0, "precision": "fp32", "compile": "never", "train.batch": 8, "loop.snapshots": 2,
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "idc": {"loop.steps": 4, "loop.inner_steps": 5, "loop.train_images": 8},
    "fresh": {"loop.steps": 20, "loop.inner_steps": 1, "pool.use": False, "targets.count": 0},
    "targets": {"loop.steps": 30, "targets.count": 10, "targets.real_batch": 6},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS)
def test_time_and_disk_are_foretold(data: Dataset, tmp_path: Path, changes: dict[str, Any]):
    told = {**TINY, **changes}
    expected = accdd.forecast(data, 2, settings=told)
    assert not files.cache_folder().exists(), "a forecast keeps nothing"
    taken = accdd.distill(data, 2, out=tmp_path / "run", settings=told).seconds
    assert set(expected.seconds) == set(taken)
    # Milliseconds on a shared machine: within a factor, which a forgotten loop or a swapped unit would not be.
    assert taken["distilling"] / 5 < expected.seconds["distilling"] < 5 * taken["distilling"]
    large = [path for root in (tmp_path / "run", files.cache_folder()) for path in root.rglob("*.safetensors")]
    size = sum(path.stat().st_size for path in large)
    assert size / 2 < expected.disk < 2 * size
    assert expected.memory > 0
    again = accdd.forecast(data, 2, settings=told)
    assert again.seconds["pool"] == 0 and again.seconds.get("targets", 0) == 0, "it is in the cache"


def test_a_budget_is_not_exceeded_and_one_without_steps_is_used_up(data: Dataset):
    found = accdd.forecast(data, 1, settings={**TINY, "loop.budget": 7.5, "pool.use": False, "targets.count": 0})
    assert found.seconds == {"pool": 0.0, "distilling": 7.5, "scoring": 0.0}


def test_a_shard_writes_its_own_classes(data: Dataset):
    told = {**TINY, "loop.steps": 2, "pool.use": False, "targets.count": 0, "network.width": 1}
    whole, part = (accdd.forecast(data, 4, settings={**told, "shard": shard}) for shard in (None, [1, 2]))
    assert part.disk < whole.disk


@pytest.mark.parametrize("inner", [1, 2, 5])
def test_every_number_of_sweeps_a_network_is_foretold(data: Dataset, inner: int):
    told = {**TINY, "loop.steps": 1, "loop.inner_steps": inner, "loop.train_images": 8, "pool.use": False}
    one = accdd.forecast(data, 1, settings={**told, "targets.count": 0}).seconds["distilling"]
    many = accdd.forecast(data, 1, settings={**told, "targets.count": 0, "loop.steps": 100}).seconds["distilling"]
    assert 0 < one < many


def test_of_one_network_the_quickest_sweep_after_the_first_stands_for_the_rest(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probing, "_clocked", lambda *_: [2.0, 9.0, 1.0, 5.0])  # the start, and three sweeps
    told = {**TINY, "loop.steps": 1, "loop.inner_steps": 5, "loop.train_images": 8, "pool.use": False}
    assert accdd.forecast(data, 1, settings={**told, "targets.count": 0}).seconds["distilling"] == 2 + 9 + 4 * 1


def test_a_forecast_says_what_was_understood_and_refuses_what_takes_more_than_allowed(data: Dataset):
    told = {**TINY, "targets.count": 0, "method": "dsa"}
    notes = Notes()
    accdd.forecast(data, 1, settings=told, reporter=notes)
    assert any(line.startswith(f"{data.name}: 2 classes") for line in notes.said)
    assert any("but dsa draws fresh networks" in line for line in notes.said)
    with pytest.raises(InputError, match=r"at its peak, more than --max-memory 0\.001\."):
        accdd.forecast(data, 1, settings={**told, "max_memory": 0.001})


@pytest.mark.parametrize(("warm", "timed"), [(0, 2), (1, 3), (2, 4), (9, 5)])
def test_slow_steps_are_timed_for_as_long_as_patience_lasts(monkeypatch: pytest.MonkeyPatch, warm: int, timed: int):
    clock = itertools.count(step=0.51 * probing.PATIENCE)  # looked at once before and once after each
    monkeypatch.setattr(probing.time, "perf_counter", lambda: next(clock))
    assert len(probing._clocked(iter(range(5)), torch.device("cpu"), warm)) == timed


@pytest.mark.parametrize(
    ("changes", "probed"),
    [
        ({"loop.steps": 9}, 1),
        ({"loop.budget": 7.5}, 1),
        ({"loop.steps": 9, "loop.inner_steps": 5, "loop.train_images": 8}, 2),  # the second after training
        ({"loop.budget": 7.5, "loop.inner_steps": 5, "loop.train_images": 8}, 2),
    ],
    ids=str,
)
def test_of_sweeps_that_take_minutes_one_of_each_kind_is_probed(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], probed: int
):
    monkeypatch.setattr(probing, "PATIENCE", 0.0)
    swept: list[int] = []
    begun = engine.sweeper

    def counting(*args: Any) -> Any:
        sweep = begun(*args)
        return lambda *given: swept.append(1) or sweep(*given)

    monkeypatch.setattr(engine, "sweeper", counting)
    found = accdd.forecast(data, 1, settings={**TINY, "pool.use": False, "targets.count": 0, **changes})
    assert len(swept) == probed and found.seconds["distilling"] > 0


def test_a_run_of_as_many_sweeps_as_would_be_probed_is_not_foretold(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probing, "SHORT", 0.0)
    told = {**TINY, "targets.count": 0, "pool.use": False, "loop.inner_steps": 2}
    for steps, more, foretold in ((2, {}, False), (3, {}, True), (2, {"pool.use": True}, True)):
        reporter = Notes()
        accdd.distill(data, 1, settings={**told, "loop.steps": steps, **more}, reporter=reporter)
        assert any("GB of memory" in line for line in reporter.said) == foretold


def test_a_run_that_is_worth_it_says_what_it_will_take(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = {**TINY, "loop.steps": 7, "targets.count": 0}
    reporter = Notes()
    accdd.distill(data, 1, settings=told, reporter=reporter)
    assert not any("GB of memory" in line for line in reporter.said), "of a second, that is of no use"
    monkeypatch.setattr(probing, "SHORT", 0.0)
    first = accdd.distill(data, 1, settings=told, out=tmp_path / "run", reporter=reporter).distilled.images
    kept = json.loads((tmp_path / "run" / "env.json").read_text())["foretold"]
    assert kept["distilling"] > 0 and kept["scoring"] == 0 and "targets" not in kept
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<th scope="col">foretold</th>' in page and "foretold&#34;" not in page
    assert any(line.startswith("About ") and "GB of memory" in line for line in reporter.said)
    assert "probing" in reporter.phases
    monkeypatch.undo()
    assert torch.equal(first, accdd.distill(data, 1, settings=told).distilled.images), "probing changes nothing"


def test_what_takes_more_memory_than_allowed_is_refused_before_anything_is_made(data: Dataset, tmp_path: Path):
    told = {**TINY, "loop.steps": 2, "targets.count": 0}
    with pytest.raises(InputError, match=r"takes .* GB at its peak, more than --max-memory 0.01"):
        accdd.distill(data, 1, out=tmp_path / "run", settings={**told, "max_memory": 0.01})
    assert not (tmp_path / "run").exists() and not files.cache_folder().exists()
    accdd.distill(data, 1, out=tmp_path / "run", settings={**told, "max_memory": 1000.0})
    assert (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.parametrize(("text", "size"), [("8GB", 8.0), ("800 mb", 0.8), ("1.5TB", 1500.0), ("2", 2.0)])
def test_sizes_are_read(text: str, size: float):
    assert gigabytes_of(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["8GiB", "-1GB", "much", ""])
def test_other_sizes_are_not(text: str):
    with pytest.raises(InputError, match=r"is not a size\. Expected a number with MB, GB or TB"):
        gigabytes_of(text)


def test_a_dry_run_tells_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--set={key}={value}" for key, value in TINY.items()]
    ran = CliRunner().invoke(app, ["distill", "digits", "--dry-run", "--steps=2", "--json", "-q", *flags])
    assert ran.exit_code == 0, ran.output
    assert set(json.loads(ran.stdout)) == {"seconds", "memory", "disk"}
    assert list(tmp_path.glob("*.*")) == []
    ran = CliRunner().invoke(app, ["distill", "--resume", "x", "--dry-run"])
    assert ran.exit_code == 2 and "--dry-run would change it" in ran.output
