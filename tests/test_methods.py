"""The hosts: each against its published update rule, written out plainly in double precision; hosts from outside."""

import dataclasses
import itertools
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, assert_same, network, noise, settings, several, stripes
from torch import Tensor, nn

import accdd
from accdd import defaults, engine, loop, methods, synthetic, training
from accdd.augment import apply, at, draw
from accdd.augmented_models import Fresh, perturb, source
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.execution import PLAIN
from accdd.keys import Key
from accdd.matching import DISTANCES
from accdd.methods import METHODS, Method, sweeps_and_epochs
from accdd.networks import Parameters

SWEEPS = 3
PUBLISHED = {"pool.use": False, "perturb.use": False, "targets.count": 0, "images.step": "gradient", "ipc": 2}
"""A host as published: fresh networks, gradient steps, nothing computed ahead."""


def resolved(data: Dataset, changes: dict[str, Any]) -> Settings:
    return defaults.resolve(settings({**PUBLISHED, "loop.train_images": None, "train.batch": 64, **changes}), data)


def run(data: Dataset, given: Settings) -> list[Tensor]:
    """The images after every sweep, the first before any."""
    problem = methods.problem(given, data, network(num_classes=data.num_classes))
    source = Fresh(problem.forward.architecture, CPU)
    return [state.images for state in loop.distill(data, problem, source, given)]


# Published rules ----------------------------------------------------------------------------------------------


def module(data: Dataset, key: Key) -> nn.Module:
    """The network that the loop draws first, in double precision."""
    architecture = network(num_classes=data.num_classes)
    built = architecture.build()
    built.load_state_dict(architecture.initialise(key))
    return built.double()


def standardised(data: Dataset, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (data.mean, data.std))
    return (pixels.double() - mean) / std


def back(data: Dataset, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (data.mean, data.std))
    return images * std + mean


def angles(real: tuple[Tensor, ...], learned: tuple[Tensor, ...]) -> Tensor:
    """DC: for every weight of two or more dimensions, 1 - cosine of each output row; summed."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(real, learned, strict=True):
        if a.ndim > 1:
            for row, other in zip(a.flatten(1), b.flatten(1), strict=True):
                total = total + 1 - (row * other).sum() / (row.norm() * other.norm() + 1e-6)
    return total


def by_gradients(net: nn.Module, real: Tensor, learned: Tensor, label: int) -> Tensor:
    """DC's and DSA's loss of one class."""
    parameters = tuple(net.parameters())

    def slopes(images: Tensor) -> tuple[Tensor, ...]:
        loss = F.cross_entropy(net(images), torch.full((len(images),), label))
        return torch.autograd.grad(loss, parameters, create_graph=True)

    return angles(tuple(slope.detach() for slope in slopes(real)), slopes(learned))


def by_features(net: Any, real: Tensor, learned: Tensor, label: int) -> Tensor:
    """DM's loss of one class."""
    del label
    return ((net.embed(real).mean(0).detach() - net.embed(learned).mean(0)) ** 2).sum()


def double(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in drawn.items()}


def published(data: Dataset, given: Settings, rule: Any, lr: float, epochs: int, first: Tensor) -> Iterator[Tensor]:
    """One outer step of DC, DSA or DM: one SGD step a sweep in normalised pixels, then the network on the images."""
    key = Key(given.seed).at("step", 0)
    net = module(data, key)
    problem = methods.problem(given, data, network(num_classes=data.num_classes))
    drawn = loop.draw(data, problem, given, key)
    images = standardised(data, first).requires_grad_()
    optimiser = torch.optim.SGD([images], lr=lr, momentum=0.5)
    labels = torch.arange(data.num_classes).repeat_interleave(given.ipc)
    names = METHODS[given.method].recipe.augment
    for sweep in range(SWEEPS):
        total = torch.zeros((), dtype=torch.float64)
        for label in range(data.num_classes):
            siamese = double(at(drawn[sweep].siamese, label))
            real = apply(standardised(data, data.images[drawn[sweep].real[label]].double() / 255), siamese)
            total = total + rule(net, real, apply(images[label], siamese), label)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        yield back(data, images.detach())
        trainer = torch.optim.SGD(net.parameters(), lr=0.01)
        for epoch in range(epochs if sweep + 1 < SWEEPS else 0):
            own = key.at(sweep).at(epoch)
            order = torch.randperm(len(labels), generator=own.generator("order"))
            augmentation = draw(names, (1, 256), data.size, own.generator("augment"), one_of=True)
            batch = apply(images.detach().flatten(0, 1)[order], double(at(augmentation, 0, slice(len(order)))))
            trainer.zero_grad()
            F.cross_entropy(net(batch), labels[order]).backward()
            trainer.step()


@pytest.mark.parametrize(
    ("method", "rule", "lr", "epochs"),
    [("dc", by_gradients, 0.1, 2), ("dsa", by_gradients, 0.1, 2), ("dm", by_features, 1.0, 0)],
)
def test_the_first_sweeps_of_a_host_are_those_of_its_published_rule(method: str, rule: Any, lr: float, epochs: int):
    data = several(3)
    given = resolved(data, {"method": method, "loop.steps": 1, "loop.inner_steps": SWEEPS, "loop.train_epochs": epochs})
    states = run(data, given)
    expected = list(published(data, given, rule, lr, epochs, states[0]))
    for found, wanted, before in zip(states[1:], expected, states[:-1], strict=True):
        moved = (wanted - before).norm()
        assert moved > 0 and (found - wanted).norm() < 1e-3 * moved


def test_training_on_the_synthetic_set_is_part_of_the_rule():
    """Without it, the second sweep would go elsewhere: the test above can tell."""
    data, changes = several(3), {"method": "dc", "loop.steps": 1, "loop.inner_steps": 2}
    trained, untrained = (run(data, resolved(data, changes | {"loop.train_epochs": n})) for n in (5, 0))
    assert_same(trained[1], untrained[1])
    assert (trained[2] - untrained[2]).norm() > 1e-2 * (trained[2] - trained[1]).norm()


def test_images_of_dc_start_as_normal_noise_in_normalised_pixels_and_leave_the_range():
    data = stripes()
    given = resolved(data, {"method": "dc", "ipc": 10})
    first = synthetic.start(data, "normal", ipc=10, factor=1, shrink="area", key=Key(0))
    pixels = standardised(data, first)
    assert given.images.start == "normal" and abs(pixels.mean()) < 0.05 and abs(pixels.std() - 1) < 0.05
    assert first.min() < 0 and first.max() > 1
    images, _, _, kept = loop.begin(data, methods.problem(given, data, network()), given)
    assert_same(kept(images), images)


def test_images_on_targets_stay_in_range_whatever_the_method():
    data = stripes()
    given = defaults.resolve(settings({"method": "dm", "targets.count": 10, "loop.inner_steps": 1}), data)
    assert given.images.step == "normalised"
    _, _, _, kept = loop.begin(data, methods.problem(given, data, network()), given)
    assert_same(kept(torch.tensor([-1.0, 0.5, 2.0])), torch.tensor([0.0, 0.5, 1.0]))


# Lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipc", "expected"), [(1, (1, 0)), (10, (10, 50)), (20, (20, 25)), (50, (50, 10)), (5, (5, 100)), (100, (100, 5)),
                          (1000, (1000, 1))],
)  # fmt: skip
def test_sweeps_and_epochs_are_published_or_follow_the_rule(ipc: int, expected: tuple[int, int]):
    assert sweeps_and_epochs(ipc) == expected


@pytest.mark.parametrize(
    ("method", "expected"), [("idc", (2000, 0)), ("idc-i", (2000, 0)), ("dc", (0, 250)), ("dsa", (0, 250)),
                             ("dm", (0, 0))],
)  # fmt: skip
def test_what_a_network_is_trained_on_follows_from_the_method(method: str, expected: tuple[int, int]):
    data = several(3)
    for inner, wanted in ((5, expected), (1, (0, 0))):
        given = resolved(data, {"method": method, "loop.inner_steps": inner}).loop
        assert (given.train_images, given.train_epochs) == wanted


def test_networks_are_trained_with_one_image_per_class_too_where_there_is_a_between():
    assert resolved(several(3), {"method": "dc", "ipc": 1, "loop.inner_steps": 5}).loop.train_epochs == 500


def test_a_summary_without_rows_has_one_angle():
    real, own = ({"embedding": noise(7, seed=seed)} for seed in (0, 1))
    expected = 1 - torch.cosine_similarity(real["embedding"], own["embedding"], 0)
    torch.testing.assert_close(DISTANCES["cosine"](real, own), expected)


def test_training_on_both_is_refused():
    with pytest.raises(InputError, match=r"loop\.train_images is 8 and loop\.train_epochs 2.*one of the two to be 0"):
        resolved(stripes(), {"loop.train_images": 8, "loop.train_epochs": 2})


def test_a_warm_up_trains_every_network_before_its_first_sweep():
    data = stripes()
    plain, warm = (run(data, resolved(data, {"loop.steps": 1, "loop.warm_up": epochs})) for epochs in (0.0, 0.5))
    assert_same(plain[0], warm[0])
    assert (plain[1] - warm[1]).abs().max() > 0
    with pytest.raises(InputError, match=r"loop\.warm_up 0\.5.*networks that are used as drawn"):
        resolved(data, {"loop.warm_up": 0.5, "targets.count": 10, "loop.inner_steps": 1})
    barely = run(data, resolved(data, {"loop.steps": 1, "loop.warm_up": 1e-3}))  # of no whole image
    assert len(barely) == len(plain) and (plain[1] - barely[1]).abs().max() > 0


def test_a_network_is_perturbed_after_its_warm_up():
    data, key = stripes(), Key(3)
    told = {"loop.steps": 1, "loop.warm_up": 0.5, "pool.use": False, "perturb.magnitude": [0.1, 0.1]}
    ready: list[Parameters] = []
    for use in (False, True):
        given = resolved(data, {**told, "perturb.use": use})
        problem = methods.problem(given, data, network(num_classes=data.num_classes))
        drawn = source(problem.forward.architecture, CPU, given, None)
        warm_up = loop.warming(data, problem, given, PLAIN)
        ready += training.networks(warm_up(training.begin([drawn(key)]), key))
    assert_same(perturb(ready[0], given.perturb, key.generator("perturbation")), ready[1])


def test_the_rate_of_a_warm_up_does_not_fall(monkeypatch: pytest.MonkeyPatch):
    data, rates, train = stripes(), list[float](), training.train
    monkeypatch.setattr(training, "train", lambda *args, **told: rates.append(told["lr"]) or train(*args, **told))
    given = resolved(data, {"loop.steps": 1, "loop.inner_steps": 1, "loop.warm_up": 10})
    run(data, given)
    assert rates == [given.train.lr] * 10


def test_no_host_mirrors_digits_unless_it_is_told_to():
    waves = several(3)
    for name, flips in (("waves", True), ("my/digits", False), ("svhn", False), ("mnist-mine", False)):
        data = dataclasses.replace(waves, name=name)
        assert ("flip" in (resolved(data, {"method": "dsa"}).match.augment or ())) is flips
        told = resolved(data, {"method": "dsa", "match.augment": ["flip", "crop"]})
        assert told.match.augment == ("flip", "crop")


# BatchNorm ----------------------------------------------------------------------------------------------------


def test_batch_norm_is_frozen_for_hosts_that_do_and_left_to_the_batch_for_others():
    data = stripes()
    for method, changed in (("dsa", True), ("idc", False)):
        given = resolved(data, {"method": method, "network.norm": "batch"})
        problem = methods.problem(given, data, network(norm="batch"))
        parameters = problem.forward.architecture.initialise(Key(0))
        frozen = engine.freeze(problem, parameters, data, Key(1))
        assert (frozen.keys() != parameters.keys()) is changed
    assert_same(engine.freeze(problem, parameters, data, Key(1)), parameters)


# Every host, with and without augmentation --------------------------------------------------------------------

CHOICES = list(itertools.product(METHODS, (False, True), (False, True), (0, 10)))


@pytest.mark.parametrize(("method", "early", "perturb", "targets"), CHOICES)
def test_every_host_runs_with_and_without_each_augmentation_and_on_targets(
    method: str, early: bool, perturb: bool, targets: int
):
    changes = {
        "network.width": 4, "network.depth": 2, "pool.networks": 2, "pool.epochs": 0.5, "pool.use": early,
        "perturb.use": perturb, "method": method, "targets.count": targets, "targets.real_batch": 6,
        "loop.steps": 3, "match.real_batch": 6, "score.seeds": 0, "precision": "fp32", "compile": "never",
    }  # fmt: skip
    images = (torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8).numpy()
    result = accdd.distill((images, torch.arange(24).remainder(2).numpy()), ipc=2, settings=changes)
    images = result.distilled.images
    assert images.isfinite().all() and 0 <= images.min() and images.max() <= 1
    assert ("targets" in result.seconds) is bool(targets)


# Hosts from outside -------------------------------------------------------------------------------------------


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, code: str = "") -> None:
    """A package that names `value` as its method `stranger`, as pip would leave it."""
    about = folder / "stranger-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[accdd.methods]\nstranger = {value}\n")
    (folder / "stranger.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "stranger", raising=False)


def test_a_host_of_another_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, monkeypatch, "stranger:HOST", "from accdd.methods import DM as HOST\n")
    assert methods.named("stranger") is METHODS["dm"]
    with pytest.raises(InputError, match=r"Unknown method 'strange'\. Did you mean 'stranger'"):
        methods.named("strange")


def test_hosts_share_targets_where_they_ask_the_same_of_real_images():
    asked = {name: methods.asked_of_real_images(name) for name in METHODS}
    assert asked == {"idc": "idc", "idc-i": "idc", "dsa": "dsa", "dc": "dsa", "dm": "dm"}


def test_another_version_of_a_foreign_host_has_targets_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install(tmp_path, monkeypatch, "stranger:HOST", "from accdd.methods import DM as HOST\n")
    before = methods.asked_of_real_images("stranger")
    assert before == methods.asked_of_real_images("stranger") != "dm"
    (tmp_path / "stranger.py").write_text("from accdd.methods import DC as HOST  # the second\n")
    monkeypatch.delitem(sys.modules, "stranger")
    assert methods.asked_of_real_images("stranger") != before


@pytest.mark.parametrize(
    ("value", "message"),
    [("stranger:NOTHING", "cannot be loaded: AttributeError"), ("nowhere:HOST", "cannot be loaded: ModuleNotFound"),
     ("stranger:HOST", r"is 3\. Expected an accdd\.methods\.Method")],
)  # fmt: skip
def test_a_host_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str):
    install(tmp_path, monkeypatch, value, "HOST = 3\n")
    with pytest.raises(InputError, match=message):
        methods.named("stranger")


def test_the_example_host_compares_means_and_deviations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(__file__).parents[1] / "examples" / "host"
    told = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]["accdd.methods"]
    install(tmp_path, monkeypatch, told["moments"])
    monkeypatch.syspath_prepend(str(folder))
    import moments  # pyright: ignore[reportMissingImports]

    assert isinstance(moments.MOMENTS, Method)
    assert methods.named("stranger") is moments.MOMENTS
    data = stripes()
    forward = methods.problem(resolved(data, {}), data, network()).forward
    parameters: Parameters = network().initialise(Key(0))
    images = noise(5, 3, 8, 8)
    features = forward.embed(parameters, images)
    found = moments.MOMENTS.summary(forward, parameters, images, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(found["mean"], features.mean(0))
    torch.testing.assert_close(found["deviation"], features.std(0, correction=0), rtol=1e-3, atol=1e-3)
    monkeypatch.setitem(METHODS, "moments", moments.MOMENTS)
    changes = {"method": "moments", "loop.steps": 2, "loop.inner_steps": 1, "loop.train_images": None}
    states = run(data, resolved(data, changes))
    assert (states[-1] - states[0]).abs().max() > 0
