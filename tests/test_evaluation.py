"""Scores: learning what can be learned, statistics by hand, and the same score for the same key."""

import dataclasses
import json
import math
import operator
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, generator, network, stripes
from torch import Tensor

from accdd import augment, execution, files, training
from accdd.cli import options
from accdd.config import InputError, Notice, Train
from accdd.data import Dataset
from accdd.evaluation import PROTOCOLS, Case, Protocol, Score, Way, network_keys, score, suited, tables, trials
from accdd.evaluation.protocols import IDC, no_exceptions, tenth_halfway
from accdd.keys import Key
from accdd.networks import Forward, Parameters

FEW_EPOCHS = Protocol(
    name="few", epochs=12, recipe=Train(lr=0.05, batch=8, augment=("crop",), cutmix=0.5), source="these tests"
)


def scored(data: Dataset, images: Tensor | None = None, labels: Tensor | None = None, **changes: Any) -> Score:
    images = data.images if images is None else images
    labels = data.labels if labels is None else labels
    keys = network_keys(changes.pop("key", Key(0)), changes.pop("seeds", 2))
    architecture, protocol = changes.pop("architecture", network()), changes.pop("protocol", FEW_EPOCHS)
    own: dict[str, Any] = {name: changes.pop(name) for name in Way._fields if name in changes}
    way = Way(**{"precision": "fp32", **own})
    given: dict[str, Any] = {"mean": data.mean, "std": data.std, "keys": keys} | changes
    return score("random", images, labels, data, architecture, protocol, way, **given)


def test_separable_data_is_learned_by_every_network():
    data = stripes(tested=20)
    found = scored(data, seeds=3)
    assert len(found.accuracies) == found.n == 3
    assert min(found.accuracies) >= 95


def test_wrong_labels_are_learned_too_so_the_set_decides():
    data = stripes(tested=20)
    assert max(scored(data, labels=1 - data.labels).accuracies) <= 20


def test_the_test_split_is_only_tested_on(data: Dataset):
    # Networks that see one class alone answer with it: half of the test images.
    rows = data.class_index[0]
    assert scored(data, data.images[rows], data.labels[rows]).accuracies == (50.0, 50.0)


def test_networks_that_diverge_count_and_it_is_said(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    recipe = dataclasses.replace(FEW_EPOCHS.recipe, lr=1e12)
    monkeypatch.setattr(execution, "at_once", lambda networks, cost, where: 1)
    for found in (None, 2):  # in the cache
        with pytest.warns(Notice, match=r"2 of 2 networks \(convnet.*\) diverged .* on 'random' by few") as told:
            again = scored(data, protocol=dataclasses.replace(FEW_EPOCHS, recipe=recipe), content="few")
        assert (again.n, again.found, again.diverged) == (2, found, 2) and len(told) == 1
        assert "(n = 2, 2 diverged, protocol few)" in str(again)
        head, row = tables.rows([again])
        assert row[head.index("diverged")] == "2" and "diverged" not in tables.rows([scored(data, epochs=1)])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scored(data)


def test_mean_and_deviation_are_those_of_the_accuracies():
    found = Score("distilled", "convnet", "idc", 10, (50.0, 60.0, 76.0), 1.0)
    assert found.mean == pytest.approx(62.0)
    assert found.std == pytest.approx(math.sqrt((12**2 + 2**2 + 14**2) / 2))
    assert found.to_dict()["mean"] == 62.0 and found.to_dict()["std"] == 13.11 and found.to_dict()["n"] == 3


def test_one_network_has_no_deviation():
    assert Score("distilled", "convnet", "idc", 10, (50.0,), 1.0).std is None


def test_the_same_key_gives_the_same_score_and_the_networks_of_one_score_differ(data: Dataset):
    few: dict[str, Any] = {"epochs": 1, "seeds": 4}
    tested = torch.randint(256, (200, 3, 8, 8), generator=generator(), dtype=torch.uint8)
    wide = Dataset("wide", data.images, data.labels, data.class_names, tested, torch.arange(200) % 2)
    first = scored(wide, **few)
    assert scored(wide, **few).accuracies == first.accuracies
    assert len(set(first.accuracies)) > 1
    assert scored(wide, **few, key=Key(1)).accuracies != first.accuracies
    # More networks add to the first ones and do not change them.
    assert scored(wide, epochs=1, seeds=2).accuracies == first.accuracies[:2]


def test_bytes_and_floats_score_alike(data: Dataset):
    assert scored(data, data.images.float() / 255).accuracies == scored(data).accuracies


def test_epochs_that_are_given_replace_the_protocol_s_and_are_named(data: Dataset):
    told: list[float] = []
    found = scored(data, epochs=2, report=told.append)
    assert (found.epochs, found.protocol, found.set, found.network) == (2, "few, 2 epochs", "random", "convnet")
    assert told == [0.5, 1.0]  # both networks at once
    assert (scored(data).epochs, scored(data).protocol) == (12, "few")


@pytest.mark.parametrize(("at_once", "told"), [(1, 6), (2, 4), (3, 2)])
def test_a_score_is_the_same_however_many_networks_are_trained_side_by_side(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, at_once: int, told: int
):
    """Also where two are left of three, and where each network has images of its own."""
    rows = torch.stack([torch.randperm(24, generator=generator(index))[:11] for index in range(3)])
    changes: dict[str, Any] = {"epochs": 2, "rows": rows, "seeds": 3}
    monkeypatch.setattr(execution, "at_once", lambda networks, cost, where: 1)
    alone = [
        scored(data, data.images[own], data.labels[own], epochs=2, keys=[key]).accuracies[0]
        for own, key in zip(rows, network_keys(Key(0), 3), strict=True)
    ]
    monkeypatch.setattr(execution, "at_once", lambda networks, cost, where: at_once)
    shares: list[float] = []
    assert list(scored(data, report=shares.append, **changes).accuracies) == alone
    assert len(shares) == told and shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_a_score_is_tested_in_fp32_whatever_it_was_trained_in(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.dtype] = []
    correct = training.correct

    def watching(forward: Forward, parameters: Parameters, *args: Any, **options: Any) -> torch.Tensor:
        seen.extend(value.dtype for value in parameters.values())
        images = torch.rand(2, 3, 8, 8, generator=generator())
        assert_same(forward(parameters, images), Forward(network())(parameters, images))
        return correct(forward, parameters, *args, **options)

    monkeypatch.setattr(training, "correct", watching)
    scored(data, epochs=1, precision="bf16")
    assert set(seen) == {torch.float32}


def test_a_score_is_compiled_when_asked_and_not_for_a_few_steps(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    compiled_for: list[int | None] = []
    make_step = training.make_step

    def watching(*args: Any, **options: Any) -> training.Step:
        compiled_for.append(options.pop("compiled_for"))
        return make_step(*args, **options)

    monkeypatch.setattr(execution, "can_compile", lambda where: True)
    monkeypatch.setattr(training, "make_step", watching)
    for compile in ("never", "auto", "always"):
        scored(data, epochs=1, compile=compile)
    assert compiled_for == [None, None, 8]


def test_scoring_changes_no_images(data: Dataset):
    before = data.images.clone()
    scored(data, epochs=1)
    assert torch.equal(data.images, before)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_flips_except_where_a_mirrored_image_is_of_another_class(name: str):
    protocol = dataclasses.replace(PROTOCOLS[name], exceptions=no_exceptions)
    for data_name in ("digits", "mnist", "MNIST", "svhn", "owner/mnist", "mnist-png"):
        unflipped = suited(protocol, Case(data_name))
        assert set(unflipped.recipe.augment) == set(protocol.recipe.augment) - {"flip"}
        same = {"augment": protocol.recipe.augment}
        assert dataclasses.replace(unflipped.recipe, **same) == protocol.recipe  # pyright: ignore[reportArgumentType]
        assert unflipped.name.endswith(", no flip") == ("flip" in protocol.recipe.augment)
        assert unflipped.epochs_for(100) == protocol.epochs_for(100)
    for data_name in ("cifar10", "hf:owner/fashion-mnist", "animals"):
        assert suited(protocol, Case(data_name)) == protocol


@pytest.mark.parametrize(("count", "epochs"), [(8, 1000), (64, 1000), (65, 500), (640, 100), (100_000, 1)])
def test_the_quick_protocol_takes_about_1000_steps_whatever_the_number_of_images(count: int, epochs: int):
    assert PROTOCOLS["quick"].epochs_for(count) == epochs


def test_named_protocols_are_the_published_ones():
    published = {  # epochs, batch, augmentations, one of them, CutMix, share of the rate in the last epoch
        "dc": (300, 256, set(), False, 0, 0.1),
        "dsa": (1000, 256, set(augment.NAMES), True, 0, 0.1),
        "mtt": (1000, 256, set(augment.NAMES), True, 0, 0.1),
        "ddranking-hard": (1000, 128, set(augment.NAMES), True, 0, 0.1),
        "ddranking-plain": (1000, 128, set(), False, 0, 0.1),
    }
    for name, expected in published.items():
        rule, recipe = PROTOCOLS[name], PROTOCOLS[name].recipe
        assert rule.epochs
        last = rule.schedule(rule.epochs - 1, rule.epochs)
        assert (rule.epochs, recipe.batch, set(recipe.augment), recipe.one_of, recipe.cutmix, last) == expected
        assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (0.01, 0.9, 5e-4)
    assert all(rule.source and rule.cost and rule.name == name for name, rule in PROTOCOLS.items())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_trains_and_is_named_by_the_command(data: Dataset, name: str):
    keys = network_keys(Key(0), 2)
    given: dict[str, Any] = {"mean": data.mean, "std": data.std, "keys": keys}
    found = score("few", data.images, data.labels, data, network(), PROTOCOLS[name], Way(2, precision="fp32"), **given)
    assert (found.protocol, found.n) == (f"{name}, 2 epochs", 2)
    assert set(options.PROTOCOLS.strip(".").split(", ")) == set(PROTOCOLS)


def test_a_cache_that_cannot_be_written_loses_no_score(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    expected = scored(data, content="x")
    monkeypatch.setattr(files, "write_text", full)
    with pytest.warns(UserWarning, match=r"Scores cannot be kept in the cache \(No space left on device\)"):
        assert scored(data, content="y").accuracies == expected.accuracies


def test_the_rate_falls_to_a_tenth_halfway():
    assert [tenth_halfway(epoch, 5) for epoch in range(5)] == [1, 1, 0.1, 0.1, 0.1]
    assert [tenth_halfway(epoch, 1000) for epoch in (499, 500)] == [1, 0.1]
    assert tenth_halfway(0, 1) == training.fifth_twice(0, 1) == 1, "an only epoch has the whole rate"
    assert [training.fifth_twice(epoch, 2) for epoch in range(2)] == [1, pytest.approx(0.04)]
    assert [training.fifth_twice(epoch, 6) for epoch in (3, 4, 5)] == [1, 0.2, pytest.approx(0.04)]


def test_the_schedule_of_the_protocol_is_the_one_that_is_used(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    used: list[float] = []
    train = training.train

    def watching(*args: Any, **options: Any) -> Any:
        used.append(options["lr"])
        return train(*args, **options)

    monkeypatch.setattr(training, "train", watching)
    halving = dataclasses.replace(FEW_EPOCHS, schedule=lambda epoch, epochs: 0.5**epoch / epochs)
    keys = network_keys(Key(0), 1)
    given: dict[str, Any] = {"mean": data.mean, "std": data.std, "keys": keys}
    score("few", data.images, data.labels, data, network(), halving, Way(3), **given)
    assert used == pytest.approx([0.05 / 3, 0.025 / 3, 0.0125 / 3])


@pytest.mark.parametrize(
    ("data_name", "facts", "words", "augmented", "cutmix"),
    [
        ("mnist", {"factor": 2}, "idc, no CutMix, no flip", {"color", "crop", "scale", "rotate"}, 0),
        ("mnist", {"factor": 1}, "idc, no flip", {"color", "crop", "scale", "rotate"}, 0.5),
        ("fashion-mnist", {"factor": 2}, "idc", {"color", "crop", "scale", "rotate", "flip"}, 0.5),
        ("owner/svhn", {"ipc": 1}, "idc, no CutMix, cutout, no flip",
         {"color", "crop", "cutout", "scale", "rotate"}, 0),
        ("svhn", {"ipc": 1, "factor": 2}, "idc, no flip", {"color", "crop", "scale", "rotate"}, 0.5),
        ("svhn", {"ipc": 10}, "idc, no flip", {"color", "crop", "scale", "rotate"}, 0.5),
    ],
)  # fmt: skip
def test_idc_has_its_published_exceptions(
    data_name: str, facts: dict[str, Any], words: str, augmented: set[str], cutmix: float
):
    found = suited(PROTOCOLS["idc"], Case(data_name, **facts))
    assert (found.name, set(found.recipe.augment), found.recipe.cutmix) == (words, augmented, cutmix)
    assert found.epochs == 1000


@pytest.mark.parametrize(
    ("ipc", "factor", "classes", "epochs"),
    [(1, 1, 10, 3000), (10, 1, 10, 2000), (10, 3, 10, 1000), (20, 3, 10, 1000), (50, 3, 10, 500), (100, 3, 10, 300),
     (10, 1, 100, 1300), (10, 3, 100, 600), (20, 1, 100, 1000)],
)  # fmt: skip
def test_idc_trains_on_imagenet_for_as_long_as_published(ipc: int, factor: int, classes: int, epochs: int):
    found = suited(PROTOCOLS["idc"], Case("imagenet-10", ipc, factor, 224, classes))
    assert (found.epochs, found.recipe.cutmix) == (epochs, 1)
    expected = (0.1, 1e-4, 128) if classes == 100 else (0.01, 5e-4, 64)
    assert (found.recipe.lr, found.recipe.weight_decay, found.recipe.batch) == expected
    assert set(found.recipe.augment) == {"flip", "resized", "jitter", "lighting"}


def test_dc_augments_mnist_alone_and_then_trains_longer():
    found = suited(PROTOCOLS["dc"], Case("mnist"))
    assert (found.epochs, set(found.recipe.augment)) == (1000, {"crop", "scale", "rotate"})
    assert suited(PROTOCOLS["dc"], Case("fashion-mnist")) == PROTOCOLS["dc"]


def test_the_best_on_test_is_the_highest_look_and_changes_nothing_else(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    count = len(data.test_labels)
    looks = iter([0.5, 0.25, 0.75, 0.0, 0.5, 0.25])  # of two networks, epoch by epoch
    with monkeypatch.context() as patch:
        patch.setattr(training, "correct", lambda *args, **options: torch.arange(count) < next(looks) * count)
        found = scored(data, epochs=3, best_on_test=True)
    assert found.accuracies == (50.0, 25.0) and found.best_on_test == (75.0, 25.0)
    told = found.to_dict()
    assert told["mean"] == 37.5 and told["best_on_test"] == {"accuracies": (75.0, 25.0), "mean": 50, "std": 35.36}
    assert Score.from_dict(json.loads(json.dumps(told))) == found
    assert str(found) == "37.5 ± 17.7 % (n = 2, protocol few, 3 epochs); best on test 50.0 ± 35.4 %"
    plain, best = scored(data, epochs=3), scored(data, epochs=3, best_on_test=True)
    assert plain.accuracies == best.accuracies
    assert plain.best_on_test is None and "best_on_test" not in plain.to_dict()
    assert best.best_on_test and all(map(operator.ge, best.best_on_test, best.accuracies))


def test_there_are_a_hundred_looks_however_long_training_is(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trials, "LOOKS", 3)
    told: list[int] = []
    right = torch.ones(len(data.test_labels), dtype=torch.bool)
    monkeypatch.setattr(training, "correct", lambda *args, **options: told.append(1) or right)
    scored(data, seeds=1, epochs=7, best_on_test=True)
    assert len(told) == 4  # after 2, 4, 6 and 7 epochs


def test_a_score_of_no_networks_is_refused(data: Dataset):
    with pytest.raises(InputError, match="n = 0"):
        scored(data, seeds=0)


def test_the_idc_protocol_is_the_published_one():
    idc = PROTOCOLS["idc"]
    assert idc.epochs == 1000
    assert (idc.recipe.lr, idc.recipe.momentum, idc.recipe.weight_decay) == (0.01, 0.9, 5e-4)
    assert (idc.recipe.batch, idc.recipe.cutmix) == (64, 0.5)
    assert set(idc.recipe.augment) == {"color", "crop", "scale", "rotate", "flip"}


# Kept trials --------------------------------------------------------------------------------------------------


def kept() -> list[Path]:
    return sorted((files.cache_folder() / "scores").glob("*.json"))


def test_a_network_that_was_scored_is_found_and_more_seeds_cost_only_themselves(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    began: list[int] = []
    begin = training.begin
    monkeypatch.setattr(training, "begin", lambda all: began.append(len(all)) or begin(all))
    first = scored(data, content="stripes", seeds=2)
    assert sum(began) == 2 and len(kept()) == 2 and first.found is None
    again = scored(data, content="stripes", seeds=2)
    assert (sum(began), again, again.found) == (2, first, 2)  # the seconds, too, are those it took
    more = scored(data, content="stripes", seeds=3)
    assert sum(began) == 3 and more.accuracies[:2] == first.accuracies and more.found == 2
    assert more.accuracies == scored(data, seeds=3).accuracies
    scored(data, content="stripes", seeds=3, fresh=True)
    assert sum(began) == 9 and len(kept()) == 3


def test_everything_that_decides_a_score_names_another_trial(data: Dataset):
    turned = dataclasses.replace(data, test_images=255 - data.test_images)
    recipe = dataclasses.replace(FEW_EPOCHS.recipe, lr=0.04)
    rows = torch.arange(12).expand(1, -1)
    calls: list[dict[str, Any]] = [
        {}, {"content": "other"}, {"key": Key(7)}, {"epochs": 1}, {"best_on_test": True}, {"compile": "never"},
        {"precision": "bf16"}, {"rows": rows}, {"rows": rows + 1}, {"architecture": network(width=8)},
        {"protocol": dataclasses.replace(FEW_EPOCHS, recipe=recipe)},
        {"protocol": dataclasses.replace(FEW_EPOCHS, schedule=tenth_halfway)}, {"tested": turned},
        {"mean": (0.1, 0.2, 0.3)},
    ]  # fmt: skip
    for count, changes in enumerate(calls, 1):
        options = {"content": "stripes", "seeds": 1, "precision": "fp32"} | changes
        tested = options.pop("tested", data)
        scored(tested, data.images, data.labels, **options)
        assert len(kept()) == count, changes
    called = dataclasses.replace(FEW_EPOCHS, name="other")
    assert scored(data, content="stripes", seeds=1, precision="fp32", protocol=called).found == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"trial": {"accuracy": 99.0}}', "a digit"])
def test_a_damaged_trial_is_trained_again(data: Dataset, damage: str):
    first = scored(data, content="stripes", seeds=1)
    (file,) = kept()
    text = file.read_text()
    file.write_text(damage if damage != "a digit" else text.replace('"accuracy": ', '"accuracy": 1'))
    assert file.read_text() != text
    again = scored(data, content="stripes", seeds=1)
    assert again.found is None and again.accuracies == first.accuracies
    assert scored(data, content="stripes", seeds=1).found == 1


def test_what_was_tested_before_a_stop_is_kept(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    class Stop(Exception):
        pass

    def stop_in_second(share: float) -> None:
        if share > 0.5:
            raise Stop

    monkeypatch.setattr(execution, "at_once", lambda count, cost, where: 1)
    with pytest.raises(Stop):
        scored(data, content="stripes", seeds=2, report=stop_in_second)
    assert len(kept()) == 1
    assert scored(data, content="stripes", seeds=2).found == 1


def test_idc_trains_densenet_for_less_where_images_are_many():
    case = Case("cifar10", ipc=50, factor=2, network="densenet121")
    assert (suited(IDC, case).epochs, suited(IDC, case).name) == (400, "idc, 400 epochs for DenseNet")
    for other in (case._replace(ipc=10), case._replace(factor=1), case._replace(network="resnet10")):
        assert suited(IDC, other) is IDC
    assert suited(PROTOCOLS["quick"], case) is PROTOCOLS["quick"]
