"""Choosing a snapshot by training images that were held out: which they are, what is chosen, and what stays apart."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, assert_same, several, stripes

import accdd
from accdd import evaluation
from accdd.augmented_models import pool
from accdd.config import InputError
from accdd.data import Dataset
from accdd.evaluation import trials
from accdd.files import cache_folder
from accdd.run import choosing, read_snapshot, snapshots

SETTINGS = {**TINY, "ipc": 1, "loop.steps": 4, "loop.inner_steps": 1, "loop.train_images": 0, "targets.count": 0,
            "score.seeds": 0, "score.epochs": 2, "score.choose": "validation", "score.validation": 0.25,
            "compile": "never"}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Stripes without a test split."""
    data = stripes()
    np.savez(tmp_path / "stripes.npz", images=data.images.numpy(), labels=data.labels.numpy())
    return tmp_path / "stripes.npz"


def told(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> list[Dataset]:
    """Snapshots score these accuracies, in order; on which data they were tested."""
    seen: list[Dataset] = []
    given = iter(accuracies)

    def score(name: str, images: Any, labels: Any, data: Dataset, *args: Any, **options: Any) -> evaluation.Score:
        seen.append(data)
        return evaluation.Score(name, "convnet", "quick", 1, (next(given),), 0.1)

    monkeypatch.setattr(evaluation, "score", score)
    return seen


def rows_of(images: torch.Tensor) -> set[bytes]:
    return {bytes(image.numpy().tobytes()) for image in images}


def test_a_share_of_each_class_is_held_out_the_same_each_time_and_nothing_is_lost():
    data = several(3, per_class=8)
    apart = data.held_out(0.25)
    assert apart.validation
    images, labels = apart.validation
    assert labels.bincount().tolist() == [2, 2, 2] and apart.labels.bincount().tolist() == [6, 6, 6]
    assert rows_of(apart.images) | rows_of(images) == rows_of(data.images)
    assert rows_of(apart.images).isdisjoint(rows_of(images))
    assert apart.fingerprint == data.held_out(0.25).fingerprint != data.fingerprint
    assert apart.mean != data.mean  # measured anew
    assert_same(apart.test_images, data.test_images)
    assert_same((apart.validating.test_images, apart.validating.test_labels), (images, labels))
    assert_same(apart.to("cpu").validation, apart.validation)
    other = dataclasses.replace(data, test_images=data.images[:0], test_labels=data.labels[:0])
    assert apart.fingerprint != other.held_out(0.25).fingerprint


@pytest.mark.parametrize("best", [0, 1, 2, 3])
def test_the_snapshot_that_is_best_on_validation_becomes_the_result(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
):
    accuracies = [50.0] * 4
    accuracies[best] = 60.0
    with monkeypatch.context() as patch:
        seen = told(patch, accuracies)
        result = accdd.distill(file, out=tmp_path / "run", settings=SETTINGS)
    listed = snapshots(tmp_path / "run")
    assert [each.sweep for each in listed] == [0, 1, 2, 4] and len(seen) == 4
    kept = read_snapshot(listed[best]).flatten(0, 1)
    torch.testing.assert_close(result.distilled.images, kept, rtol=0, atol=2**-12)
    assert torch.equal(result.distilled.images, kept) == (best < 3)  # the end is kept as it was, not rounded
    assert_same(accdd.load(tmp_path / "run").images, result.distilled.images)
    chosen = result.distilled.info["chosen"]
    assert chosen["sweep"] == listed[best].sweep and [each["accuracy"] for each in chosen["looks"]] == accuracies
    assert (chosen["images"], "choosing" in result.seconds) == (4, True)
    (score,) = accdd.evaluate(tmp_path / "run", seeds=1, epochs=1)  # the data is known again
    assert score.n == 1


def test_of_equal_snapshots_the_latest_is_chosen(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told(monkeypatch, [50.0] * 6)
    result = accdd.distill(file, out=tmp_path / "run", settings=SETTINGS)
    last = accdd.distill(file, out=tmp_path / "last", settings=SETTINGS | {"loop.snapshots": 1})
    assert result.distilled.info["chosen"]["sweep"] == 4
    assert_same(result.distilled.images, last.distilled.images)


def test_what_is_held_out_is_not_learned_from_and_what_is_for_testing_is_not_looked_at(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    learned_from: list[Dataset] = []
    build = pool.build

    def watching(data: Dataset, *args: Any) -> Any:
        learned_from.append(data)
        return build(data, *args)

    monkeypatch.setattr(pool, "build", watching)
    seen = told(monkeypatch, [50.0] * 4)
    accdd.distill(file, out=tmp_path / "run", settings=SETTINGS)
    whole = accdd.data.load(file)  # pyright: ignore[reportAttributeAccessIssue]
    (data,) = learned_from
    for looked in seen:
        assert rows_of(looked.test_images).isdisjoint(rows_of(whole.test_images))
        assert rows_of(looked.test_images).isdisjoint(rows_of(data.images))
        assert rows_of(looked.test_images) | rows_of(data.images) == rows_of(whole.images)


def test_a_run_that_was_stopped_while_it_chose_chooses_when_it_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        told(patch, [60.0])
        accdd.distill(file, out=tmp_path / "run", settings=SETTINGS)
    told(monkeypatch, [60.0, 50.0, 50.0, 50.0])
    result = accdd.resume(tmp_path / "run")
    assert result.distilled.info["chosen"]["sweep"] == 0


def test_networks_that_were_trained_to_choose_by_are_found_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = accdd.distill(file, out=tmp_path / "first", settings=SETTINGS)
    assert len(list((cache_folder() / "scores").glob("*.json"))) == 4 * choosing.NETWORKS
    monkeypatch.setattr(trials, "run", None)
    second = accdd.distill(file, out=tmp_path / "second", settings=SETTINGS)
    assert second.distilled.info["chosen"] == first.distilled.info["chosen"]


def test_choosing_is_foretold(file: Path):
    told = {**SETTINGS, "loop.snapshots": 3, "score.epochs": 4}
    assert accdd.forecast(file, settings=told).seconds["choosing"] > 0
    assert "choosing" not in accdd.forecast(file, settings={**told, "score.choose": "last"}).seconds


@pytest.mark.parametrize("changes", [{"out": None}, {"loop.snapshots": 0}, {"alone": True}], ids=str)
def test_where_there_is_nothing_to_choose_from_a_message_says_so(file: Path, tmp_path: Path, changes: dict[str, Any]):
    settings, out, words = {**SETTINGS, **changes}, changes.get("out", tmp_path / "run"), "a run folder.*--out FOLDER"
    source: Any = file
    if settings.pop("alone", False):
        data = several(2, per_class=1)
        source = (data.images.numpy(), data.labels.numpy(), data.test_images.numpy(), data.test_labels.numpy())
        words = "no validation split, and every class has only one image"
    settings.pop("out", None)
    with pytest.raises(InputError, match=words):
        accdd.distill(source, out=out, settings=settings)
    assert not (tmp_path / "run").exists()
