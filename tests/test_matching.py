"""Matching: distances against formulae, image gradients against finite differences and plain double backward."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DISTANCES, FACTORS, SIZE, assert_same, copied, doubled, generator, network, noise, problem
from torch import Tensor

from accdd import augment, engine, formation
from accdd.augment import at, draw
from accdd.data import Dataset
from accdd.engine import Problem, Sweep, real_half, synthetic_half
from accdd.keys import Key
from accdd.matching import DISTANCES as BY_NAME
from accdd.matching import convolutions, gradient
from accdd.networks import Forward, Parameters

IPC = 2

distances = pytest.mark.parametrize("distance", DISTANCES)
factors = pytest.mark.parametrize("factor", FACTORS)


@pytest.fixture(scope="module")
def parameters() -> Parameters:
    return doubled(network().initialise(Key(0)))


def stored_images(seed: int = 0) -> Tensor:
    return torch.rand(2, IPC, 3, SIZE, SIZE, generator=generator(seed), dtype=torch.float64)


def draws(data: Dataset, factor: int, seed: int = 0) -> Sweep:
    real = torch.stack([rows[torch.randperm(len(rows), generator=generator(seed))[:6]] for rows in data.class_index])
    siamese = doubled(draw(("color", "crop", "cutout"), (2, 1), SIZE, generator(seed)))
    count = IPC * factor**2
    subset = torch.stack([torch.randperm(count, generator=generator(seed + label))[: count - 1] for label in (0, 1)])
    return Sweep(torch.arange(2), real, siamese, subset)


def halves(given: Problem, parameters: Parameters, data: Dataset, stored: Tensor, drawn: Sweep, label: int):
    """One class's loss and gradient by the two halves, called one after the other."""
    siamese, truth = at(drawn.siamese, label), torch.tensor(label)
    target = real_half(given, parameters, data.images[drawn.real[label]].double() / 255, truth, siamese)
    return synthetic_half(given, parameters, target, stored, truth, siamese, drawn.subset[label])


# Distances ----------------------------------------------------------------------------------------------------


def summaries(seed: int) -> Parameters:
    shapes = {"convs.0.weight": (4, 3, 3, 3), "convs.1.weight": (5, 4, 3, 3), "classifier.weight": (2, 7)}
    return {name: noise(*shape, seed=seed + i, dtype=torch.float64) for i, (name, shape) in enumerate(shapes.items())}


def mse_formula(real: np.ndarray, synthetic: np.ndarray) -> float:
    return float(((real - synthetic) ** 2).sum())


def l1_formula(real: np.ndarray, synthetic: np.ndarray) -> float:
    return float(np.abs(real - synthetic).sum())


def cosine_formula(real: np.ndarray, synthetic: np.ndarray) -> float:
    total = 0.0
    for row, other in zip(real.reshape(len(real), -1), synthetic.reshape(len(synthetic), -1), strict=True):
        total += 1 - float(row @ other / (np.linalg.norm(row) * np.linalg.norm(other) + 1e-6))
    return total


FORMULAE = {"mse": mse_formula, "l1": l1_formula, "cosine": cosine_formula}


@distances
def test_a_distance_is_its_formula_summed_over_tensors(distance: str):
    real, synthetic = summaries(0), summaries(10)
    expected = sum(FORMULAE[distance](real[name].numpy(), synthetic[name].numpy()) for name in real)
    found = BY_NAME[distance](real, synthetic)
    assert found.shape == ()
    torch.testing.assert_close(found.item(), float(expected), rtol=1e-9, atol=0)


@distances
def test_a_summary_is_at_distance_0_from_itself_only(distance: str):
    real = summaries(0)
    torch.testing.assert_close(BY_NAME[distance](real, real).item(), 0.0, rtol=0, atol=2e-6)
    assert BY_NAME[distance](real, summaries(10)).item() > 0.1


def test_cosine_sees_no_lengths_of_rows_and_opposite_rows_count_2():
    real = summaries(0)
    lengths = {
        name: torch.arange(1, len(value) + 1).reshape(-1, *[1] * (value.ndim - 1)) for name, value in real.items()
    }
    longer = {name: value * lengths[name] for name, value in real.items()}
    torch.testing.assert_close(BY_NAME["cosine"](real, longer).item(), 0.0, rtol=0, atol=2e-6)  # DC's 1e-6 a row
    opposite = {name: -value for name, value in real.items()}
    torch.testing.assert_close(BY_NAME["cosine"](real, opposite).item(), 2.0 * (4 + 5 + 2))


@distances
def test_a_distance_is_finite_and_flat_where_all_gradients_vanish(distance: str):
    nothing = {"convs.0.weight": torch.zeros(4, 3, 3, 3)}
    moving = {"convs.0.weight": torch.zeros(4, 3, 3, 3, requires_grad=True)}
    value = BY_NAME[distance](nothing, moving)
    (slope,) = torch.autograd.grad(value, list(moving.values()))
    assert value.isfinite()
    assert_same(slope, torch.zeros_like(slope))


# Summaries ----------------------------------------------------------------------------------------------------


def test_only_convolution_weights_are_matched(parameters: Parameters):
    batch, labels = noise(4, 3, SIZE, SIZE, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    summary = gradient(convolutions)(Forward(network()), parameters, batch, labels)
    assert set(summary) == {"convs.0.weight", "convs.1.weight"}
    for name, value in summary.items():
        assert value.shape == parameters[name].shape


def test_a_summary_is_the_gradient_of_the_mean_cross_entropy(parameters: Parameters):
    batch, labels = noise(4, 3, SIZE, SIZE, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    module = network().build().double()
    module.load_state_dict(parameters)
    F.cross_entropy(module(batch), labels).backward()
    everything = gradient(lambda name, value: True)(Forward(network()), parameters, batch, labels)
    for name, value in module.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(everything[name], value.grad)


# Gradients of the images --------------------------------------------------------------------------------------


@distances
@factors
def test_the_image_gradient_agrees_with_central_finite_differences(
    data: Dataset, parameters: Parameters, distance: str, factor: int
):
    given, drawn, stored = problem(data, distance=distance, factor=factor), draws(data, factor), stored_images()[1]
    _, slope = halves(given, parameters, data, stored, drawn, 1)

    def difference(direction: Tensor, step: float) -> Tensor:
        ahead, _ = halves(given, parameters, data, stored + step * direction, drawn, 1)
        behind, _ = halves(given, parameters, data, stored - step * direction, drawn, 1)
        return (ahead - behind) / (2 * step)

    checked = 0
    for seed in range(8):
        direction = noise(*stored.shape, seed=seed, dtype=torch.float64)
        wide, narrow = difference(direction, 2e-6), difference(direction, 1e-6)
        if not torch.isclose(wide, narrow, rtol=1e-6, atol=1e-8):
            continue  # a kink of ReLU (or of |x|) lies within the step
        torch.testing.assert_close((slope * direction).sum(), narrow, rtol=1e-5, atol=1e-7)
        checked += 1
    assert checked >= 4


def plain_double_backward(
    data: Dataset, parameters: Parameters, stored: Tensor, drawn: Sweep, label: int, distance: str, factor: int
) -> tuple[Tensor, Tensor]:
    """One class the way the released codes do it: a module, autograd.grad twice, no functions of functions."""
    module = network().build().double()
    module.load_state_dict(parameters)
    convs = [value for value in module.parameters() if value.ndim == 4]
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    siamese = at(drawn.siamese, label)

    real = augment.apply((data.images[drawn.real[label]].double() / 255 - mean) / std, siamese)
    real_loss = F.cross_entropy(module(real), torch.full((len(real),), label))
    target = [value.detach() for value in torch.autograd.grad(real_loss, convs)]

    stored = stored.clone().requires_grad_(True)
    decoded = formation.decode(stored, factor)[drawn.subset[label]]
    synthetic = augment.apply((decoded - mean) / std, siamese)
    loss = F.cross_entropy(module(synthetic), torch.full((len(synthetic),), label))
    own = torch.autograd.grad(loss, convs, create_graph=True)
    total = torch.zeros((), dtype=torch.float64)
    for wanted, found in zip(target, own, strict=True):
        wanted, found = wanted.flatten(1), found.flatten(1)
        if distance == "mse":
            total = total + (wanted - found).square().sum()
        elif distance == "l1":
            total = total + (wanted - found).abs().sum()
        else:
            cosines = (wanted * found).sum(1) / (wanted.norm(dim=1) * found.norm(dim=1) + 1e-6)
            total = total + (1 - cosines).sum()
    (slope,) = torch.autograd.grad(total, stored)
    return total.detach(), slope


@distances
@factors
@pytest.mark.parametrize("label", [0, 1])
def test_loss_and_image_gradient_equal_plain_double_backward(
    data: Dataset, parameters: Parameters, distance: str, factor: int, label: int
):
    drawn, stored = draws(data, factor, seed=3), stored_images()[label]
    given = problem(data, distance=distance, factor=factor)
    expected = plain_double_backward(data, parameters, stored, drawn, label, distance, factor)
    found = halves(given, parameters, data, stored, drawn, label)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_synthetic_images_equal_to_the_real_ones_have_loss_0_and_nowhere_to_go(data: Dataset, parameters: Parameters):
    rows = data.class_index[0][:4]
    drawn = draws(data, 1)._replace(real=torch.stack([rows, rows]), subset=torch.arange(4).expand(2, 4))
    same = data.images[rows].double() / 255
    loss, slope = halves(problem(data), parameters, data, same, drawn, 0)
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


def test_images_outside_the_subset_get_no_gradient(data: Dataset, parameters: Parameters):
    drawn = draws(data, 1)._replace(subset=torch.tensor([[1], [1]]))
    _, slope = halves(problem(data), parameters, data, stored_images()[0], drawn, 0)
    assert_same(slope[0], torch.zeros_like(slope[0]))
    assert slope[1].abs().max() > 0


def test_the_order_of_the_subset_does_not_matter(data: Dataset, parameters: Parameters):
    drawn = draws(data, 2)
    turned = drawn._replace(subset=drawn.subset.flip(-1))
    given, stored = problem(data, factor=2), stored_images()[0]
    torch.testing.assert_close(
        halves(given, parameters, data, stored, turned, 0), halves(given, parameters, data, stored, drawn, 0)
    )


# Sweeps -------------------------------------------------------------------------------------------------------


@distances
@factors
def test_a_sweep_is_its_classes_one_by_one(data: Dataset, parameters: Parameters, distance: str, factor: int):
    given, drawn, stored = problem(data, distance=distance, factor=factor), draws(data, factor), stored_images()
    losses, slopes = engine.sweep(given, parameters, data.images, stored, drawn)
    alone = [halves(given, parameters, data, stored[label], drawn, label) for label in (0, 1)]
    # The sweep scales bytes in single precision.
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in alone]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slopes, torch.stack([slope for _, slope in alone]), rtol=1e-3, atol=1e-5)


@distances
@factors
def test_a_class_does_not_see_the_images_of_another(data: Dataset, parameters: Parameters, distance: str, factor: int):
    given, drawn, stored = problem(data, distance=distance, factor=factor), draws(data, factor), stored_images()
    losses, slopes = engine.sweep(given, parameters, data.images, stored, drawn)
    for other in (stored[1].flip(-1), 0.5 * stored[1]):
        changed = torch.stack([stored[0], other])
        other_losses, other_slopes = engine.sweep(given, parameters, data.images, changed, drawn)
        assert_same(other_losses[0], losses[0])
        assert_same(other_slopes[0], slopes[0])
        assert not torch.equal(other_slopes[1], slopes[1])


def test_the_real_half_does_not_see_the_synthetic_images(data: Dataset, parameters: Parameters):
    targets: list[Parameters] = []

    def recording(real: Parameters, synthetic: Parameters) -> Tensor:
        targets.append(copied(real))
        return BY_NAME["mse"](real, synthetic)

    given, drawn = problem(data, factor=2)._replace(distance=recording), draws(data, 2)
    for seed in (0, 1):
        engine.sweep(given, parameters, data.images, stored_images(seed), drawn)
    assert len(targets) == 4
    assert_same(targets[:2], targets[2:])


def with_gradients(parameters: Parameters) -> Parameters:
    return {name: value.clone().requires_grad_(True) for name, value in parameters.items()}


def test_a_sweep_changes_nothing_and_leaves_no_graph(data: Dataset, parameters: Parameters):
    given, drawn, stored, leaves = problem(data), draws(data, 1), stored_images(), with_gradients(parameters)
    before = (copied(leaves), stored.clone(), data.images.clone())
    results = engine.sweep(given, leaves, data.images, stored, drawn)
    assert_same((copied(leaves), stored, data.images), before)
    assert not any(result.requires_grad for result in results)
    assert all(value.grad is None for value in leaves.values())


@distances
def test_real_and_synthetic_images_of_a_class_share_one_draw(data: Dataset, parameters: Parameters, distance: str):
    rows = data.class_index[0][:IPC]
    stored = (data.images[rows].double() / 255).expand(2, IPC, 3, SIZE, SIZE)
    drawn = draws(data, 1)._replace(real=rows.expand(2, IPC), subset=torch.arange(IPC).expand(2, IPC))
    losses, _ = engine.sweep(problem(data, distance=distance), parameters, data.images, stored, drawn)
    torch.testing.assert_close(losses, torch.zeros_like(losses), rtol=0, atol=2e-4)
    apart = drawn._replace(siamese={name: value.flip(0) for name, value in drawn.siamese.items()})
    target = real_half(problem(data), parameters, data.images[rows], torch.tensor(0), at(drawn.siamese, 0))
    loss, _ = synthetic_half(
        problem(data, distance=distance), parameters, target, stored[0], torch.tensor(0), at(apart.siamese, 0),
        drawn.subset[0],
    )  # fmt: skip
    assert loss > 1e-3
