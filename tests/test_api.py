"""The Python functions: arrays in, a result, scores and tensors out, and progress told on the way."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from helpers import assert_same

import accdd
from accdd import config, engine, evaluation, files, networks, scoring, selection
from accdd import data as data_
from accdd.ahead import build_targets
from accdd.config import Data, Settings
from accdd.data import Dataset
from accdd.evaluation import sets
from accdd.execution import PLAIN
from accdd.keys import Key
from accdd.run import words

TINY = {"pool.networks": 1, "pool.epochs": 1, "network.width": 4, "train.batch": 8, "loop.steps": 2}
SCORED = {**TINY, "score.seeds": 2, "score.epochs": 1}
UNSCORED = {**TINY, "score.seeds": 0}


class Recorder:
    """A reporter that keeps what it is told: notes, and for each phase its name and shares."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[tuple[str, list[float]]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, name: str) -> None:
        self.phases.append((name, []))

    def update(self, share: float, detail: str = "") -> None:
        assert isinstance(detail, str)
        self.phases[-1][1].append(share)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    stripes = helpers.stripes()
    return stripes.images.numpy(), stripes.labels.numpy()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, arrays: tuple[np.ndarray, np.ndarray]) -> accdd.Result:
    root = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(root / "cache"))
        return accdd.distill(arrays, ipc=2, out=root / "run", settings={**SCORED, "images.factor": 2})


@pytest.mark.parametrize("targets", [0, 50])
def test_ten_learned_digits_are_worth_more_than_ten_random_ones_by_default(targets: int):
    told = {"targets.count": targets, "loop.steps": 100, "score.seeds": 2, "score.epochs": 300, "compile": "never"}
    learned, random = accdd.distill("digits", settings=told).scores
    assert learned.mean > random.mean + 5


def test_arrays_become_a_result_with_verdict_and_scores_beside_random(scored: accdd.Result):
    assert scored.distilled.images.shape == (4, 3, 8, 8) and scored.distilled.ipc == 2
    own, random = scored.scores
    assert [(score.set, score.network, score.n) for score in scored.scores] == [
        ("distilled", "convnet", 2),
        ("random", "convnet", 2),
    ]
    assert "4 images (2 per class)" in scored.verdict
    assert (
        f"of arrays train a network to {own.mean:.1f} ± {own.std:.1f} % (n = 2, protocol quick, 1 epochs)"
        in scored.verdict
    )
    assert f"random real images to {random.mean:.1f} ± {random.std:.1f} %" in scored.verdict
    assert scored.verdict.startswith("NO BETTER THAN RANDOM") == (own.mean <= random.mean)
    assert all(seconds >= 0 for seconds in scored.seconds.values())
    assert set(scored.seconds) == {"pool", "distilling", "scoring"}


@pytest.mark.parametrize(
    ("means", "loud"),
    [((60, 50), ""), ((50, 50), "NO BETTER THAN RANDOM IMAGES: "), ((60, 50, 70, 55), ""),
     ((60, 50, 40, 55), "NO BETTER THAN RANDOM IMAGES on mlp: ")],
)  # fmt: skip
def test_a_set_that_is_no_better_than_random_images_on_any_network_says_so_loudly(means: tuple[int, ...], loud: str):
    names = [(network, kind) for network in ("convnet", "mlp") for kind in ("distilled", "random")]
    scores = [
        evaluation.Score(kind, network, "quick", 10, (mean, mean), 1.0)
        for (network, kind), mean in zip(names, means, strict=False)
    ]
    said = words.verdict(helpers.stripes(), Settings(ipc=2), scores, 5, {"distilling": 1.0})
    assert said.startswith(f"{loud}4 images (2 per class) of ")
    assert ("mlp to" in said) == (len(means) > 2)


def test_beside_a_run_s_set_stand_random_images_drawn_again_for_every_network():
    data = helpers.stripes()
    result = accdd.distill(data, ipc=2, settings={**TINY, "score.seeds": 3, "score.epochs": 2})
    distilled, random = result.scores
    draws = [selection.random(data, 2, Key(0).at("random", draw)).flatten() for draw in range(3)]
    assert not torch.equal(draws[0], draws[1])
    network = networks.architecture(config.Network(**result.distilled.info["settings"]["network"]), 3, 8, 2)
    expected = evaluation.score(
        "random", data.images, data.labels, data, network, evaluation.PROTOCOLS["quick"],
        evaluation.Way(2), mean=data.mean, std=data.std, keys=evaluation.network_keys(Key(0), 3),
        rows=torch.stack(draws),
    )  # fmt: skip
    assert random.accuracies == expected.accuracies and (random.set, random.beside) == ("random", "distilled")
    assert random.seed == distilled.seed == 0 and random.tested == distilled.tested  # paired, network by network
    both = accdd.evaluate(
        result.distilled, test=data, data=data, protocol="quick", epochs=2, seeds=3, baselines=["random"]
    )
    assert [score.accuracies for score in both] == [distilled.accuracies, random.accuracies]
    assert [score.found for score in both] == [3, 3]  # trained once
    assert 0 < result.seconds["scoring"] == pytest.approx(sum(score.seconds for score in both), abs=0.02)


def test_what_a_run_returns_is_what_it_wrote(scored: accdd.Result):
    assert scored.out is not None
    for folder in (scored.out, scored.out / "distilled", str(scored.out)):
        read = accdd.load(folder)
        assert_same(read.images, scored.distilled.images)
        assert_same(read.labels, scored.distilled.labels)
        assert read.info == json.loads(json.dumps(scored.distilled.info))  # tuples become lists in JSON


def test_a_loaded_set_decodes_into_training_images(scored: accdd.Result):
    assert scored.out is not None
    images, labels = accdd.load(scored.out).decode()
    assert (images.shape, images.dtype) == ((16, 3, 8, 8), torch.float32)
    assert (labels.shape, labels.dtype) == ((16,), torch.int64)
    assert 0 <= images.min() < images.max() <= 1
    assert labels.bincount().tolist() == [8, 8]


def test_a_distilled_value_is_saved_and_loaded(scored: accdd.Result, tmp_path: Path):
    scored.distilled.save(tmp_path / "mine")
    assert_same(accdd.load(tmp_path / "mine").images, scored.distilled.images)


def test_nothing_but_the_cache_is_written_without_out(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = accdd.distill(data, settings=UNSCORED)
    assert [path.name for path in tmp_path.iterdir()] == ["accdd-cache"]
    assert result.out is None and result.scores == () and result.verdict.endswith("not scored.")


def test_ipc_is_short_for_the_setting(data: Dataset):
    short = accdd.distill(data, 2, settings=UNSCORED)
    long = accdd.distill(data, settings={**UNSCORED, "ipc": 2})
    assert_same(short.distilled.images, long.distilled.images)


def test_settings_win_over_the_preset(data: Dataset):
    result = accdd.distill(data, preset="accdd-cifar10", settings={**UNSCORED, "loop.inner_steps": 3})
    assert result.distilled.info["sweeps"] == 6
    assert result.distilled.info["settings"]["loop"]["train_images"] == 2000


def test_without_steps_the_result_is_the_start_and_the_steps_change_it(data: Dataset):
    start, learned = (
        accdd.distill(data, settings={**UNSCORED, "images.start": "random", "loop.steps": steps}).distilled.images
        for steps in (0, 2)
    )
    # A random start is real images: all of them are among the data, to the last bit.
    real = data.images.float() / 255
    assert all((real == image).flatten(1).all(1).any() for image in start)
    assert not torch.equal(start, learned)


def test_the_plan_is_stored_with_the_run_and_with_the_set(scored: accdd.Result):
    assert scored.out is not None
    stored = json.loads((scored.out / "env.json").read_text())["plan"]
    assert stored == scored.distilled.info["plan"] == accdd.load(scored.out).info["plan"]
    assert set(stored) == {"precision", "compile_matching", "compile_training", "classes", "overlapping", "parts"}
    assert stored["classes"] == 2 and not stored["compile_matching"] and not stored["compile_training"]


def test_fp32_without_compilation_gives_the_same_bytes_twice_and_one_class_at_a_time_is_the_plain_plan(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    exact = {**UNSCORED, "compile": "never", "precision": "fp32", "loop.inner_steps": 2, "loop.train_images": 8}
    first, second, one_by_one = (
        accdd.distill(data, 2, settings={**exact, **changes}).distilled for changes in ({}, {}, {"match.classes": 1})
    )
    assert_same(second.images, first.images)
    assert one_by_one.info["plan"] == dataclasses.asdict(PLAIN) != first.info["plan"]
    torch.testing.assert_close(one_by_one.images, first.images, rtol=0, atol=1e-5)
    monkeypatch.setattr(engine, "sweeper", lambda problem, plan: functools.partial(engine.sweep, problem))
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "another"))  # so the pool is trained again, too
    assert_same(accdd.distill(data, 2, settings=exact).distilled.images, one_by_one.images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"settings": {"pool.epoch": 1}}, "Did you mean 'pool.epochs'"), ({"ipc": 0}, "'ipc' = 0"),
     ({"settings": {"match.augment": ["color", "crp"]}}, "'crp'"), ({"preset": "idc"}, "Unknown preset 'idc'"),
     ({"settings": {"compile": "maybe"}}, "'compile' = 'maybe': Input should be 'auto', 'always' or 'never'"),
     ({"ipc": 99}, "Class 'lying' has 12 training images")],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_told_before_anything_is_written(
    data: Dataset, tmp_path: Path, arguments: dict[str, Any], words: str
):
    with pytest.raises(accdd.InputError, match=words):
        accdd.distill(data, out=tmp_path / "run", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", [None, 3, ["a", "b"], (np.zeros((4, 8, 8)),)], ids=str)
def test_what_is_no_data_is_refused(source: Any):
    with pytest.raises(accdd.InputError, match=r"expected .*\(images, labels"):
        accdd.distill(source)


# Evaluating ---------------------------------------------------------------------------------------------------


def test_paths_and_values_are_scored_alike_on_given_data(scored: accdd.Result, arrays: tuple[np.ndarray, np.ndarray]):
    assert scored.out is not None
    scores = accdd.evaluate(
        [scored.out, str(scored.out / "distilled"), scored.distilled],
        test=arrays,
        networks=["convnet"],
        seeds=2,
        epochs=1,
    )
    assert [score.set for score in scores] == [str(scored.out), str(scored.out / "distilled"), "distilled"]
    assert len({score.accuracies for score in scores}) == 1
    assert all((score.n, score.protocol, score.epochs) == (2, "idc, 1 epochs", 1) for score in scores)
    (single,) = accdd.evaluate(scored.distilled, test=arrays, seeds=2, epochs=1)
    assert single.accuracies == scores[0].accuracies


def test_a_set_that_cannot_be_scored_is_told_before_another_is(
    scored: accdd.Result, arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluation, "score", None)
    good = scored.distilled
    uneven = dataclasses.replace(good, images=good.images[1:], labels=good.labels[1:])
    with pytest.raises(accdd.InputError, match="'distilled-2' has more images of some classes than of others"):
        accdd.evaluate([good, uneven], test=arrays, data=arrays, baselines=["random"])
    other = dataclasses.replace(good, class_names=("standing", "leaning"))
    with pytest.raises(accdd.InputError, match="differ from the set's"):
        accdd.evaluate([good, other], test=helpers.stripes())


def test_one_network_in_several_shapes(scored: accdd.Result, arrays: tuple[np.ndarray, np.ndarray]):
    names = ["convnet", "convnet/width=2", "convnet/width=6/depth=1"]
    scores = accdd.evaluate(
        scored.distilled, test=arrays, networks=names, seeds=2, epochs=3, data=arrays, baselines=["random"]
    )
    assert [score.network for score in scores] == [name for name in names for _ in range(2)]
    assert len(evaluation.comparisons(scores, Key(0))) == len(names)
    one = {"test": arrays, "seeds": 1, "epochs": 1, "data": arrays}
    scores = accdd.evaluate(scored.distilled, networks="convnet/width=2", baselines="random", **one)
    assert [(score.set, score.network) for score in scores] == [
        ("distilled", "convnet/width=2"), ("random", "convnet/width=2")
    ]  # fmt: skip


@pytest.mark.parametrize("size", [2, 1100])
def test_images_that_data_cannot_be_brought_to_are_refused(scored: accdd.Result, size: int):
    images = torch.zeros(2, 3, size, size)
    strange = dataclasses.replace(scored.distilled, images=images, labels=torch.arange(2), factor=1)
    data = np.zeros((4, 3, 8, 8), dtype=np.uint8), np.arange(4) % 2
    with pytest.raises(accdd.InputError, match=f"images have {size} x {size} pixels. Expected 4 to 1024"):
        accdd.evaluate(strange, test=data, networks=["mlp"], seeds=1, epochs=1)
    whole = torch.zeros(4, 3, size, size, dtype=torch.uint8), torch.arange(4) % 2
    with pytest.raises(accdd.InputError, match=f"{size} x {size} pixels. Expected at (least 4|most 1024)"):
        accdd.forecast(accdd.data.build("strange", whole, None), 1)


def test_the_test_split_of_the_given_data_decides_the_score(scored: accdd.Result, data: Dataset):
    wrong = helpers.stripes()
    wrong.test_labels.sub_(1).abs_()  # 0 and 1 exchanged
    (right,), (exchanged,) = (accdd.evaluate(scored.distilled, test=test, seeds=1, epochs=1) for test in (data, wrong))
    assert right.mean + exchanged.mean == pytest.approx(100)


def test_a_set_from_memory_asks_for_test_data(scored: accdd.Result):
    with pytest.raises(accdd.InputError, match=r"does not say where its data is.*--test DATA"):
        accdd.evaluate(scored.distilled, epochs=1)


def test_a_set_remembers_the_path_of_its_data(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    np.savez(tmp_path / "stripes.npz", images=arrays[0], labels=arrays[1])
    result = accdd.distill(tmp_path / "stripes.npz", settings=UNSCORED)
    (score,) = accdd.evaluate(result.distilled, seeds=1, epochs=1)
    (expected,) = accdd.evaluate(result.distilled, test=tmp_path / "stripes.npz", seeds=1, epochs=1)
    assert score.accuracies == expected.accuracies
    (tmp_path / "stripes.npz").unlink()
    with pytest.raises(accdd.InputError, match=r"is not at '.*stripes.npz'"):
        accdd.evaluate(result.distilled, seeds=1, epochs=1)


def test_data_that_changed_since_the_set_was_made_is_not_tested_on(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "stripes.npz"
    np.savez(path, images=arrays[0], labels=arrays[1])
    result = accdd.distill(path, settings=UNSCORED)
    images = arrays[0].copy()
    images[0, 0, 0, 0] ^= 1
    np.savez(path, images=images, labels=arrays[1])
    monkeypatch.chdir(tmp_path)
    for test in (None, path, "stripes.npz", "./stripes.npz"):  # however it is typed
        with pytest.raises(accdd.InputError, match="has changed since the set was made"):
            accdd.evaluate(result.distilled, test=test, seeds=1, epochs=1)
    with pytest.raises(accdd.InputError, match=r"has changed since the set was made.*--data DATA"):
        evaluation.training_data(result.distilled, None)
    assert len(evaluation.training_data(result.distilled, path).images) > 0  # said to be the ones to choose from
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "stripes.npz")
    with pytest.raises(accdd.InputError, match=r"has the name and the classes of the data .* images that were learned"):
        accdd.evaluate(result.distilled, test=moved, seeds=1, epochs=1)
    other = moved.rename(tmp_path / "elsewhere" / "others.npz")
    assert accdd.evaluate(result.distilled, test=other, seeds=1, epochs=1)
    with pytest.raises(accdd.InputError, match=r"is not at '.*stripes.npz' here. Expected its place: --test DATA"):
        accdd.evaluate(result.distilled, seeds=1, epochs=1)
    with pytest.raises(accdd.InputError, match=r"is not at '.*stripes.npz' here. Expected its place: --data DATA"):
        evaluation.training_data(result.distilled, None)


def test_another_folder_of_the_same_name_is_other_data(tmp_path: Path):
    own = {"path": str(tmp_path / "photos"), "name": "photos"}
    assert sets._is_origin(tmp_path / "photos", own) and not sets._is_origin("photos", own)
    assert sets._is_origin("mnist", {"path": "/data/mnist", "name": "mnist"}) and sets._is_origin("a", {"name": "a"})


def test_test_images_with_other_channels_are_refused_for_that(arrays: tuple[np.ndarray, np.ndarray]):
    distilled = accdd.distill(arrays, settings=UNSCORED).distilled
    size, other = distilled.images.shape[-1], 4 - distilled.images.shape[1]
    images = np.repeat(arrays[0][:, :1], other, axis=1)
    with pytest.raises(accdd.InputError, match=f"has 2 classes of {other} x {size} x {size}, the set"):
        evaluation.test_data(distilled, (images, arrays[1]))


@pytest.mark.parametrize(
    ("mine", "theirs", "found"),
    [
        ("0 1 2", "ant bee cat", None), ("ant bee cat", "0 1 2", None), ("0 1 2", "00 01 02", None),
        ("1 2 3", "0 1 2", None), ("ant bee cat", "ant cat bee", ("bee", "cat")), ("0 1 10 2", "0 1 2 3", ("10", "2")),
        ("0 1 2 3", "0 1 10 2", ("2", "10")), ("0 1 10 2", "0 1 10 2", None), ("0 bee", "0 cat", ("bee", "cat")),
    ],
)  # fmt: skip
def test_classes_are_compared_by_name_and_numbers_by_order(mine: str, theirs: str, found: tuple[str, str] | None):
    assert sets._first_difference(mine.split(), theirs.split()) == found


def test_a_full_disk_is_said_before_any_network_is_trained(
    arrays: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    told = {**UNSCORED, "targets.count": 10, "loop.inner_steps": 1, "loop.train_images": 0}
    for begin in (
        lambda: accdd.distill(arrays, settings=told), lambda: accdd.forecast(arrays, 1, settings=told),
        lambda: build_targets(arrays, 10, settings=told),
    ):  # fmt: skip
        with pytest.raises(accdd.InputError, match="10 targets need"):
            begin()
    assert not (files.cache_folder() / "pools").exists()


def test_other_data_without_a_test_split_is_tested_on_whole(arrays: tuple[np.ndarray, np.ndarray]):
    result = accdd.distill(arrays, settings=UNSCORED)
    other = (255 - arrays[0], arrays[1])
    assert len(evaluation.test_data(result.distilled, other).test_labels) == len(arrays[1])
    assert "no test split: all tested on" in evaluation.test_data(result.distilled, other).notes
    own = evaluation.test_data(result.distilled, arrays)
    assert 0 < len(own.test_labels) < len(arrays[1])  # the rest was learned from


def test_settings_are_chosen_by_training_images_that_were_held_out(data: Dataset, tmp_path: Path):
    told = {**SCORED, "data.held_out": 0.25}
    result = accdd.distill(data, settings=told, out=tmp_path / "run")
    assert all(score.protocol == "quick, 1 epochs, held out" for score in result.scores)
    tested = evaluation.test_data(result.distilled, data)
    assert len(tested.images) + len(tested.test_images) == len(data.images) and tested.tests_on_held_out
    assert any(torch.equal(tested.test_images[0], image) for image in data.images)
    assert tested.notes[-1] == "tested on 25 % of each class's training images, held out, and not on test images"
    assert data_.load(tested, Data(held_out=0.25)) is tested  # not a second time
    assert "accuracy on training images that were held out" in result.verdict
    (score,) = accdd.evaluate(tmp_path / "run", test=data, seeds=1, epochs=1)
    assert score.protocol == "idc, 1 epochs, held out" and score.tested == tested.test_fingerprint

    other = dataclasses.replace(data, images=255 - data.images)  # somebody else's, with a test split of its own
    (score,) = accdd.evaluate(tmp_path / "run", test=other, seeds=1, epochs=1)
    assert score.protocol == "idc, 1 epochs" and score.tested == other.test_fingerprint
    assert len(evaluation.training_data(result.distilled, other).images) == len(other.images)
    chosen_from = evaluation.training_data(result.distilled, data).images
    assert not any(torch.equal(image, held) for image in chosen_from for held in tested.test_images)


@pytest.mark.parametrize(("affordable", "step"), [(0, "gradient"), (50, "normalised")])
def test_images_step_as_suits_the_targets_that_the_budget_leaves(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, affordable: int, step: str
):
    monkeypatch.setattr("accdd.targets.Bank.afford", lambda *args: affordable)
    changes = {"loop.inner_steps": 1, "loop.train_images": 0, "loop.steps": None, "loop.budget": 0.3}
    told = accdd.distill(data, settings=UNSCORED | changes).distilled.info["settings"]
    assert (told["targets"]["count"], told["images"]["step"]) == (affordable, step)


def test_a_run_that_diverges_stops_and_says_what_to_lower(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lost = torch.full((2,), torch.nan)
    monkeypatch.setattr(engine, "sweeper", lambda *args: lambda *args: (lost, torch.zeros_like(args[2])))
    with pytest.raises(ArithmeticError, match=r"loss became nan.*Lower images.lr"):
        accdd.distill(data, out=tmp_path / "out", settings=UNSCORED)
    assert not (tmp_path / "out" / "distilled").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"seeds": 0}, "seeds=0"), ({"epochs": 0}, "epochs=0"),
     ({"networks": ["convnet", "resnt"]}, "Unknown network 'resnt'"), ({"protocol": "icd"}, "Unknown protocol 'icd'"),
     ({"device": "tpu"}, "Device 'tpu'"), ({"seed": -1}, "'seed' = -1"),
     ({"snapshots": True, "epochs": 1}, "Snapshots belong to a run folder")],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_told_before_any_network_is_trained(
    scored: accdd.Result, data: Dataset, arguments: dict[str, Any], words: str
):
    recorder = Recorder()
    with pytest.raises(accdd.InputError, match=words):
        accdd.evaluate(scored.distilled, test=data, reporter=recorder, **arguments)
    assert [name for name, _ in recorder.phases] in ([], ["reading data"])


# Progress -----------------------------------------------------------------------------------------------------


def assert_shares_rise_to_one(recorder: Recorder) -> None:
    for name, shares in recorder.phases:
        assert shares and shares == sorted(shares), name
        assert shares[0] >= 0 and shares[-1] == 1, name


def test_a_run_tells_its_phases_and_how_far_they_are(data: Dataset):
    recorder = Recorder()
    accdd.distill(data, settings=SCORED, reporter=recorder)
    assert [name.split(",")[0].split()[0] for name, _ in recorder.phases][:3] == [
        "reading",
        "early-stage",
        "distilling",
    ]
    assert any(name.startswith("scoring") for name, _ in recorder.phases)
    assert_shares_rise_to_one(recorder)
    assert recorder.notes[0].startswith("stripes: 2 classes, 24 training and 12 test images of 3 x 8 x 8")
    assert "convnet of depth 2 and width 4" in recorder.notes[1]


def test_a_budget_is_told_in_shares_too(data: Dataset):
    recorder = Recorder()
    settings = {**UNSCORED, "loop.steps": None, "loop.budget": 0.5}
    accdd.distill(data, settings=settings, reporter=recorder)
    shares = dict(recorder.phases)["distilling"]
    assert shares == sorted(shares) and len(shares) > 2 and shares[0] < 0.9
    assert_shares_rise_to_one(recorder)


def test_a_pool_and_an_evaluation_tell_how_far_they_are(scored: accdd.Result, data: Dataset):
    recorder = Recorder()
    pool = accdd.build_pool(data, settings={**TINY, "pool.epochs": [0, 1]}, reporter=recorder)
    assert [model.epoch for model in pool.models] == [0, 1] and pool.folder.is_dir()
    accdd.evaluate(scored.distilled, test=data, seeds=2, epochs=2, reporter=recorder)
    assert [name for name, _ in recorder.phases] == ["reading data", "early-stage models", "distilled on convnet"]
    assert_shares_rise_to_one(recorder)


@pytest.mark.parametrize("short", [{"loop.steps": 2}, {"loop.budget": 0.01}])
def test_a_pool_made_ahead_is_that_of_the_run_also_where_it_has_no_targets(data: Dataset, short: dict[str, float]):
    told = {"pool.networks": 1, "network.width": 4, "train.batch": 8, "score.seeds": 0, **short}
    assert accdd.build_pool(data, settings=told).models[0].epoch == 2, "images go down their gradients"
    assert accdd.distill(data, settings=told).distilled.info["settings"]["targets"]["count"] == 0
    assert len(list((files.cache_folder() / "pools").iterdir())) == 1


@pytest.mark.parametrize("start", ["noise", "normal", "random", "mixed", "kmeans"])
@pytest.mark.parametrize(("formation", "decoded"), [("uniform", 16), ("multi", 20), ("bounded", 16)])
def test_every_formation_distils_from_every_start(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, formation: str, decoded: int, start: str
):
    changes = {"images.factor": 2, "images.formation": formation, "images.start": start, "match.synthetic_batch": 7,
               "images.lr": 1.0}  # fmt: skip
    result = accdd.distill(arrays, ipc=2, out=tmp_path / "run", settings={**UNSCORED, **changes})
    began, ended = result.distilled.images, accdd.load(tmp_path / "run")
    assert_same(ended.images, began)
    images, labels = ended.decode()
    assert images.shape == (decoded, 3, 8, 8) and labels.bincount().tolist() == [decoded // 2] * 2
    # A bound is a matter of distilling; what it was is kept in the settings.
    assert ended.formation == ("multi" if formation == "multi" else "uniform")
    assert ended.info["settings"]["images"]["formation"] == formation


@pytest.mark.parametrize("formation", ["uniform", "multi", "bounded"])
@pytest.mark.parametrize(
    "changes",
    [{"method": "dc", "loop.inner_steps": 2, "loop.train_epochs": 1, "images.lr": 1.0},
     {"method": "dm", "targets.count": 10, "targets.real_batch": 8}],
    ids=["trained on the synthetic set", "on targets"],
)  # fmt: skip
def test_every_formation_goes_with_the_other_loops(
    arrays: tuple[np.ndarray, np.ndarray], formation: str, changes: dict[str, Any]
):
    formed = {"images.factor": 2, "images.formation": formation, "match.synthetic_batch": 7}
    start, learned = (
        accdd.distill(arrays, ipc=2, settings={**UNSCORED, **changes, **formed, "loop.steps": steps}).distilled.images
        for steps in (0, 3)
    )
    assert (start != learned).flatten(1).any(1).all()


def test_the_snapshots_of_a_set_are_decoded_as_the_set(arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path):
    changes = {"images.factor": 2, "images.formation": "multi", "loop.snapshots": 1}
    accdd.distill(arrays, ipc=2, out=tmp_path / "run", settings={**UNSCORED, **changes})
    versions = list(scoring._versions(tmp_path / "run", "run", accdd.load(tmp_path / "run"), True))
    assert len(versions) > 1
    assert all(images.shape == (20, 3, 8, 8) and labels.shape == (20,) for _, images, labels in versions)
