"""Settings: what is accepted, what is refused and in which words, and what follows from data and method."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import FORMATIONS, stripes

from accdd import config, defaults, engine, methods, networks
from accdd.config import InputError, Perturb, Pool, Settings, choose, flatten, override, to_dict
from accdd.data import Dataset
from accdd.defaults import NORMALISED_LR, resolve
from accdd.formation import split
from accdd.matching import DISTANCES
from accdd.methods import METHODS
from accdd.presets import PRESETS, paper


def sized(size: int, channels: int = 3, count: int = 60) -> Dataset:
    """Grey nothing of a size: resolving looks at shapes only."""
    grey = torch.full((1, channels, size, size), 128, dtype=torch.uint8)
    images, labels = grey.expand(count, -1, -1, -1), torch.arange(count) % 2
    return Dataset("flat", images, labels, ("one", "two"), images[:2], labels[:2])


# Overriding ---------------------------------------------------------------------------------------------------


def test_override_replaces_what_is_named_and_nothing_else():
    changed = override(Settings(), {"ipc": 7, "pool.epochs": [0.5, 2], "images.factor": 3})
    expected = to_dict(Settings())
    expected["ipc"], expected["pool"]["epochs"], expected["images"]["factor"] = 7, [0.5, 2.0], 3
    assert to_dict(changed) == expected
    assert to_dict(Settings()) == to_dict(override(Settings(), {}))


def test_overrides_add_up_and_the_last_one_wins():
    once = override(override(Settings(), {"ipc": 7, "seed": 1}), {"ipc": 8})
    assert (once.ipc, once.seed) == (8, 1)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("pool.epoch", "pool.epochs"), ("perturb.magnitud", "perturb.magnitude"), ("magnitude", "perturb.magnitude"),
     ("image.factor", "images.factor"), ("inner_steps", "loop.inner_steps")],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_the_nearest(key: str, nearest: str):
    with pytest.raises(InputError, match=rf"Unknown setting '{key}'\. Did you mean '{nearest}'\?"):
        override(Settings(), {key: 1})


@pytest.mark.parametrize("key", ["v_max", "", "pool", "pool.epochs.first", "zzzz"])
def test_a_key_that_names_no_setting_is_refused_with_the_way_to_the_list(key: str):
    with pytest.raises(InputError, match=f"Unknown setting '{key}'.*accdd settings"):
        override(Settings(), {key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [("ipc", 0), ("ipc", "many"), ("ipc", 1.5), ("seed", -1), ("pool.networks", 0), ("pool.epochs", -1),
     ("pool.epochs", [2, 1]), ("pool.epochs", [1, 1]), ("pool.epochs", []), ("pool.lr_scales", []),
     ("pool.augment", []), ("perturb.magnitude", [0.2, 0.1]), ("perturb.magnitude", -0.1),
     ("perturb.magnitude", [0.1, 0.2, 0.3]), ("perturb.normalisation", "row"), ("perturb.directions", 0),
     ("match.distance", "mes"), ("images.lr", 0), ("images.lr", float("nan")), ("images.lr", float("inf")),
     ("images.momentum", 1.0), ("images.factor", 0), ("images.start", "real"), ("loop.budget", 0),
     ("images.formation", "mixed"), ("loop.inner_steps", 0), ("train.cutmix", 1.5), ("data.test_fraction", 1.0),
     ("score.networks", "convnet")],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_is_refused_with_key_and_value(key: str, value: Any):
    with pytest.raises(InputError) as refused:
        override(Settings(), {key: value})
    assert f"'{key}'" in str(refused.value)
    assert str(value) in str(refused.value)


def test_a_single_magnitude_is_fixed_and_a_single_epoch_is_one_snapshot():
    assert override(Settings(), {"perturb.magnitude": 0.05}).perturb.magnitude == (0.05, 0.05)
    assert override(Settings(), {"perturb.magnitude": 0}).perturb.magnitude == (0, 0)
    assert override(Settings(), {"pool.epochs": 5}).pool.epochs == (5,)
    assert Perturb(magnitude=0.05) == Perturb(magnitude=(0.05, 0.05))  # pyright: ignore[reportArgumentType]
    assert Pool(epochs=2) == Pool(epochs=(2.0,))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("group", [field.name for field in dataclasses.fields(Settings)])
def test_settings_are_frozen_at_every_level(group: str):
    settings = Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, group, None)
    inner = getattr(settings, group)
    if dataclasses.is_dataclass(inner):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(inner, dataclasses.fields(inner)[0].name, None)


def test_settings_survive_writing_and_reading():
    settings = override(Settings(), {"perturb.magnitude": [0, 0.5], "pool.epochs": [0.5, 1], "loop.budget": 60})
    assert override(Settings(), flatten(to_dict(settings))) == settings


def test_flatten_joins_names_by_dots():
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}


def test_a_choice_that_does_not_exist_is_refused_with_the_choices_and_the_nearest():
    assert choose("distance", "l1", DISTANCES) is DISTANCES["l1"]
    with pytest.raises(InputError, match=r"Unknown distance 'cosin'. Did you mean 'cosine'\? .*: mse, l1, cosine"):
        choose("distance", "cosin", DISTANCES)


# Resolving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factor", "start"), [(8, 1, "random"), (16, 2, "mixed"), (28, 2, "mixed"), (32, 2, "mixed"),
                                  (64, 2, "mixed"), (128, 3, "mixed")],
)  # fmt: skip
def test_the_factor_follows_from_the_size_and_the_start_from_the_factor(size: int, factor: int, start: str):
    images = resolve(Settings(), sized(size)).images
    assert (images.factor, images.start) == (factor, start)


def test_the_start_follows_from_a_factor_that_is_given_too():
    assert resolve(override(Settings(), {"images.factor": 1}), sized(32)).images.start == "random"
    assert resolve(override(Settings(), {"images.factor": 2}), sized(8)).images.start == "mixed"
    assert resolve(override(Settings(), {"images.start": "noise"}), sized(32)).images.start == "noise"


@pytest.mark.parametrize(
    ("factor", "ipc", "bound", "formation"),
    [(3, 20, 128, "bounded"), (3, 19, 128, "uniform"), (2, 20, 128, "uniform"), (4, 30, 30, "bounded"),
     (3, 30, 29, "uniform"), (1, 30, 128, "uniform")],
)  # fmt: skip
def test_the_formation_follows_from_factor_and_images_per_class(factor: int, ipc: int, bound: int, formation: str):
    changes = {"images.factor": factor, "ipc": ipc, "match.synthetic_batch": bound}
    assert resolve(override(Settings(), changes), sized(32)).images.formation == formation
    for given in FORMATIONS[:2]:
        changed = override(Settings(), {**changes, "images.formation": given})
        assert resolve(changed, sized(32)).images.formation == given


def test_more_images_than_a_bound_are_refused():
    changes = {"images.factor": 3, "ipc": 21, "match.synthetic_batch": 20, "images.formation": "bounded"}
    expected = r"bounded with match.synthetic_batch 20: 21 .*match.synthetic_batch=21 or more, .*formation=uniform"
    with pytest.raises(InputError, match=expected):
        resolve(override(Settings(), changes), sized(32))
    assert resolve(override(Settings(), changes | {"ipc": 20}), sized(32)).images.formation == "bounded"


@pytest.mark.parametrize("preset", ["idc-imagenet-10", "accdd-imagenet-10", "idc-imagenet-100"])
def test_the_presets_of_photographs_bound_what_20_images_are_decoded_into(preset: str):
    for ipc, formation in ((10, "uniform"), (20, "bounded")):
        changes = PRESETS[preset].changes(ipc) | {"ipc": ipc, "data.size": None}
        assert resolve(override(Settings(), changes), sized(32)).images.formation == formation


def test_a_method_brings_its_own_formation_unless_another_is_chosen(monkeypatch: pytest.MonkeyPatch):
    def mirrored(images: torch.Tensor, factor: int, bound: int) -> torch.Tensor:
        assert (factor, bound) == (1, 50)
        return torch.cat([images, images.flip(-1)])

    monkeypatch.setitem(METHODS, "mirrored", dataclasses.replace(METHODS["dm"], formation=mirrored))
    data, stored = sized(8), torch.rand(3, 3, 8, 8)
    for changes, expected in (({}, torch.cat([stored, stored.flip(-1)])), ({"images.formation": "uniform"}, stored)):
        chosen = {"method": "mirrored", "match.synthetic_batch": 50, **changes}
        resolved = resolve(override(Settings(), chosen), data)
        network = resolved.network
        problem = methods.problem(resolved, data, networks.architecture(network, 3, 8, 2))
        assert torch.equal(problem.decode(stored), expected)
        assert engine.decoded(problem, 3) == len(expected)


@pytest.mark.parametrize("method", METHODS)
def test_distance_and_augmentation_follow_from_the_method_and_the_step_from_the_distance(method: str):
    match = resolve(override(Settings(), {"method": method}), sized(32)).match
    assert (match.distance, match.augment) == (METHODS[method].distance, METHODS[method].siamese)
    assert resolve(override(Settings(), {"match.augment": []}), sized(32)).match.augment == ()
    plain = {"method": method, "images.step": "gradient"}
    for distance in DISTANCES:
        changes = {**plain, "match.distance": distance}
        if distance in METHODS[method].lr:
            assert resolve(override(Settings(), changes), sized(32)).images.lr == METHODS[method].lr[distance]
        else:
            with pytest.raises(InputError, match=f"no step size for this method with the distance '{distance}'"):
                resolve(override(Settings(), changes), sized(32))
        assert resolve(override(Settings(), {**changes, "images.lr": 0.5}), sized(32)).images.lr == 0.5


@pytest.mark.parametrize(
    ("method", "early"), [("idc", True), ("idc-i", True), ("dsa", False), ("dc", False), ("dm", False)]
)
def test_early_stage_models_are_for_methods_that_they_serve_unless_told_otherwise(method: str, early: bool):
    for told, used in ((None, early), (True, True), (False, False)):
        settings = override(Settings(), {"method": method, "pool.use": told})
        assert resolve(settings, sized(32)).pool.use is used


@pytest.mark.parametrize(
    ("count", "changes", "epochs"),
    [(60_000, {}, 1), (20_000, {}, 3), (9_469, {}, 5), (5_000, {}, 10), (5_000, {"train.batch": 32}, 5),
     (1_000, {}, 20), (2_000_000, {}, 1), (5_000, {"targets.count": 0}, 2),
     (5_000, {"images.step": "gradient"}, 2), (5_000, {"targets.count": 0, "images.step": "normalised"}, 10),
     (1_000, {"pool.epochs": [0.5, 7]}, (0.5, 7)), (5_000, paper(1), 2)],
)  # fmt: skip
def test_early_stage_models_are_trained_for_equal_steps_where_those_on_images_are_normalised(
    count: int, changes: dict[str, Any], epochs: float | tuple[float, ...]
):
    pool = resolve(override(Settings(), changes), sized(8, count=count)).pool
    assert pool.epochs == (epochs if isinstance(epochs, tuple) else (epochs,))


def test_steps_on_targets_are_normalised_and_fall_and_others_are_those_of_the_papers():
    def step(changes: dict[str, Any]) -> tuple[str | None, str | None, float | None]:
        images = resolve(override(Settings(), changes), sized(32)).images
        return images.step, images.schedule, images.lr

    assert step({}) == ("normalised", "cosine", NORMALISED_LR)
    assert step({"match.distance": "l1", "network.width": 8}) == step({})
    assert step({"targets.count": 0}) == step(paper(1)) == ("gradient", "constant", 0.01)
    assert step({"images.step": "gradient"}) == ("gradient", "constant", 0.01)
    assert step({"targets.count": 0, "images.step": "normalised"}) == step({})
    assert step({"images.schedule": "constant"}) == ("normalised", "constant", NORMALISED_LR)


def test_a_run_ends_by_steps_and_seconds_unless_one_is_given():
    default = resolve(Settings(), sized(32)).loop
    assert (default.steps, default.budget) == (defaults.STEPS, defaults.BUDGET)
    for given, expected in [({"loop.steps": 3}, (3, None)), ({"loop.steps": 0}, (0, None)),
                            ({"loop.budget": 5.0}, (None, 5.0)),
                            ({"loop.steps": 3, "loop.budget": 5.0}, (3, 5.0))]:  # fmt: skip
        loop = resolve(override(Settings(), given), sized(32)).loop
        assert (loop.steps, loop.budget) == expected


def test_resolving_twice_changes_nothing_more():
    once = resolve(Settings(), sized(32))
    assert resolve(once, sized(32)) == once


def test_more_images_than_a_class_has_are_refused_naming_the_class():
    data = stripes()
    few = Dataset("few", data.images[:-6], data.labels[:-6], ("lying", "standing"), data.test_images, data.test_labels)
    uneven = torch.cat([few.class_index[0], few.class_index[1][:4]])
    short = dataclasses.replace(few, images=few.images[uneven], labels=few.labels[uneven])
    assert resolve(override(Settings(), {"ipc": 4}), short).ipc == 4
    with pytest.raises(InputError, match=r"Class 'standing' has 4 training images, fewer than --ipc 5"):
        resolve(override(Settings(), {"ipc": 5}), short)


@pytest.mark.parametrize(
    ("size", "fitting"),
    [
        (8, [1, 2]), (12, [1, 2, 3]), (32, [1, 2, 3, 4, 5, 6, 7, 8]),
        (16, [1, 2, 3, 4]),  # 5 tiles of 4 pixels: the last would lie outside
        (25, [1, 2, 3, 4, 5, 7]), (28, [1, 2, 3, 4, 5, 6, 7]),
    ],
)  # fmt: skip
def test_factors_leave_tiles_of_4_pixels_all_of_which_hold_something(size: int, fitting: list[int]):
    for factor in range(1, 9):
        given = override(Settings(), {"images.factor": factor})
        if factor in fitting:
            assert resolve(given, sized(size)).images.factor == factor
            held = split(torch.ones(1, 1, size, size), factor)
            assert (held == 1).flatten(1).any(1).all(), "every tile has a pixel of the image"
        else:
            with pytest.raises(
                InputError, match=rf"images.factor {factor}.*Expected one of .*{fitting[-1]} \(--factor"
            ):
                resolve(given, sized(size))
    multi = {"images.factor": fitting[-1], "images.formation": "multi"}  # and every smaller one
    if fitting == [*range(1, fitting[-1] + 1)]:
        assert resolve(override(Settings(), multi), sized(size)).images.factor == fitting[-1]
    else:
        with pytest.raises(InputError, match=r"some of them wholly outside.*Expected one of 1, 2, 3, 4, 5 \("):
            resolve(override(Settings(), multi), sized(size))


def test_folders_are_known_from_wherever_a_run_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    given = override(Settings(), {"targets.folder": "bank", "data.root": "copies"})
    assert (given.targets.folder, given.data.root) == (str(tmp_path / "bank"), str(tmp_path / "copies"))


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match=r"Unknown method 'idcc'\. Did you mean 'idc'\?"):
        resolve(override(Settings(), {"method": "idcc"}), sized(32))


# Presets ------------------------------------------------------------------------------------------------------


FACTS = {
    "idc-mnist": {"match.distance": "l1", "images.lr": 1e-4, "images.base_size": 28, "loop.train_images": 500,
                  "match.augment": ["color", "crop"], "train.cutmix": 0.0, "data.mean": [0.1307], "images.factor": 2},
    "idc-i-mnist": {"images.factor": 1, "images.lr": 1e-4, "images.base_size": 28},
    "idc-fashion-mnist": {"match.distance": "l1", "images.lr": 1e-4, "images.base_size": 32, "loop.train_images": 500},
    "idc-svhn": {"match.distance": "mse", "images.lr": 5e-3, "loop.train_images": 500, "loop.steps": 2000},
    "idc-i-svhn": {"images.factor": 1, "images.lr": 5e-3},
    "idc-cifar10": {"match.distance": "mse", "images.lr": 5e-3, "loop.train_images": 2000, "loop.steps": 2000,
                    "loop.inner_steps": 100, "images.factor": 2, "pool.use": False, "perturb.use": False},
    "idc-imagenet-10": {"match.distance": "l1", "images.lr": 3e-3, "images.base_size": 224, "loop.train_images": 500,
                        "loop.steps": 500, "loop.warm_up": 10.0, "train.cutmix": 1.0, "images.factor": 3,
                        "network.name": "resnet_ap10"},
    "idc-i-imagenet-10": {"images.factor": 1, "images.start": "random"},
    "idc-imagenet-100": {"images.lr": 1e-3, "train.lr": 0.1, "train.weight_decay": 1e-4, "train.batch": 128,
                         "pool.networks": 10, "pool.epochs": [5.0], "pool.schedule": "constant", "loop.warm_up": 0},
    "accdd-cifar10": {"images.lr": 1e-2, "pool.networks": 5, "pool.epochs": [2.0], "loop.steps": 400,
                      "perturb.magnitude": [0.01, 0.09]},
    "accdd-cifar100-20x": {"loop.steps": 100},
    "accdd-imagenet-10-10x": {"loop.steps": 50, "pool.epochs": [10.0], "images.lr": 3e-3},
    "accdd-imagenet-100-20x": {"loop.steps": 25, "pool.schedule": "falling", "images.lr": 1e-3, "train.lr": 0.1},
    "dc-cifar10": {"method": "dc", "images.lr": 0.1, "loop.steps": 1000, "loop.inner_steps": 10,
                   "loop.train_epochs": 50, "network.width": 128},
    "dsa-svhn": {"method": "dsa", "images.lr": 0.1, "data.std": [0.1980, 0.2010, 0.1970]},
    "dm-cifar10": {"method": "dm", "images.lr": 1.0, "loop.steps": 20000, "loop.inner_steps": 1},
    "fast": {"targets.count": 300, "loop.inner_steps": 1},
    "paper": {"images.lr": 1e-2, "loop.steps": 400, "loop.inner_steps": 100, "loop.train_images": 2000,
              "pool.networks": 5, "pool.epochs": [2.0], "perturb.use": True},
}  # fmt: skip
"""Of the papers' tables and released code, at ten images per class."""


@pytest.mark.parametrize("name", FACTS)
def test_presets_say_what_the_papers_say(name: str):
    changes = PRESETS[name].changes(10)
    assert {key: changes[key] for key in FACTS[name]} == FACTS[name]


def test_presets_carry_what_was_published():
    published = {name: row.published for name, row in PRESETS.items()}
    assert published["idc-i-imagenet-10"] == {10: 61.4, 20: 65.5}
    assert published["idc-i-imagenet-100"] == {10: 29.2, 20: 34.5}
    assert published["idc-cifar10"] == {1: 50.6, 10: 67.5, 50: 74.5}
    assert published["accdd-cifar100"] == {1: 29.8, 10: 45.6, 50: 52.6}
    assert published["dm-cifar10"] == {1: 26.0, 10: 48.9, 50: 63.0}
    assert published["dc-svhn"] == {1: 31.2, 10: 76.1, 50: 82.3}
    assert published["dsa-svhn"] == {1: 27.5, 10: 79.2, 50: 84.4}
    assert published["idc-i-svhn"] == {1: 46.7, 10: 77.0, 50: 87.9}


def test_a_preset_of_a_paper_is_scored_on_the_network_it_matches():
    settings = resolve(override(Settings(), PRESETS["idc-imagenet-10"].changes(10)), sized(224))
    assert settings.score.networks == ("resnet_ap10",)
    assert resolve(override(Settings(), {"score.networks": ["mlp"]}), sized(32)).score.networks == ("mlp",)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_resolves_to_what_it_says(name: str):
    changes = PRESETS[name].changes(10)
    settings = resolve(override(Settings(), {"ipc": 10, **changes}), sized(changes.get("data.size", 32)))
    flat = flatten(to_dict(settings))
    own = {"loop.warm_up": 0.0} if flat["pool.use"] else {}  # early-stage models need none
    for key, value in (changes | own).items():
        assert flat[key] == value, key
    assert config.override(settings, {}) == settings


def test_without_early_stage_models_accdd_on_imagenet_10_is_its_host_but_for_what_it_states():
    told = {"ipc": 10, "pool.use": False, "perturb.use": False}
    fresh = [
        resolve(override(Settings(), {**PRESETS[name].changes(10), **told}), sized(224))
        for name in ("accdd-imagenet-10", "idc-imagenet-10")
    ]
    ours, host = (flatten(to_dict(each)) for each in fresh)
    differing = {key for key, value in ours.items() if value != host[key] and not key.startswith("pool.")}
    assert fresh[0].loop.warm_up == 10 and differing <= {"loop.steps", "images.lr", "perturb.magnitude"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_made_anew_each_time(name: str):
    PRESETS[name].changes(1).clear()
    assert PRESETS[name].changes(1)


@pytest.mark.parametrize(
    ("name", "steps", "lr"), [("idc-cifar10", 2000, 5e-3), ("accdd-cifar10", 400, 1e-2),
                              ("accdd-cifar10-10x", 200, 1e-2), ("accdd-cifar10-20x", 100, 1e-2)],
)  # fmt: skip
def test_presets_carry_the_published_numbers(name: str, steps: int, lr: float):
    settings = resolve(override(Settings(), PRESETS[name].changes(1)), sized(32))
    assert (settings.loop.steps, settings.images.lr, settings.loop.inner_steps) == (steps, lr, 100)
    assert (settings.pool.use, settings.perturb.use) == (name != "idc-cifar10",) * 2
    assert (settings.loop.train_images, settings.match.real_batch, settings.match.synthetic_batch) == (2000, 64, 128)
    assert (settings.train.lr, settings.train.momentum, settings.train.weight_decay) == (0.01, 0.9, 5e-4)
    assert (settings.images.momentum, settings.match.distance) == (0.5, "mse")
