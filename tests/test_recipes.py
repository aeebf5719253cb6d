"""The recipes of examples/ run, and show what they say, on data and settings that take seconds."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accdd.data import load

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"
TINY = (
    "--ipc 2 --seeds 1 --epochs 2 --set loop.steps=1 --set pool.networks=1 --set pool.epochs=0.1 --set network.width=4"
).split()


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setattr("sys.argv", [name, "digits", "--out", str(folder), *TINY, *more])
    runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")


def test_model_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run("model_search", tmp_path / "out", monkeypatch, "--images", "100")
    told = json.loads((tmp_path / "out" / "search.json").read_text())
    assert set(told["accuracy"]) == set(told["found"]) == {"distilled", "random", "whole"}
    assert all(len(column) == 12 for column in told["accuracy"].values())
    assert told["found"]["whole"]["tau"] == pytest.approx(1) and told["found"]["whole"]["lost"] == 0
    monkeypatch.setattr("accdd.evaluation.trials.run", None)  # whoever trains fails
    run("model_search", tmp_path / "out", monkeypatch, "--images", "100")
    assert json.loads((tmp_path / "out" / "search.json").read_text())["accuracy"] == told["accuracy"]


def test_class_incremental(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run("class_incremental", tmp_path / "out", monkeypatch, "--steps", "5")
    rows = json.loads((tmp_path / "out" / "steps.json").read_text())
    assert [set(row) for row in rows] == [{"distilled", "random", "herding"}] * 5


def test_memories_of_several_steps_keep_images_and_number_classes_on(tmp_path: Path):
    recipe: dict[str, Any] = runpy.run_path(str(RECIPES / "class_incremental.py"))
    real = load("digits")
    images, labels, _, test_labels = recipe["of"](real, range(4, 6))
    assert set(labels.tolist()) == set(test_labels.tolist()) == {0, 1}
    np.testing.assert_array_equal(images, real.images[(real.labels == 4) | (real.labels == 5)].numpy())


def test_federated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run("federated", tmp_path / "out", monkeypatch, "--clients", "3", "--alpha", "5")
    told = json.loads((tmp_path / "out" / "federated.json").read_text())
    assert set(told) == {"learned", "random", "whole"} and told["learned"]["n"] == 1


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 0.6, 1.0), (100.0, 0.25, 0.4)])
def test_clients_share_out_all_pictures_once(alpha: float, low: float, high: float):
    labels = torch.arange(300) % 3
    dealt = runpy.run_path(str(RECIPES / "federated.py"))["dealt"](labels, 4, alpha, 0)
    assert torch.equal(torch.cat(dealt).sort().values, torch.arange(300))
    shares = torch.stack([labels[rows].bincount(minlength=3) / 100 for rows in dealt])
    assert low <= shares.max() <= high
