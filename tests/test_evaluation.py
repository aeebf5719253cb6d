"""Scores: learning what can be learned, statistics by hand, and the same score for the same key."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from helpers import assert_same, generator, network, stripes
from torch import Tensor

from accdd import execution, selection, training
from accdd.config import Train
from accdd.data import Dataset
from accdd.evaluation import PROTOCOLS, Protocol, Score, beside_random, network_keys, score, suited
from accdd.keys import Key
from accdd.networks import Forward, Parameters

FEW_EPOCHS = Protocol(
    name="few", epochs=12, recipe=Train(lr=0.05, batch=8, augment=("crop",), cutmix=0.5), source="these tests"
)


def scored(data: Dataset, images: Tensor | None = None, labels: Tensor | None = None, **changes: Any) -> Score:
    images = data.images if images is None else images
    labels = data.labels if labels is None else labels
    keys = network_keys(changes.pop("key", Key(0)), changes.pop("seeds", 2))
    given = {"mean": data.mean, "std": data.std, "keys": keys, "precision": "fp32"} | changes
    return score("random", images, labels, data, network(), FEW_EPOCHS, **given)


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
    accuracy = training.accuracy

    def watching(forward: Forward, parameters: Parameters, *args: Any, **options: Any) -> float:
        seen.extend(value.dtype for value in parameters.values())
        images = torch.rand(2, 3, 8, 8, generator=generator())
        assert_same(forward(parameters, images), Forward(network())(parameters, images))
        return accuracy(forward, parameters, *args, **options)

    monkeypatch.setattr(training, "accuracy", watching)
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
    protocol = PROTOCOLS[name]
    for data_name in ("digits", "mnist", "MNIST", "svhn", "owner/mnist", "mnist-png"):
        unflipped = suited(protocol, data_name)
        assert set(unflipped.recipe.augment) == set(protocol.recipe.augment) - {"flip"}
        same = {"augment": protocol.recipe.augment}
        assert dataclasses.replace(unflipped.recipe, **same) == protocol.recipe  # pyright: ignore[reportArgumentType]
        assert unflipped.name == f"{protocol.name}, no flip"
        assert unflipped.epochs_for(100) == protocol.epochs_for(100)
    for data_name in ("cifar10", "hf:owner/fashion-mnist", "animals"):
        assert suited(protocol, data_name) == protocol


@pytest.mark.parametrize(("count", "epochs"), [(8, 1000), (64, 1000), (65, 500), (640, 100), (100_000, 1)])
def test_the_quick_protocol_takes_about_1000_steps_whatever_the_number_of_images(count: int, epochs: int):
    assert PROTOCOLS["quick"].epochs_for(count) == epochs


def test_beside_the_distilled_set_stands_one_of_random_images_drawn_again_for_every_network(data: Dataset):
    told: list[float] = []
    distilled, random = beside_random(
        data.images,
        data.labels,
        data,
        network(),
        FEW_EPOCHS,
        stored=1,
        seeds=3,
        seed=5,
        precision="fp32",
        report=told.append,
    )
    assert distilled.accuracies == scored(data, seeds=3, key=Key(5)).accuracies
    expected = []
    for draw in range(3):
        key = Key(5).at("random", draw)
        rows = selection.random(data, 1, key).flatten()
        expected.append(scored(data, data.images[rows], data.labels[rows], seeds=1, key=key).accuracies[0])
    assert (random.set, random.accuracies) == ("random", tuple(expected))
    assert told == sorted(told) and told[-1] == pytest.approx(1.0)


def test_the_idc_protocol_is_the_published_one():
    idc = PROTOCOLS["idc"]
    assert idc.epochs == 1000
    assert (idc.recipe.lr, idc.recipe.momentum, idc.recipe.weight_decay) == (0.01, 0.9, 5e-4)
    assert (idc.recipe.batch, idc.recipe.cutmix) == (64, 0.5)
    assert set(idc.recipe.augment) == {"color", "crop", "scale", "rotate", "flip"}
