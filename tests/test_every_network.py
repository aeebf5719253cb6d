"""Each network can be trained, matched and evaluated: a step, a sweep, derivatives, bf16, many at once."""

import dataclasses

import pytest
import torch
from helpers import CPU, doubled, generator, noise, settings, tiny
from torch import Tensor

from accdd import augment, defaults, engine, loop, methods, training
from accdd.augmented_models import Fresh, Perturbed
from accdd.config import Perturb, Settings, Train
from accdd.data import Dataset, build
from accdd.engine import Problem
from accdd.evaluation import Protocol, Way, network_keys, score
from accdd.execution import Plan
from accdd.keys import Key
from accdd.networks import NETWORKS, Architecture, Forward, Parameters, architecture

SIZE = 32
every = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Two classes of 32 x 32: one is brighter above, the other below."""
    labels = torch.arange(16) % 2
    ramp = 60 * torch.linspace(-1, 1, SIZE)[:, None].expand(SIZE, SIZE)
    pixels = 128 + torch.stack([ramp, -ramp])[labels][:, None] + 30 * noise(16, 3, SIZE, SIZE)
    split = pixels.clamp(0, 255).to(torch.uint8), labels
    return build("ramps", split, split, class_names=("up", "down"))


def prepared(name: str, data: Dataset) -> tuple[Settings, Architecture, Problem]:
    changes = {"ipc": 2, "match.real_batch": 4, "images.factor": 2, "network.depth": None, "network.width": None}
    given = dataclasses.replace(settings(changes), network=tiny(name))
    resolved = defaults.resolve(given, data)
    shape = architecture(resolved.network, data.channels, data.size, data.num_classes)
    return resolved, shape, methods.problem(resolved, data, shape)


@every
def test_a_sweep_gives_finite_gradients_for_every_image(name: str, data: Dataset):
    resolved, shape, problem = prepared(name, data)
    parameters = Perturbed(Fresh(shape, CPU), Perturb())(Key(0))
    (drawn, *_) = loop.draw(data, problem, resolved, Key(0).at("step", 0))
    stored = torch.rand(2, 2, 3, SIZE, SIZE, generator=generator())
    losses, slopes = engine.sweep(problem, parameters, data.images, stored, drawn)
    assert losses.isfinite().all() and losses.min() > 0
    assert slopes.isfinite().all() and slopes.flatten(2).abs().amax(2).min() > 0
    # Several classes at once are the same. In bf16 networks of so few filters turn many ReLUs, and are only finite.
    together = engine.sweeper(problem, Plan(classes=2))(parameters, data.images, stored, drawn)
    assert cosine(together[1], slopes) > 0.999
    torch.testing.assert_close(together[0], losses, rtol=1e-3, atol=0)
    rounded = engine.sweeper(problem, Plan(precision="bf16"))(parameters, data.images, stored, drawn)
    assert rounded[1].isfinite().all() and rounded[1].dtype == torch.float32
    assert rounded[0].isfinite().all() and not torch.equal(rounded[1], slopes)


def cosine(one: Tensor, other: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()


@every
def test_the_image_gradient_is_a_finite_difference(name: str, data: Dataset):
    _, shape, problem = prepared(name, data)
    problem = problem._replace(decode=lambda stored: stored)
    weights = doubled(shape.initialise(Key(0)))
    real, stored = torch.rand(2, 3, 3, SIZE, SIZE, generator=generator(), dtype=torch.float64)
    label, subset = torch.tensor(1), torch.arange(3)
    target = engine.real_half(problem, weights, real, label, {})

    def matched(images: Tensor) -> tuple[Tensor, Tensor]:
        return engine.synthetic_half(problem, weights, target, images, label, {}, subset)

    direction, step = noise(3, 3, SIZE, SIZE, seed=1, dtype=torch.float64), 1e-7
    ahead, behind = (matched(stored + sign * step * direction)[0] for sign in (1, -1))
    torch.testing.assert_close((ahead - behind) / (2 * step), (matched(stored)[1] * direction).sum(), rtol=1e-3, atol=0)


@every
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_steps_lower_the_loss_of_two_networks_side_by_side(name: str, data: Dataset, precision: str):
    shape, recipe = architecture(tiny(name), 3, SIZE, 2), Train(batch=16, augment=(), cutmix=0.0)
    step = training.make_step(shape, recipe, data.mean, data.std, CPU, count=2, precision=precision)
    keys = [Key(0), Key(1)]
    trained = training.begin([shape.initialise(key) for key in keys])
    steps = training.train(
        step, trained, data.images, data.labels, torch.arange(16).repeat(2, 6), recipe=recipe,
        lr=0.02, num_classes=2, keys=keys,
    )  # fmt: skip
    losses = torch.stack([loss for _, loss in steps])  # (steps, networks)
    assert losses.isfinite().all() and losses.shape == (6, 2)
    assert (losses[-1] < losses[0]).all()


@every
def test_bf16_is_fp32_up_to_rounding_in_the_forward_pass(name: str):
    shape = architecture(tiny(name), 3, SIZE, 2)
    weights, images = shape.initialise(Key(0)), noise(8, 3, SIZE, SIZE)
    for call in (Forward.__call__, Forward.embed):
        exact, rounded = (call(Forward(shape, precision), weights, images) for precision in ("fp32", "bf16"))
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1 * exact.abs().max().item())


@every
def test_a_score_can_be_made(name: str, data: Dataset):
    protocol = Protocol(name="few", epochs=1, recipe=Train(batch=8, augment=("crop",)), source="these tests")
    shape = architecture(tiny(name), 3, SIZE, 2)
    found = score("real", data.images, data.labels, data, shape, protocol, Way(precision="fp32"), mean=data.mean,
                  std=data.std, keys=network_keys(Key(0), 1))  # fmt: skip
    assert found.network == name and 0 <= found.mean <= 100


def test_a_network_without_convolutions_is_matched_by_all_its_matrices(data: Dataset):
    for name in ("mlp", "vit_tiny"):
        _, shape, problem = prepared(name, data)
        weights: Parameters = shape.initialise(Key(0))
        batch = augment.normalise(data.images[:4], problem.mean, problem.std)
        found = problem.summary(problem.forward, weights, batch, data.labels[:4])
        assert found.keys() == {key for key, value in weights.items() if value.ndim > 1}
    _, _, problem = prepared("lenet", data)
    assert engine.matched(problem).keys() == {"conv1.weight", "conv2.weight"}
