"""Parameter perturbation: how far each filter moves, what stays, and that the pool is never touched."""

import math

import pytest
import torch
from helpers import SOURCES, Pool, assert_same, copied, generator, network, noise

from accdd.augmented_models import EarlyStage, EarlyStageModel, Fresh, Perturbed, direction, perturb
from accdd.config import Perturb
from accdd.keys import Key
from accdd.networks import Parameters

SHAPES = ((4, 3, 3, 3), (5, 7), (6, 1, 1, 1))


@pytest.fixture
def weights() -> Parameters:
    return {
        "convs.0.weight": noise(8, 3, 3, 3, seed=1),
        "convs.0.bias": noise(8, seed=2),
        "norms.0.weight": noise(8, seed=3),
        "classifier.weight": noise(5, 32, seed=4),
        "classifier.bias": noise(5, seed=5),
    }


def step_length(before: Parameters, after: Parameters, name: str) -> torch.Tensor:
    """Relative to the norm, per filter."""
    return (after[name] - before[name]).flatten(1).norm(dim=1) / before[name].flatten(1).norm(dim=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_filter_of_a_direction_has_the_norm_of_the_weights_filter(shape: tuple[int, ...]):
    filters = noise(*shape) * torch.arange(1, shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1))
    found = direction(filters, "filter", generator(1))
    torch.testing.assert_close(found.flatten(1).norm(dim=1), filters.flatten(1).norm(dim=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_layer_direction_has_the_norm_of_the_whole_tensor_and_keeps_the_noise_s_proportions(shape: tuple[int, ...]):
    filters = noise(*shape)
    found = direction(filters, "layer", generator(1))
    raw = direction(filters, "none", generator(1))
    torch.testing.assert_close(found.norm(), filters.norm())
    torch.testing.assert_close(found / found.norm(), raw / raw.norm())


def test_a_direction_without_normalisation_is_standard_normal_whatever_the_weights():
    found = direction(torch.zeros(100, 100), "none", generator(1))
    assert_same(found, direction(noise(100, 100), "none", generator(1)))
    # 5 standard errors of 10,000 draws
    assert abs(found.mean().item()) < 0.05
    assert abs(found.std().item() - 1) < 0.036


def test_a_filter_of_zeros_does_not_move():
    filters = noise(4, 3, 3, 3)
    filters[2] = 0
    assert_same(direction(filters, "filter", generator(1))[2], torch.zeros(3, 3, 3))


@pytest.mark.parametrize("normalisation", ["filter", "layer", "none"])
def test_tensors_of_one_dimension_stay_and_all_others_move(weights: Parameters, normalisation: str):
    moved = perturb(weights, Perturb(normalisation=normalisation), generator(0))  # pyright: ignore[reportArgumentType]
    assert list(moved) == list(weights)
    for name, value in weights.items():
        if value.ndim == 1:
            assert_same(moved[name], value)
        else:
            assert (moved[name] != value).flatten(1).any(1).all()


@pytest.mark.parametrize("directions", [1, 2, 3])
def test_magnitude_0_is_the_identity(weights: Parameters, directions: int):
    assert_same(perturb(weights, Perturb(magnitude=(0, 0), directions=directions), generator(0)), weights)


@pytest.mark.parametrize("magnitude", [0.01, 0.5])
def test_one_direction_of_fixed_magnitude_moves_every_filter_by_that_share(weights: Parameters, magnitude: float):
    moved = perturb(weights, Perturb(magnitude=(magnitude, magnitude), directions=1), generator(0))
    for name in ("convs.0.weight", "classifier.weight"):
        lengths = step_length(weights, moved, name)
        torch.testing.assert_close(lengths, torch.full_like(lengths, magnitude), rtol=1e-3, atol=0)


def test_the_magnitude_of_one_direction_is_uniform_in_its_range_and_shared_by_all_filters(weights: Parameters):
    lengths = []
    for seed in range(400):
        moved = perturb(weights, Perturb(magnitude=(0.01, 0.09), directions=1), generator(seed))
        conv, linear = (step_length(weights, moved, name) for name in ("convs.0.weight", "classifier.weight"))
        torch.testing.assert_close(conv.max(), conv.min(), rtol=1e-3, atol=0)
        torch.testing.assert_close(linear.mean(), conv.mean(), rtol=1e-3, atol=0)
        lengths.append(conv.mean())
    found = torch.stack(lengths)
    assert 0.0099 < found.min() < 0.012 and 0.088 < found.max() < 0.0901
    # 5 standard errors: sigma = 0.08 / sqrt(12), n = 400
    assert abs(found.mean().item() - 0.05) < 5 * 0.08 / math.sqrt(12) / 20


def test_two_directions_move_a_filter_by_about_8_percent_of_its_norm_in_rms(weights: Parameters):
    low, high = 0.01, 0.09
    # Independent directions add in squares: E||a_x d_x + a_y d_y||^2 = 2 E[a^2] ||w||^2, E[a^2] of U(low, high).
    expected = math.sqrt(2 * (high**3 - low**3) / (3 * (high - low)))
    assert 0.075 < expected < 0.085
    squares = [
        step_length(weights, perturb(weights, Perturb(magnitude=(low, high)), generator(seed)), "convs.0.weight")
        for seed in range(1000)
    ]
    found = torch.stack(squares).square().mean().sqrt().item()
    assert abs(found / expected - 1) < 0.05  # 5 standard errors are 4.4 %


def test_more_directions_move_further_in_proportion_to_the_square_root_of_their_number(weights: Parameters):
    def rms(directions: int) -> float:
        settings = Perturb(magnitude=(0.05, 0.05), directions=directions)
        lengths = [
            step_length(weights, perturb(weights, settings, generator(seed)), "classifier.weight")
            for seed in range(200)
        ]
        return torch.stack(lengths).square().mean().sqrt().item()

    assert abs(rms(4) / rms(1) - 2) < 0.1


@pytest.mark.parametrize("make", SOURCES)
def test_the_same_key_gives_the_same_network_and_another_step_another(make, early_models: Pool):
    source = make(early_models)
    key = Key(0)
    assert_same(source(key.at("step", 3)), source(key.at("step", 3)))
    given = [source(key.at("step", step))["classifier.weight"] for step in range(6)]
    assert any(not torch.equal(given[0], other) for other in given[1:])


@pytest.mark.parametrize("make", SOURCES)
def test_the_pool_is_changed_neither_by_drawing_nor_by_training_what_was_drawn(make, early_models: Pool):
    before = [copied(member.parameters) for member in early_models]
    source = make(early_models)
    for step in range(8):
        for value in source(Key(0).at("step", step)).values():
            value.requires_grad_(True)
            with torch.no_grad():
                value.add_(1)
    assert_same([member.parameters for member in early_models], before)
    assert not any(value.requires_grad for member in early_models for value in member.parameters.values())


def test_perturb_does_not_change_what_it_is_given(weights: Parameters):
    before = copied(weights)
    for value in perturb(weights, Perturb(), generator(0)).values():
        value.zero_()
    assert_same(weights, before)


def test_early_stage_draws_every_member_equally_often():
    pool = tuple(EarlyStageModel(i, 1.0, 0.0, {"weight": torch.full((1, 1), float(i))}) for i in range(3))
    source = EarlyStage(pool)
    drawn = torch.tensor([int(source(Key(0).at("step", step))["weight"].item()) for step in range(900)])
    counts = torch.bincount(drawn, minlength=3)
    # 5 standard deviations of a binomial with n = 900, p = 1/3
    assert (counts - 300).abs().max() < 5 * math.sqrt(900 / 3 * 2 / 3)


def test_perturbed_wraps_any_source_and_moves_what_that_source_gives(early_models: Pool):
    for source in (Fresh(network(), torch.device("cpu")), EarlyStage(early_models)):
        for step in range(4):
            key = Key(5).at("step", step)
            own = source(key)
            assert_same(Perturbed(source, Perturb(magnitude=(0, 0)))(key), own)
            moved = Perturbed(source, Perturb(magnitude=(0.05, 0.05), directions=1))(key)
            lengths = step_length(own, moved, "convs.0.weight")
            torch.testing.assert_close(lengths, torch.full_like(lengths, 0.05), rtol=1e-3, atol=0)
