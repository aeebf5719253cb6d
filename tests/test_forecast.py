"""What is foretold of a run is what it takes, within what small steps and a busy machine allow."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import accdd
from accdd import files
from accdd.cli import app
from accdd.data import Dataset

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
    assert set(expected.seconds) == set(taken) - {"scoring"}
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
    assert found.seconds == {"pool": 0.0, "distilling": 7.5}


def test_a_dry_run_tells_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--set={key}={value}" for key, value in TINY.items()]
    ran = CliRunner().invoke(app, ["distill", "digits", "--dry-run", "--steps=2", "--json", "-q", *flags])
    assert ran.exit_code == 0, ran.output
    assert set(json.loads(ran.stdout)) == {"seconds", "memory", "disk"}
    assert list(tmp_path.glob("*.*")) == []
    ran = CliRunner().invoke(app, ["distill", "--resume", "x", "--dry-run"])
    assert ran.exit_code == 2 and "--dry-run would change it" in ran.output
