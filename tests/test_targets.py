"""The target bank: what a target is, how a bank grows, what it serves, and what it refuses."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Pool, assert_same, early_stage, perturbed, problem, settings, stripes

from accdd import augment, defaults, engine, execution, loop, planning, targets
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.engine import Sweep
from accdd.execution import PLAIN
from accdd.loop import State, distill_on_targets
from accdd.targets import BLOCK, Bank

UNTRAINED: Mapping[str, Any] = {
    "loop.inner_steps": 1, "loop.train_images": 0, "loop.steps": 30, "targets.count": BLOCK, "targets.real_batch": 6,
    "precision": "fp32",
}  # fmt: skip


def resolved(data: Dataset, changes: Mapping[str, Any] | None = None) -> Settings:
    return defaults.resolve(settings({**UNTRAINED, **(changes or {})}), data)


def bank(data: Dataset, pool: Pool, changes: Mapping[str, Any] | None = None) -> Bank:
    given = resolved(data, changes)
    assert given.match.distance and given.images.factor
    pieces = problem(data, distance=given.match.distance, factor=given.images.factor)
    return Bank(data, pieces, perturbed(pool), given)


def test_a_target_is_the_real_half_of_every_class_for_its_network_and_draw(data: Dataset, early_models: Pool):
    found = bank(data, early_models, {"targets.real_batch": 12})[7]  # all of a class, so the batch is known
    for label in range(2):
        images, siamese = data.images[data.class_index[label]], augment.at(found.siamese, label)
        expected = engine.real_half(problem(data), found.parameters, images, torch.tensor(label), siamese)
        assert found.gradients.keys() == expected.keys()
        for name, value in expected.items():
            assert found.gradients[name].dtype == torch.bfloat16
            torch.testing.assert_close(found.gradients[name][label].float(), value, rtol=2**-8, atol=1e-6)


def test_a_sweep_on_a_target_is_the_sweep_that_computes_the_real_half(data: Dataset, early_models: Pool):
    pieces = problem(data, factor=2)
    target = bank(data, early_models, {"targets.real_batch": 12})[0]
    stored = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rows, subset = torch.stack(list(data.class_index)), torch.arange(12).expand(2, -1)
    labels = torch.arange(2)
    drawn = Sweep(labels, rows, target.siamese, subset)
    exact = engine.real_sweeper(pieces, PLAIN)(target.parameters, data.images, rows, target.siamese)
    sweep = engine.synthetic_sweeper(pieces, PLAIN)
    expected = engine.sweep(pieces, target.parameters, data.images, stored, drawn)
    assert_same(sweep(target.parameters, exact, stored, labels, target.siamese, subset), expected)
    losses, slopes = sweep(target.parameters, target.gradients, stored, labels, target.siamese, subset)
    torch.testing.assert_close(losses, expected[0], rtol=1e-2, atol=0)  # bfloat16 keeps 8 bits
    assert torch.cosine_similarity(slopes.flatten(), expected[1].flatten(), dim=0) > 0.9999


def test_a_bank_is_extended_and_not_built_again(data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch):
    small = bank(data, early_models)
    assert small.missing(BLOCK) == BLOCK
    small.build(BLOCK)
    assert small.missing(BLOCK) == 0
    assert small.missing(BLOCK + 1) == BLOCK
    before = small[3]
    made: list[int] = []
    original = Bank.make
    monkeypatch.setattr(Bank, "make", lambda self, number: made.append(number) or original(self, number))
    larger = bank(data, early_models)
    larger.build(2 * BLOCK)
    assert made == list(range(BLOCK, 2 * BLOCK))
    assert_same(larger[3], before)
    assert larger.seconds(2 * BLOCK) >= 0


def test_targets_that_stay_on_a_gpu_are_let_go_of_and_made_the_same_again(data: Dataset, early_models: Pool):
    there = bank(data, early_models)
    assert there.room == 0  # on a CPU
    there.room = 3
    kept = [there[number] for number in range(4)]
    assert [there[number] is target for number, target in enumerate(kept)] == [True, True, True, False]
    there.release()
    again = [there[number] for number in range(2)]
    assert again[0] is not kept[0] and there[0] is again[0] and there[1] is not again[1]
    assert_same(again[0], kept[0])
    fresh = bank(data, early_models)
    assert_same(there.make(5), fresh.make(5))


def test_a_target_follows_from_its_number_alone(data: Dataset, early_models: Pool):
    one, other = bank(data, early_models), bank(data, early_models)
    late = other[BLOCK + 2]
    one.build(2 * BLOCK)
    assert_same(one[BLOCK + 2], late)
    assert not torch.equal(late.gradients["convs.0.weight"], one[2].gradients["convs.0.weight"])


@pytest.mark.parametrize(
    "changes",
    [{"ipc": 3}, {"seed": 5}, {"images.factor": 2}, {"images.formation": "multi"},
     {"match.distance": "cosine"}, {"images.lr": 1.0}, {"targets.count": 2 * BLOCK}, {"loop.steps": 9}],
    ids=str,
)  # fmt: skip
def test_one_bank_serves_all_that_it_does_not_depend_on(data: Dataset, early_models: Pool, changes: dict[str, Any]):
    assert bank(data, early_models, changes).folder == bank(data, early_models).folder


@pytest.mark.parametrize(
    "changes",
    [{"pool.seed": 1}, {"targets.real_batch": 7}, {"match.augment": ["flip"]}, {"perturb.magnitude": 0.5},
     {"pool.epochs": 2}, {"train.lr": 0.5}, {"network.width": 5}, {"precision": "bf16"}, {"compile": "never"}],
    ids=str,
)  # fmt: skip
def test_what_a_bank_depends_on_names_another_one(data: Dataset, early_models: Pool, changes: dict[str, Any]):
    assert bank(data, early_models, changes).folder != bank(data, early_models).folder


def test_a_bank_of_its_own_folder_is_refused_where_it_does_not_fit(data: Dataset, early_models: Pool, tmp_path: Path):
    own = {"targets.folder": str(tmp_path / "bank")}
    bank(data, early_models, own).build(BLOCK)
    assert bank(data, early_models, own).missing(BLOCK) == 0
    with pytest.raises(InputError, match=r"real_batch: 6 there, 7 wanted"):
        bank(data, early_models, {**own, "targets.real_batch": 7})
    with pytest.raises(InputError, match=r"pool\.seed: 0 there, 3 wanted"):
        bank(data, early_models, {**own, "pool.seed": 3})
    with pytest.raises(InputError, match=r"data: "):
        bank(stripes(per_class=13), early_models, own)
    with pytest.raises(InputError, match=r"network\.width: 4 there, 5 wanted"):
        bank(data, early_models, {**own, "network.width": 5})
    for version in ("accdd.targets.VERSION", "accdd.augmented_models.pool.SCHEME"):
        with pytest.MonkeyPatch.context() as later, pytest.raises(InputError, match="99 wanted"):
            later.setattr(version, 99)
            bank(data, early_models, own)
    (tmp_path / "bank" / "bank.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        bank(data, early_models, own)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("the only copy")
    with pytest.raises(InputError, match="is no target bank"):
        bank(data, early_models, {"targets.folder": str(tmp_path / "thesis")})


def test_a_bank_made_elsewhere_is_not_refused_for_that(data: Dataset, early_models: Pool, tmp_path: Path):
    own = {"targets.folder": str(tmp_path / "bank")}
    bank(data, early_models, own).build(BLOCK)
    parts = json.loads((tmp_path / "bank" / "bank.json").read_text())
    parts["made by"] = ["another torch", "cuda", "bf16", False]
    (tmp_path / "bank" / "bank.json").write_text(json.dumps(parts))
    assert bank(data, early_models, own).missing(BLOCK) == 0


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_a_damaged_block_is_made_again(data: Dataset, early_models: Pool):
    first = bank(data, early_models)
    first.build(BLOCK)
    expected, file = first[4], first.folder / "000000" / "targets.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    again = bank(data, early_models)
    again.build(BLOCK)
    assert_same(again[4], expected)


def test_a_full_disk_is_said_before_anything_is_made(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    full = bank(data, early_models)
    assert 0.5 < full.bytes_per_target / _measured(data, early_models) < 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=25 * full.bytes_per_target))
    with pytest.raises(InputError, match=r"Expected 20 or fewer"):
        bank(data, early_models, {"pool.seed": 9}).build(1000)
    assert not bank(data, early_models, {"pool.seed": 9}).folder.exists()


def test_room_is_asked_for_the_targets_that_a_refresh_looks_at(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    told = {"targets.count": 2 * BLOCK, "pool.seed": 9}
    room = int(2.5 * BLOCK * bank(data, early_models).bytes_per_target)  # 0.9 of which is enough for 22
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room))
    bank(data, early_models, told).check_room(2 * BLOCK)
    refreshed = bank(data, early_models, {**told, "targets.refresh": 0.1})
    with pytest.raises(InputError, match=r"20 targets need .* Expected 10 or fewer"):
        refreshed.check_room(2 * BLOCK)
    refreshed.check_room(BLOCK)


def test_a_target_is_made_alike_however_many_are_missing(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    planned: list[int] = []
    original = planning.choose_real_plan
    monkeypatch.setattr(planning, "choose_real_plan", lambda *args: planned.append(args[-1]) or original(*args))
    for count in (BLOCK, 2 * BLOCK, 9 * BLOCK):
        bank(data, early_models, {"targets.count": count}).build(2 * BLOCK)
        bank(data, early_models, {"targets.count": count}).make(77)
    assert len({*planned}) == 1
    assert len(planned) > 3


def test_a_sweep_on_targets_never_asks_the_real_half(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    made = bank(data, early_models)
    made.build(BLOCK)

    def asked(*_: Any) -> None:
        raise AssertionError

    states = distill_on_targets(data, problem(data), bank(data, early_models), resolved(data))
    next(states)  # what it starts from are real images
    monkeypatch.setattr(execution, "gather", asked)  # as every real half does with its batch
    monkeypatch.setattr(Bank, "make", asked)
    assert len(list(states)) == 30


def test_only_the_drawn_synthetic_images_of_a_sweep_move(data: Dataset, early_models: Pool):
    told = {"ipc": 4, "images.factor": 1, "match.synthetic_batch": 2, "loop.steps": 1}
    given = resolved(data, told)
    start, end = distill_on_targets(data, problem(data), bank(data, early_models, told), given)
    moved = (end.images != start.images).flatten(2).any(-1)
    assert moved.sum(1).tolist() == [2, 2]


def _measured(data: Dataset, pool: Pool) -> float:
    """Bytes of a target on the disk; headers count for much where networks are tiny."""
    made = bank(data, pool)
    made.build(BLOCK)
    return (made.folder / "000000" / "targets.safetensors").stat().st_size / BLOCK


def run(data: Dataset, pool: Pool, changes: Mapping[str, Any] | None = None) -> tuple[list[State], list[int]]:
    """All states, and the numbers of the targets in the order in which they were asked for."""
    given, made, asked = resolved(data, changes), bank(data, pool, changes), []

    class Watched:
        def of(self, number: int, classes: slice) -> targets.Target:
            asked.append(number)
            return made.of(number, classes)

    pieces = problem(data, factor=given.images.factor or 1)
    return list(distill_on_targets(data, pieces, Watched(), given)), asked  # type: ignore[arg-type]


def test_a_real_batch_is_no_larger_than_the_largest_class(data: Dataset):
    assert resolved(data, {"targets.real_batch": 256}).targets.real_batch == 12
    assert resolved(data, {"targets.real_batch": 5}).targets.real_batch == 5


def test_every_pass_uses_every_target_once_in_a_new_order(data: Dataset, early_models: Pool):
    states, asked = run(data, early_models)
    assert [state.sweep for state in states] == list(range(31))
    passes = [asked[start : start + BLOCK] for start in range(0, 30, BLOCK)]
    assert [sorted(each) for each in passes] == [list(range(BLOCK))] * 3
    assert passes[0] != passes[1]
    again, _ = run(data, early_models)
    assert_same(again[-1].images, states[-1].images)
    other, _ = run(data, early_models, {"seed": 1})
    assert not torch.equal(other[-1].images, states[-1].images)


def test_images_fit_the_bank_they_learn_from(data: Dataset, early_models: Pool):
    states, _ = run(data, early_models, {"loop.steps": 20 * BLOCK})
    passes = [torch.stack([s.losses for s in states[1:][i : i + BLOCK]]).mean() for i in (0, 19 * BLOCK)]
    assert passes[1] < 0.9 * passes[0]


def test_refreshing_replaces_the_oldest_block_where_the_images_fit_the_bank_too_well(data: Dataset, early_models: Pool):
    states, asked = run(data, early_models, {"targets.refresh": 1e-9, "loop.steps": 3 * BLOCK})
    compared = [state.overfit for state in states if state.overfit is not None]
    assert len(compared) == 3
    assert asked[BLOCK : 2 * BLOCK] == list(range(BLOCK, 2 * BLOCK))  # looked at, after the first pass
    assert asked[2 * BLOCK : 3 * BLOCK] == asked[:BLOCK]  # beside those it was on
    begins = [min(asked[start : start + BLOCK]) for start in range(0, 9 * BLOCK, 3 * BLOCK)]
    expected = [0]
    for ratio in compared[:2]:
        expected.append(expected[-1] + BLOCK * (ratio > 1))
    assert begins == expected
    calm, still = run(data, early_models, {"targets.refresh": 1e9, "loop.steps": 3 * BLOCK})
    assert max(still) == 2 * BLOCK - 1
    plain, _ = run(data, early_models, {"loop.steps": 3 * BLOCK})
    assert_same([s.images for s in calm], [s.images for s in plain])  # looking changes nothing


def test_a_cosine_schedule_ends_with_steps_of_nothing(data: Dataset, early_models: Pool):
    given, pieces = resolved(data, {"images.schedule": "cosine"}), problem(data)
    made = bank(data, early_models)
    *_, half, end = distill_on_targets(data, pieces, made, given, progress=lambda sweeps: 1.0 if sweeps > 28 else 0.0)
    assert_same(end.images, half.images.clamp(0, 1))
    (_, first, *_) = distill_on_targets(data, pieces, made, given, progress=lambda sweeps: 0.5)
    (_, whole, *_) = distill_on_targets(data, pieces, made, given)
    (start, *_) = distill_on_targets(data, pieces, made, given)
    torch.testing.assert_close(first.images - start.images, (whole.images - start.images) / 2, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 0), ({"loop.steps": 300}, 0), ({"loop.steps": 301}, defaults.TARGETS),
     ({"loop.steps": None}, defaults.TARGETS),
     ({"targets.count": 0}, 0), ({"targets.count": 7}, 7), ({"loop.inner_steps": 2}, 0)],
    ids=str,
)  # fmt: skip
def test_there_are_targets_where_networks_are_not_trained(data: Dataset, changes: dict[str, Any], count: int):
    assert resolved(data, {"targets.count": None, **changes}).targets.count == count


def test_a_bank_takes_about_as_long_as_the_budget_allows(
    data: Dataset, early_models: Pool, monkeypatch: pytest.MonkeyPatch
):
    made = bank(data, early_models)
    assert made.afford(300, 1e9) == 300
    assert made.afford(300, 1e-9) == 0
    monkeypatch.setattr("accdd.execution.seconds", lambda *args: 1.0)  # two classes, so two seconds a target
    assert made.afford(300, 247.0) == 120
    assert made.afford(300, 80.0) == 0  # too few to be of use
    made.build(2 * BLOCK)  # what is there changes nothing: the same command uses the same targets
    assert made.afford(300, 247.0) == 120


@pytest.mark.parametrize("changes", [{"targets.folder": "bank"}, {"targets.refresh": 0.1}], ids=str)
def test_what_is_said_of_targets_is_not_ignored(data: Dataset, changes: dict[str, Any]):
    assert resolved(data, {"targets.count": None, **changes}).targets.count == defaults.TARGETS
    for without in ({"targets.count": 0}, {"targets.count": None, "loop.inner_steps": 2}):
        with pytest.raises(InputError, match=r"for runs on targets"):
            resolved(data, {**changes, **without})


@pytest.mark.parametrize("changes", [{"loop.inner_steps": 2}], ids=str)
def test_targets_for_networks_that_are_trained_are_refused(data: Dataset, changes: dict[str, Any]):
    with pytest.raises(InputError, match="--targets 0"):
        resolved(data, changes)


def test_a_bank_of_unperturbed_networks_gives_the_networks_themselves(data: Dataset, early_models: Pool):
    made = Bank(data, problem(data), early_stage(early_models), resolved(data))
    for number in range(4):
        found = made[number].parameters
        assert any(
            all(torch.equal(found[name], value) for name, value in model.parameters.items()) for model in early_models
        )


def test_the_loop_draws_subsets_without_repetition(data: Dataset):
    given = resolved(data, {"ipc": 3, "match.synthetic_batch": 2, "images.factor": 1})
    subsets = loop.draw_subsets(data, problem(data), given, targets.Key(0), 4)
    assert subsets.shape == (4, 2, 2)
    assert all(len(set(row.tolist())) == 2 for row in subsets.flatten(0, 1))
