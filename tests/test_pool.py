"""The model pool: what is kept and when, in which order, and that it is trained once."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Pool, assert_same, network, settings, stripes, trained

from accdd import augment, cache, execution, files, targets, training
from accdd.augmented_models import load_or_build, pool, source
from accdd.augmented_models.sources import drawn
from accdd.config import InputError
from accdd.data import Dataset
from accdd.defaults import resolve
from accdd.keys import Key
from accdd.networks import Architecture, Forward
from accdd.run import check

WITHOUT_AUGMENTATION = {"pool.augment": [[]], "train.augment": [], "train.cutmix": 0.0}


def built(data: Dataset, changes: Mapping[str, Any], shape: Architecture | None = None) -> Pool:
    return trained(data, shape or network(), settings(changes))


def refuse(*args: Any) -> None:
    raise AssertionError("trained although the cache had it")


def test_a_second_call_takes_the_pool_from_the_cache(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    given = settings({"pool.epochs": [0, 1]})
    first = load_or_build(data, network(), given)
    members = first.models
    assert_same([m.parameters for m in members], [m.parameters for m in trained(data, network(), given)])
    monkeypatch.setattr(pool, "build", refuse)
    second = load_or_build(data, network(), given)
    again = second.models
    assert (second.folder, second.seconds) == (first.folder, first.seconds)
    assert [(m.network, m.epoch) for m in again] == [(m.network, m.epoch) for m in members]
    assert [m.loss for m in again] == [m.loss for m in members]
    assert_same([m.parameters for m in again], [m.parameters for m in members])


def test_a_larger_pool_begins_with_a_smaller_one(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    asked: list[Sequence[int]] = []
    build = pool.build

    def watching(*args: Any) -> Any:
        asked.append(list(args[-1]))
        return build(*args)

    monkeypatch.setattr(pool, "build", watching)
    small, large, again = (load_or_build(data, network(), settings({"pool.networks": n})) for n in (1, 3, 2))
    assert asked == [[0], [1, 2]]
    assert small.folder == large.folder == again.folder
    assert_same([m.parameters for m in again.models], [m.parameters for m in large.models[:2]])
    assert_same([m.parameters for m in small.models], [m.parameters for m in large.models[:1]])
    assert small.seconds <= again.seconds <= large.seconds and large.seconds > 0


def test_a_pool_that_was_stopped_keeps_the_networks_that_were_done(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    train, left = pool._train_together, [1]

    def stopping(*args: Any) -> Any:
        if not left:
            raise RuntimeError
        left.pop()
        return train(*args)

    given = settings({"pool.networks": 3})  # each has a recipe of its own, and is trained alone
    expected = trained(data, network(), given)
    monkeypatch.setattr(pool, "_train_together", stopping)
    with pytest.raises(RuntimeError):
        load_or_build(data, network(), given)
    assert pool.missing(data, network(), given) == [1, 2]
    left[:] = [1, 1]  # what is missing, and no more
    models = load_or_build(data, network(), given).models
    assert not left and pool.missing(data, network(), given) == []
    assert [(m.network, m.epoch) for m in models] == [(0, 1), (1, 1), (2, 1)]
    assert_same([m.parameters for m in models], [m.parameters for m in expected])


def test_a_pool_that_was_stopped_goes_on_as_it_was_planned(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    """Compiling pays for many steps: what is missing is compiled if the whole was."""
    planned: list[float] = []
    plan = training.planned_step

    def watching(*args: Any, networks: int, steps: float, **more: Any) -> Any:
        planned.append(networks * steps)
        return plan(*args, networks=networks, steps=steps, **more)

    monkeypatch.setattr(training, "planned_step", watching)
    given = settings({"pool.networks": 3, "pool.augment": [["crop"]]})
    for networks in (None, [2]):
        trained(data, network(), given, networks=networks)
    assert planned == [9, 9]


def test_a_pool_is_known_to_the_cache_and_to_what_checks_it(data: Dataset):
    made = load_or_build(data, network(), settings())
    assert [(entry.path, entry.kind) for entry in cache.entries()] == [(made.folder, "pools")]
    found = check(made.folder)
    assert found.kind == "pool" and found.sound
    assert [part.name for part in found.parts] == ["pool.json", "000000", "000001"]


def test_a_cache_that_cannot_be_written_is_noticed_before_networks_are_trained(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    load_or_build(data, network(), settings({"pool.networks": 1}))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_text", full)
    monkeypatch.setattr(pool, "build", refuse)
    with pytest.raises(OSError, match="No space left"):
        load_or_build(data, network(), settings({"pool.networks": 2}))


def test_networks_are_looked_for_without_leaving_anything(data: Dataset):
    assert pool.missing(data, network(), settings({"pool.seed": 77})) == [0, 1]
    assert not list((files.cache_folder() / "pools").glob("*"))


def folder_of(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any], shape: Architecture | None = None
) -> Path:
    """Where a pool is kept; nothing is trained."""

    def initial(*args: Any) -> list[dict[int, Pool]]:
        member = pool.EarlyStageModel(0, 0.0, 0.0, network().initialise(Key(0)))
        return [{number: (member,) for number in args[-1]}]

    monkeypatch.setattr(pool, "build", initial)
    return load_or_build(data, shape or network(), settings(changes)).folder


@pytest.mark.parametrize(
    "changes",
    [{"pool.seed": 1}, {"precision": "bf16"}, {"compile": "never"},
     {"pool.epochs": 2}, {"pool.lr_scales": [1.0]}, {"pool.augment": [[]]}, {"pool.schedule": "falling"},
     {"train.lr": 0.02}, {"train.batch": 4}, {"train.cutmix": 0.0}, {"train.momentum": 0.0},
     {"train.weight_decay": 0.0}],
    ids=str,
)  # fmt: skip
def test_what_the_pool_depends_on_names_another_cache_entry(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    assert folder_of(data, monkeypatch, changes) != folder_of(data, monkeypatch, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"ipc": 3},
        {"seed": 1},
        {"compile": "always"},
        {"loop.steps": 9},
        {"perturb.use": False},
        {"pool.use": False},
        {"pool.draw": 1},
        {"images.lr": 1.0},
        {"score.seeds": 1},
    ],
    ids=str,
)
def test_what_the_pool_does_not_depend_on_finds_the_same_cache_entry(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
):
    assert folder_of(data, monkeypatch, changes) == folder_of(data, monkeypatch, {})


def test_other_data_and_another_network_name_other_cache_entries(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    folders = {
        folder_of(data, monkeypatch, {}),
        folder_of(stripes(per_class=13), monkeypatch, {}),
        folder_of(data, monkeypatch, {}, network(width=5)),
        folder_of(data, monkeypatch, {}, network(depth=1)),
    }
    assert len(folders) == 4


def test_members_are_ordered_by_network_then_epoch(data: Dataset):
    members = built(data, {"pool.epochs": [0, 0.5, 1, 2], "pool.networks": 2})
    assert [(m.network, m.epoch) for m in members] == [(n, e) for n in (0, 1) for e in (0, 0.5, 1, 2)]
    loaded = load_or_build(data, network(), settings({"pool.epochs": [0, 0.5, 1, 2], "pool.networks": 2})).models
    assert [(m.network, m.epoch) for m in loaded] == [(m.network, m.epoch) for m in members]


def test_a_pool_serves_runs_that_draw_from_some_of_its_epochs(data: Dataset):
    given = {"pool.epochs": [0, 0.5, 1]}
    kept = load_or_build(data, network(), settings(given))
    for draw, expected in ((None, [0, 0.5, 1]), (0.5, [0.5]), ([0, 1], [0, 1])):
        chosen = settings(given | {"pool.draw": draw, "perturb.use": False})
        members = drawn(kept, chosen)
        assert [(m.network, m.epoch) for m in members] == [(n, epoch) for n in range(2) for epoch in expected]
        weights = source(network(), data.device, chosen, kept)(Key(0))
        assert any(all(torch.equal(value, m.parameters[name]) for name, value in weights.items()) for m in members)


def test_targets_drawn_from_some_epochs_are_others(data: Dataset):
    def parts(draw: Any) -> dict[str, Any]:
        return targets.key_parts(data, settings({"pool.epochs": [0, 1], "pool.draw": draw}))

    assert parts(0) != parts(None) != parts(1) != parts(0) and "draw" not in parts(None)


def test_an_epoch_that_is_not_kept_is_not_drawn(data: Dataset):
    with pytest.raises(InputError, match=r"pool.draw has 2, but networks are kept at 0, 1 epochs.*2 among pool.epochs"):
        resolve(settings({"pool.epochs": [0, 1], "pool.draw": [1, 2]}), data)


def test_epoch_0_is_the_initialisation_with_no_loss_yet(data: Dataset):
    for member in built(data, {"pool.epochs": 0, "pool.networks": 2}):
        assert_same(member.parameters, network().initialise(Key(0).at("pool", member.network)))
        assert member.loss is None


def test_every_epoch_asked_for_is_kept_also_where_two_fall_on_one_step(data: Dataset):
    # 24 images in batches of 8: 3 steps an epoch, so 0.1 epochs round to step 0.
    members = built(data, {"pool.epochs": [0, 0.1, 1], "pool.networks": 1})
    assert [member.epoch for member in members] == [0, 0.1, 1]


def test_snapshots_on_the_way_do_not_change_where_training_leads(data: Dataset):
    alone = built(data, {"pool.epochs": 1})
    on_the_way = built(data, {"pool.epochs": [0, 0.5, 1]})
    assert_same([m.parameters for m in on_the_way[2::3]], [m.parameters for m in alone])
    for before, after in zip(on_the_way[1::3], on_the_way[2::3], strict=True):
        assert not torch.equal(before.parameters["convs.0.weight"], after.parameters["convs.0.weight"])


def test_the_rate_falls_as_accdd_s_or_stays_as_idc_s(data: Dataset):
    both = [built(data, {"pool.epochs": 3, "pool.schedule": each}) for each in ("falling", "constant")]
    early = [built(data, {"pool.epochs": [2, 3], "pool.schedule": each})[0] for each in ("falling", "constant")]
    assert_same(early[0].parameters, early[1].parameters)  # it falls after 2/3 of 4 epochs
    assert not torch.equal(both[0][0].parameters["convs.0.weight"], both[1][0].parameters["convs.0.weight"])
    assert_same(built(data, {"pool.epochs": 3})[0].parameters, both[1][0].parameters)


def test_a_fraction_of_a_short_epoch_is_one_step_at_least():
    assert [pool.steps_to(epoch, 1) for epoch in (0, 0.1, 0.5, 1, 2)] == [0, 1, 1, 1, 2]
    assert [pool.steps_to(epoch, 100) for epoch in (0, 0.001, 0.5, 2)] == [0, 1, 50, 200]


def test_a_fraction_of_an_epoch_is_the_beginning_of_it(data: Dataset):
    half, whole = built(data, {"pool.epochs": 0.5}), built(data, {"pool.epochs": [0.5, 1]})
    assert_same([m.parameters for m in half], [m.parameters for m in whole[::2]])


def test_members_differ_also_with_equal_recipes(data: Dataset):
    for changes in ({}, {"pool.lr_scales": [1.0], "pool.augment": [["crop"]]}):
        weights = [m.parameters["convs.0.weight"] for m in built(data, {"pool.networks": 3, **changes})]
        assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_pool_follows_from_the_seed(data: Dataset):
    assert_same([m.parameters for m in built(data, {})], [m.parameters for m in built(data, {})])
    other = built(data, {"pool.seed": 1})[0].parameters["convs.0.weight"]
    assert not torch.equal(other, built(data, {})[0].parameters["convs.0.weight"])


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_member_is_torch_s_sgd_with_its_own_rate_that_falls_at_2_3_and_5_6_of_one_epoch_more(
    data: Dataset, epochs: int
):
    changes = WITHOUT_AUGMENTATION | {"pool.epochs": epochs, "pool.networks": 2, "pool.lr_scales": [1.0, 0.5]}
    changes |= {"pool.schedule": "falling"}
    members = built(data, changes)
    falls = {2: {}, 4: {3: 0.2}}[epochs]  # schedules of 3 and 5 epochs: falls at 2, 2 and at 3, 4
    for member, scale in zip(members, (1.0, 0.5), strict=True):
        key = Key(0).at("pool", member.network)
        module = network().build()
        module.load_state_dict(network().initialise(key))
        sgd = torch.optim.SGD(module.parameters(), lr=0.01 * scale, momentum=0.9, weight_decay=5e-4)
        losses = []
        for epoch in range(epochs):
            for group in sgd.param_groups:
                group["lr"] *= falls.get(epoch, 1)
            order = torch.randperm(24, generator=key.at(epoch).generator("order"))
            for rows in order.split(8):
                batch = augment.normalise(data.images[rows], data.mean, data.std)
                loss = F.cross_entropy(module(batch), data.labels[rows])
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                losses.append(loss.item())
        torch.testing.assert_close(member.parameters, dict(module.state_dict()))
        assert member.loss == pytest.approx(sum(losses[-3:]) / 3, rel=1e-5)


@pytest.mark.parametrize("at_once", [2, 5])
def test_a_pool_is_the_same_however_many_networks_are_trained_side_by_side(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, at_once: int
):
    """Five networks of three recipes, whose learning rates differ also within a recipe."""
    changes = {"pool.networks": 5, "pool.epochs": [0, 0.5, 2], "train.batch": 7, "pool.lr_scales": [1.0, 0.5, 2.0, 1.5]}
    monkeypatch.setattr(execution, "at_once", lambda networks, cost, where: 1)
    alone = built(data, changes)
    monkeypatch.setattr(execution, "at_once", lambda networks, cost, where: min(networks, at_once))
    together = built(data, changes)
    assert [(m.network, m.epoch) for m in together] == [(m.network, m.epoch) for m in alone]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.parameters, expected.parameters, rtol=1e-4, atol=1e-6)


def test_members_that_were_trained_in_bf16_are_fp32(data: Dataset):
    members, exact = (built(data, {"precision": precision}) for precision in ("bf16", "fp32"))
    for member, expected in zip(members, exact, strict=True):
        assert {value.dtype for value in member.parameters.values()} == {torch.float32}
        assert member.loss != expected.loss
        assert member.loss == pytest.approx(expected.loss, rel=0.02)


def test_a_few_epochs_teach_something(data: Dataset):
    before, after = built(data, {"pool.epochs": [0, 8], "pool.networks": 1, "network.width": 4, "train.lr": 0.05})
    forward = Forward(network())
    scores = [
        training.correct(forward, member.parameters, data.images, data.labels, mean=data.mean, std=data.std).sum()
        for member in (before, after)
    ]
    assert scores[1] > max(scores[0], 0.8 * len(data.labels))


def test_members_need_no_gradients_and_share_no_memory(data: Dataset):
    loaded = load_or_build(data, network(), settings()).models
    for members in (built(data, {"pool.epochs": [0, 0.5, 1]}), loaded):
        values = [value for member in members for value in member.parameters.values()]
        assert not any(value.requires_grad for value in values)
        assert len({value.data_ptr() for value in values}) == len(values)


def test_progress_is_told_up_to_the_last_step(data: Dataset):
    told: list[float] = []
    trained(data, network(), settings({"pool.epochs": 2}), told.append)
    assert told == pytest.approx([done / 12 for done in range(1, 13)])
