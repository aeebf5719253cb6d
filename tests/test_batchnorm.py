"""BatchNorm without state: PyTorch's own in both modes, its derivatives, and statistics over many batches."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    CPU,
    Pool,
    assert_same,
    compiles,
    copied,
    doubled,
    generator,
    network,
    noise,
    problem,
    settings,
    tiny,
    trained,
)
from torch import Tensor, nn

from accdd import engine, training
from accdd.config import Train
from accdd.data import Dataset
from accdd.evaluation import Protocol, Way, network_keys, score
from accdd.execution import Plan
from accdd.keys import Key
from accdd.networks import NETWORKS, Architecture, Forward, Parameters, architecture, calibrated
from accdd.networks.layers import BatchNorm

WITH = [name for name in NETWORKS if Forward(architecture(tiny(name), 3, 32, 2)).batch_norms]
FROZEN = ("running_mean", "running_var")


def convnet(**changes: Any) -> Architecture:
    return network(norm="batch", **changes)


def moved(parameters: Parameters) -> Parameters:
    """Weights whose norms are no longer the identity."""
    return {name: value + 0.3 * noise(*value.shape).to(value.dtype) for name, value in parameters.items()}


def frozen(shape: Architecture, parameters: Parameters) -> Parameters:
    """With statistics of some batches."""
    images = (noise(6, 3, 8, 8, seed=seed).to(next(iter(parameters.values())).dtype) for seed in range(3))
    return calibrated(Forward(shape), parameters, images)


def test_it_is_torch_s_batch_norm_in_training_mode():
    own, reference = BatchNorm(5).eval(), nn.BatchNorm2d(5)
    with torch.no_grad():
        for layer in (own, reference):
            layer.weight.copy_(noise(5, seed=1))
            layer.bias.copy_(noise(5, seed=2))
    x = (3 * noise(4, 5, 6, 6) + 1).requires_grad_()
    weights = noise(4, 5, 6, 6, seed=3)
    assert_same(own(x), reference(x))
    slopes = [torch.autograd.grad((layer(x) * weights).sum(), x)[0] for layer in (own, reference)]
    assert_same(*slopes)


def test_it_is_torch_s_batch_norm_in_evaluation_mode_when_statistics_are_put_in():
    own, reference = BatchNorm(5).eval(), nn.BatchNorm2d(5)
    for seed in range(3):
        reference(2 * noise(4, 5, 6, 6, seed=seed) + 1)
    reference.eval()
    state = dict(reference.state_dict())
    del state["num_batches_tracked"]
    x = noise(4, 5, 6, 6)
    found = torch.func.functional_call(own, state, (x,))
    assert_same(found, reference(x))
    assert not torch.allclose(found, own(x), atol=0.1)  # and afterwards those of the batch again
    assert list(own.state_dict()) == ["weight", "bias"]


def test_statistics_are_fp32_whatever_comes_in():
    x = 3 * noise(4, 5, 6, 6).bfloat16() + 1
    layer = BatchNorm(5).eval()
    assert_same(layer(x), layer(x.float()))


def test_a_network_in_use_has_no_statistics_and_what_it_does_depends_on_the_batch():
    weights, images = convnet().initialise(Key(0)), noise(6, 3, 8, 8)
    assert not [name for name in weights if "running" in name or "tracked" in name]
    forward, before = Forward(convnet()), copied(weights)
    together, alone = forward(weights, images), forward(weights, images[:3])
    assert not torch.allclose(together[:3], alone, atol=1e-3)
    assert_same(forward(weights, images), together)
    assert_same(weights, before)


@pytest.mark.parametrize("name", WITH)
def test_frozen_statistics_are_what_torch_s_own_layers_would_gather(name: str):
    """A cumulative average (momentum None) over the same batches, in the same network made of `nn.BatchNorm2d`."""
    shape = architecture(tiny(name), 3, 32, 2)
    weights = moved(shape.initialise(Key(0)))
    batches = [2 * noise(4, 3, 32, 32, seed=seed) + 1 for seed in range(3)]
    found = calibrated(Forward(shape), weights, batches)
    module = with_torch_s_own(shape.build())
    module.load_state_dict(weights, strict=False)
    module.train()
    for batch in batches:
        module(batch)
    expected = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    images = noise(3, 3, 32, 32)
    torch.testing.assert_close(Forward(shape)(found, images), module.eval()(images).detach(), rtol=1e-3, atol=1e-4)


def with_torch_s_own(module: nn.Module) -> nn.Module:
    for name, layer in list(module.named_modules()):
        if isinstance(layer, BatchNorm):
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, nn.BatchNorm2d(layer.num_features, momentum=None))
    return module


def test_with_frozen_statistics_an_image_is_seen_alike_whatever_is_beside_it():
    weights, images = frozen(convnet(), convnet().initialise(Key(0))), noise(6, 3, 8, 8)
    forward = Forward(convnet())
    torch.testing.assert_close(forward(weights, images)[:2], forward(weights, images[:2]))


def test_statistics_that_are_there_are_measured_anew_from_the_weights_alone():
    weights = convnet().initialise(Key(0))
    once = frozen(convnet(), weights)
    wrong = {name: value + 1 if name.endswith(FROZEN) else value for name, value in once.items()}
    assert_same(frozen(convnet(), wrong), once)


def test_a_network_without_batch_norm_pays_nothing():
    def refuse() -> Iterator[Tensor]:
        raise AssertionError("looked at a batch")
        yield

    weights = network().initialise(Key(0))
    assert calibrated(Forward(network()), weights, refuse()) is weights


@pytest.mark.parametrize("statistics", ["of the batch", "frozen"])
def test_the_image_gradient_of_matching_is_a_finite_difference(data: Dataset, statistics: str):
    shape = convnet()
    weights = moved(doubled(shape.initialise(Key(0))))
    if statistics == "frozen":
        weights = frozen(shape, weights)
    given = problem(data)._replace(forward=Forward(shape))
    real, stored = torch.rand(2, 4, 3, 8, 8, generator=generator(), dtype=torch.float64)
    label, subset = torch.tensor(1), torch.arange(4)
    target = engine.real_half(given, weights, real, label, {})
    assert list(target) == ["convs.0.weight", "convs.1.weight"]

    def matched(images: Tensor) -> tuple[Tensor, Tensor]:
        return engine.synthetic_half(given, weights, target, images, label, {}, subset)

    direction, step = noise(4, 3, 8, 8, seed=1, dtype=torch.float64), 1e-6
    ahead, behind = (matched(stored + sign * step * direction)[0] for sign in (1, -1))
    torch.testing.assert_close((ahead - behind) / (2 * step), (matched(stored)[1] * direction).sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("statistics", ["of the batch", "frozen"])
def test_two_networks_side_by_side_are_matched_as_one_by_one(data: Dataset, statistics: str):
    shape = convnet()
    networks = [moved(doubled(shape.initialise(Key(seed)))) for seed in range(2)]
    if statistics == "frozen":
        networks = [frozen(shape, each) for each in networks]
    given = problem(data)._replace(forward=Forward(shape))
    real, stored = torch.rand(2, 4, 3, 8, 8, generator=generator(), dtype=torch.float64)
    label, subset = torch.tensor(1), torch.arange(4)

    def matched(weights: Parameters) -> tuple[Tensor, Tensor]:
        target = engine.real_half(given, weights, real, label, {})
        return engine.synthetic_half(given, weights, target, stored, label, {}, subset)

    stacked = {name: torch.stack([each[name] for each in networks]) for name in networks[0]}
    found = torch.func.vmap(matched)(stacked)
    alone = [matched(each) for each in networks]
    torch.testing.assert_close(found, tuple(map(torch.stack, zip(*alone, strict=True))))


def test_a_training_step_is_torch_s_own(data: Dataset):
    shape, recipe = convnet(), Train(batch=8, augment=(), cutmix=0.0)
    weights = shape.initialise(Key(0))
    step = training.make_step(shape, recipe, data.mean, data.std, CPU)
    order = torch.arange(24)[None]
    trained = training.last(training.train(
        step, training.begin([weights]), data.images, data.labels, order,
        recipe=recipe, lr=0.05, num_classes=2, keys=[Key(0)],
    ))  # fmt: skip
    module = with_torch_s_own(shape.build()).train()
    module.load_state_dict(weights, strict=False)
    sgd = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    shift, scale = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
    for rows in order[0].split(8):
        sgd.zero_grad()
        F.cross_entropy(module((data.images[rows] / 255 - shift) / scale), data.labels[rows]).backward()
        sgd.step()
    torch.testing.assert_close(training.networks(trained)[0], {k: v.detach() for k, v in module.named_parameters()})


def test_an_early_stage_pool_holds_weights_alone(data: Dataset):
    members: Pool = trained(data, convnet(), settings({"network.norm": "batch", "pool.networks": 2}))
    for member in members:
        assert member.parameters.keys() == convnet().initialise(Key(0)).keys()


def test_a_score_does_not_depend_on_how_test_images_are_batched(data: Dataset, monkeypatch: pytest.MonkeyPatch):
    protocol = Protocol(name="few", epochs=3, recipe=Train(lr=0.05, batch=8, augment=("crop",)), source="these tests")
    correct, seen = training.correct, []

    def several(forward: Forward, parameters: Parameters, *args: Any, **options: Any) -> torch.Tensor:
        seen.append(parameters)
        first, *others = (correct(forward, parameters, *args, **options, batch=batch) for batch in (1, 5, 500))
        assert all(first.equal(other) for other in others)
        return first

    monkeypatch.setattr(training, "correct", several)
    images, labels = data.images[:20], data.labels[:20]
    found = score("few", images, labels, data, convnet(), protocol, Way(precision="fp32"), mean=data.mean,
                  std=data.std, keys=network_keys(Key(0), 2))  # fmt: skip
    assert found.n == len(seen) == 2
    # The statistics are those of 16 of the 20 images, as they are: the first layer's mean is linear in them.
    shift, scale = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
    for key, weights in zip(network_keys(Key(0), 2), seen, strict=True):
        order = torch.randperm(20, generator=key.generator("statistics"))[:16]
        maps = F.conv2d((images[order] / 255 - shift) / scale, weights["convs.0.weight"], weights["convs.0.bias"],
                        padding=1)  # fmt: skip
        torch.testing.assert_close(weights["norms.0.running_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


@compiles
@pytest.mark.parametrize("statistics", ["of the batch", "frozen"])
def test_compiled_halves_agree_with_plain_ones(data: Dataset, statistics: str):
    shape = convnet(depth=1)
    weights = moved(shape.initialise(Key(0)))
    weights = frozen(shape, weights) if statistics == "frozen" else weights
    given = problem(data)._replace(forward=Forward(shape))
    real, stored = torch.rand(2, 1, 4, 3, 8, 8, generator=generator())
    label, subset = torch.tensor([1]), torch.arange(4)[None]
    found, plain = (
        halves.synthetic(weights, halves.real(weights, real, label, {}), stored, label, {}, subset)
        for halves in (engine.halves(given, Plan(compile_matching=now)) for now in (True, False))
    )
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)
