"""The loop over the whole matrix of sources, factors and distances; its draws; and what one step is."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import (
    DISTANCES,
    FACTORS,
    SIZE,
    SOURCES,
    Pool,
    assert_same,
    early_stage,
    fresh,
    problem,
    settings,
    stripes,
)
from torch import Tensor

from accdd import defaults, engine, loop, synthetic, training
from accdd.config import Settings
from accdd.data import Dataset
from accdd.keys import Key
from accdd.loop import State, distill


def resolved(data: Dataset, changes: Mapping[str, Any]) -> Settings:
    return defaults.resolve(settings(changes), data)


def run(data: Dataset, pool: Pool, changes: Mapping[str, Any], make=early_stage) -> list[State]:
    given = resolved(data, changes)
    assert given.match.distance and given.images.factor
    pieces = problem(data, distance=given.match.distance, factor=given.images.factor)
    return list(distill(data, pieces, make(pool), given))


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_combination_runs_and_the_seed_decides_every_byte(
    data: Dataset, early_models: Pool, make, factor: int, distance: str
):
    changes = {"images.factor": factor, "match.distance": distance}
    states = run(data, early_models, changes, make)
    assert [state.sweep for state in states] == [0, 1, 2, 3, 4]
    assert [len(state.losses) for state in states] == [0, 2, 2, 2, 2]
    for before, after in itertools.pairwise(states):
        assert after.images.shape == (2, 2, 3, SIZE, SIZE)
        assert after.images.isfinite().all() and after.losses.isfinite().all() and (after.losses > 0).all()
        assert (after.images != before.images).flatten(1).any(1).all()
    assert_same(run(data, early_models, changes, make), states)
    other = run(data, early_models, changes | {"seed": 1}, make)
    assert not torch.equal(other[-1].images, states[-1].images)


@pytest.mark.parametrize("start", ["noise", "random", "mixed"])
def test_without_steps_there_is_only_the_start(data: Dataset, early_models: Pool, start: str):
    (state,) = run(data, early_models, {"loop.steps": 0, "images.start": start, "images.factor": 2})
    expected = synthetic.start(data, start, ipc=2, factor=2, shrink="area", key=Key(0))
    assert state.sweep == 0
    assert_same(state.images, expected)


def test_without_a_number_of_steps_the_loop_goes_on_and_begins_the_same(data: Dataset, early_models: Pool):
    given = resolved(data, {"loop.steps": None, "loop.budget": 60})
    assert given.loop.steps is None
    endless = distill(data, problem(data), early_stage(early_models), given)
    assert_same(list(itertools.islice(endless, 5)), run(data, early_models, {}))


def test_longer_runs_begin_with_the_shorter_ones(data: Dataset, early_models: Pool):
    assert_same(run(data, early_models, {"loop.steps": 3})[:5], run(data, early_models, {"loop.steps": 2}))


def test_states_are_kept_and_not_written_over(data: Dataset, early_models: Pool):
    given = resolved(data, {})
    copies, states = [], []
    for state in distill(data, problem(data), early_stage(early_models), given):
        states.append(state)
        copies.append(state.images.clone())
    assert_same([state.images for state in states], copies)


def test_the_loop_changes_neither_data_nor_pool(data: Dataset, early_models: Pool):
    before = [data.images.clone(), *(m.parameters["convs.0.weight"].clone() for m in early_models)]
    run(data, early_models, {"train.lr": 1.0})
    assert_same([data.images, *(m.parameters["convs.0.weight"] for m in early_models)], before)


@pytest.mark.parametrize("ipc", [1, 10])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_images_descend_by_the_effective_step_with_the_momentum_of_a_whole_sweep(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch, ipc: int, momentum: float
):
    slopes = iter([1.0, -2.0, 4.0, 3.0])

    def given_slopes(*args: Any) -> tuple[Tensor, Tensor]:
        return torch.ones(2), torch.full_like(args[3], next(slopes))

    monkeypatch.setattr(engine, "sweep", given_slopes)
    states = run(data, early_models, {"ipc": ipc, "images.lr": 1e-3, "images.momentum": momentum})
    # The reference steps all images after each of the 2 classes; below 28 pixels the size changes nothing.
    lr, left = 1e-3 * ipc / 10 * (1 + momentum), momentum**2
    expected, velocity = states[0].images, 0.0
    for index, slope in enumerate((1.0, -2.0, 4.0, 3.0)):
        if index == 2:
            expected = expected.clamp(0, 1)  # a new outer step begins
        velocity = left * velocity + slope
        expected = expected - lr * velocity
        torch.testing.assert_close(states[index + 1].images, expected)


def test_images_are_clamped_when_a_network_is_drawn_and_only_then(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Tensor] = []
    sweep = engine.sweep

    def watching(*args: Any) -> tuple[Tensor, Tensor]:
        seen.append(args[3].clone())
        return sweep(*args)

    monkeypatch.setattr(engine, "sweep", watching)
    states = run(data, early_models, {"images.lr": 1e3})
    assert states[1].images.max() > 1 and states[2].images.max() > 1
    for index, images in enumerate(seen):
        before = states[index].images
        assert_same(images, before.clamp(0, 1) if index in (0, 2) else before)


@pytest.mark.parametrize(("inner_steps", "train_images", "rounds"), [(1, 8, 0), (3, 8, 2), (3, 0, 0)])
def test_the_network_is_trained_between_the_sweeps_of_an_outer_step(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch, inner_steps: int, train_images: int, rounds: int
):
    called: list[int] = []
    train = training.train

    def counting(*args: Any, **options: Any):
        called.append(args[4].shape[1])
        return train(*args, **options)

    monkeypatch.setattr(training, "train", counting)
    run(data, early_models, {"loop.inner_steps": inner_steps, "loop.train_images": train_images})
    assert called == [8] * (2 * rounds)


def test_each_sweep_of_an_outer_step_meets_a_network_trained_further(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    weights: list[Tensor] = []
    sweep = engine.sweep

    def watching(*args: Any) -> tuple[Tensor, Tensor]:
        weights.append(args[1]["convs.0.weight"].detach().clone())
        return sweep(*args)

    monkeypatch.setattr(engine, "sweep", watching)
    run(data, early_models, {})
    assert not torch.equal(weights[0], weights[1])
    weights.clear()
    run(data, early_models, {"loop.train_images": 0})
    assert_same(weights[0], weights[1])


def test_with_one_network_and_all_real_images_the_matching_loss_falls(data: Dataset, early_models: Pool):
    # Nothing is random from sweep to sweep here, so this is plain descent of one function per class.
    changes = {"ipc": 10, "loop.steps": 1, "loop.inner_steps": 40, "loop.train_images": 0, "images.start": "noise",
               "images.lr": 1.0, "match.real_batch": 12, "match.augment": []}  # fmt: skip
    losses = torch.stack([state.losses for state in run(data, early_models, changes)[1:]])
    assert (losses[-1] < 0.3 * losses[0]).all()


def test_a_fresh_source_gives_another_network_at_every_outer_step(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    weights: list[Tensor] = []

    def watching(*args: Any) -> tuple[Tensor, Tensor]:
        weights.append(args[1]["convs.0.weight"].detach().clone())
        return torch.ones(2), torch.zeros_like(args[3])

    monkeypatch.setattr(engine, "sweep", watching)
    run(data, early_models, {"loop.inner_steps": 1, "loop.steps": 4}, fresh)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))


# Draws --------------------------------------------------------------------------------------------------------


def drawn(
    data: Dataset, changes: Mapping[str, Any], *, factor: int = 2, step: int = 0, formation: str = "uniform"
) -> list[engine.Sweep]:
    given = resolved(data, {"loop.inner_steps": 5, **changes})
    pieces = problem(data, factor=factor, formation=formation, bound=given.match.synthetic_batch)
    return loop.draw(data, pieces, given, Key(0).at("step", step))


def test_real_batches_hold_images_of_their_class_without_repetition(data: Dataset):
    for sweep in drawn(data, {"match.real_batch": 10}):
        for label in (0, 1):
            assert (data.labels[sweep.real[label]] == label).all()
            assert len(sweep.real[label].unique()) == 10


def test_a_class_smaller_than_the_real_batch_fills_it_with_its_own_images():
    small = stripes(per_class=3)
    for sweep in drawn(small, {"match.real_batch": 64}):
        assert sweep.real.shape == (2, 64)
        for label in (0, 1):
            assert (small.labels[sweep.real[label]] == label).all()


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("bound", "ipc"), [(128, 3), (5, 3), (1, 1)])
def test_subsets_are_distinct_decoded_images_up_to_the_bound(data: Dataset, factor: int, bound: int, ipc: int):
    count = ipc * factor**2
    for sweep in drawn(data, {"match.synthetic_batch": bound, "ipc": ipc}, factor=factor):
        assert sweep.subset.shape == (2, min(bound, count))
        for row in sweep.subset:
            assert len(row.unique()) == len(row) and row.min() >= 0 and row.max() < count


@pytest.mark.parametrize(
    ("formation", "bound", "count", "size"),
    [("uniform", 128, 12, 12), ("multi", 128, 15, 15), ("multi", 10, 15, 10), ("bounded", 128, 12, 12),
     ("bounded", 10, 6, 6), ("bounded", 3, 3, 3)],
)  # fmt: skip
def test_subsets_are_drawn_from_what_the_formation_makes(
    data: Dataset, formation: str, bound: int, count: int, size: int
):
    # Of 3 images at factor 2, a bound of 10 has room for (10 - 3) // 4 = 1 as 4, and the others as they are.
    changes = {"ipc": 3, "match.synthetic_batch": bound, "loop.inner_steps": 40}
    subsets = torch.stack([sweep.subset for sweep in drawn(data, changes, formation=formation)])
    assert subsets.shape == (40, 2, size)
    assert subsets.unique().tolist() == list(range(count))


def test_every_decoded_image_takes_part_in_time(data: Dataset):
    sweeps = drawn(data, {"match.synthetic_batch": 2, "ipc": 2, "loop.inner_steps": 60})
    for label in (0, 1):
        assert len(torch.stack([sweep.subset[label] for sweep in sweeps]).unique()) == 8


def test_classes_sweeps_and_outer_steps_draw_apart(data: Dataset):
    sweeps = drawn(data, {"match.real_batch": 12}) + drawn(data, {"match.real_batch": 12}, step=1)
    brightness = torch.stack([sweep.siamese["brightness"] for sweep in sweeps])  # (sweeps, classes, 1)
    assert brightness.shape == (10, 2, 1)
    assert len(brightness.unique()) == 20
    orders = torch.stack([sweep.real for sweep in sweeps])
    assert len(orders.unique(dim=0)) == 10


def test_no_augmentation_draws_nothing(data: Dataset):
    assert all(sweep.siamese == {} for sweep in drawn(data, {"match.augment": []}))


@pytest.mark.parametrize(("wanted", "got"), [(1, 8), (8, 8), (9, 16), (24, 24), (1000, 24)])
def test_the_network_sees_whole_batches_of_real_images_without_repetition(data: Dataset, wanted: int, got: int):
    order = loop.train_order(data, settings({"loop.train_images": wanted}), Key(0))
    assert len(order) == got == len(order.unique())
    assert order.min() >= 0 and order.max() < 24
