"""Where images start, and that one step per sweep is the reference's one step per class."""

import pytest
import torch
from helpers import assert_same, noise, stripes
from torch import Tensor

from accdd import formation, selection
from accdd.data import Dataset, build
from accdd.keys import Key
from accdd.synthetic import descend, effective_lr, normalised, per_sweep, scheduled, start


def step_after_every_class(
    curvature: Tensor, centre: Tensor, images: Tensor, lr: float, momentum: float, sweeps: int
) -> Tensor:
    """torch's SGD over all images after every class, each with a quadratic loss of its own images.

    Returns:
        (sweeps, classes, pixels): each class's images as they are when its turn comes.
    """
    images = images.clone().requires_grad_(True)
    sgd = torch.optim.SGD([images], lr=lr, momentum=momentum)
    seen = []
    for _ in range(sweeps):
        turns = []
        for label in range(len(images)):
            turns.append(images[label].detach().clone())
            sgd.zero_grad(set_to_none=False)
            (0.5 * (curvature[label] * (images[label] - centre[label]).square()).sum()).backward()
            sgd.step()
        seen.append(torch.stack(turns))
    return torch.stack(seen)


@pytest.mark.parametrize("num_classes", [1, 2, 3, 10])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_one_step_per_sweep_is_one_step_per_class_seen_at_the_class_s_own_turn(num_classes: int, momentum: float):
    sweeps, pixels, base = 12, 5, 0.05
    curvature = noise(num_classes, pixels, seed=1, dtype=torch.float64).sigmoid()  # small enough not to diverge
    centre, images = (noise(num_classes, pixels, seed=seed, dtype=torch.float64) for seed in (2, 3))
    expected = step_after_every_class(curvature, centre, images, base, momentum, sweeps)

    lr, left = per_sweep(base, momentum, num_classes)
    velocity = torch.zeros_like(images)
    for sweep in range(sweeps):
        torch.testing.assert_close(images, expected[sweep], rtol=0, atol=1e-12)
        images, velocity = descend(images, velocity, curvature * (images - centre), lr, left)
    assert (images - expected[0]).abs().max() > 0.01  # it did move


def test_for_10_classes_it_is_nearly_plain_descent_at_twice_the_step():
    lr, momentum = per_sweep(0.01, 0.5, 10)
    assert momentum == 0.5**10
    assert lr == pytest.approx(0.02 * (1 - 0.5**10), rel=1e-12)


def test_per_sweep_for_one_class_or_without_momentum_changes_nothing():
    assert per_sweep(0.01, 0.5, 1) == pytest.approx((0.01, 0.5))
    assert per_sweep(0.01, 0.0, 7) == pytest.approx((0.01, 0.0))


def test_normalised_gradients_have_one_size_per_class_and_their_own_direction():
    slopes = noise(3, 2, 3, 8, 8) * torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1, 1, 1)
    slopes[0, 1] *= 5  # within a class, images keep their proportion
    found = normalised(slopes)
    torch.testing.assert_close(found.square().mean((1, 2, 3, 4)), torch.ones(3))
    torch.testing.assert_close(torch.cosine_similarity(found.flatten(1), slopes.flatten(1)), torch.ones(3))
    assert_same(normalised(torch.zeros(2, 1, 3, 8, 8)), torch.zeros(2, 1, 3, 8, 8))


@pytest.mark.parametrize("size", [1e-15, 1e-20, 1e-25, 1e-40])
def test_gradients_too_small_to_be_squared_move_images_no_further_than_others(size: float):
    assert normalised(noise(2, 2, 3, 8, 8) * size).square().mean().sqrt() <= 1.001


@pytest.mark.parametrize(("schedule", "factors"), [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.5, 0, 0])])
def test_a_schedule_is_a_factor_by_the_share_that_is_over(schedule: str, factors: list[float]):
    assert [scheduled(schedule, share) for share in (0.0, 0.5, 1.0, 1.5)] == pytest.approx(factors)


def test_descend_is_torch_s_sgd():
    images, gradients = noise(2, 3, dtype=torch.float64), [noise(2, 3, seed=i, dtype=torch.float64) for i in range(5)]
    reference = images.clone().requires_grad_(True)
    sgd = torch.optim.SGD([reference], lr=0.3, momentum=0.7)
    velocity = torch.zeros_like(images)
    for gradient in gradients:
        reference.grad = gradient.clone()
        sgd.step()
        before = (images.clone(), velocity.clone())
        stepped, stepped_velocity = descend(images, velocity, gradient, 0.3, 0.7)
        assert_same((images, velocity), before)
        images, velocity = stepped, stepped_velocity
        torch.testing.assert_close(images, reference.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "base_size", "share"),
    [(32, 32, 1.0), (28, 32, 0.765625), (64, 32, 4.0), (112, 224, 0.25), (96, None, 1.0)],
)
def test_the_effective_step_grows_with_images_and_with_pixels_against_those_it_is_stated_for(
    size: int, base_size: int | None, share: float
):
    assert effective_lr(0.01, ipc=10, size=size, base_size=base_size) == pytest.approx(0.01 * share)
    assert effective_lr(0.01, ipc=1, size=size, base_size=base_size) == pytest.approx(0.001 * share)


# Start --------------------------------------------------------------------------------------------------------


def begin(data: Dataset, kind: str, seed: int = 0, *, ipc: int = 3, factor: int = 2, shrink: str = "area") -> Tensor:
    return start(data, kind, ipc=ipc, factor=factor, shrink=shrink, key=Key(seed))


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("kind", ["noise", "random", "mixed", "kmeans"])
@pytest.mark.parametrize("shrink", ["area", "bilinear", "nearest"])
def test_every_start_is_in_range_of_the_right_shape_and_decided_by_the_key(
    data: Dataset, kind: str, factor: int, shrink: str
):
    images = begin(data, kind, factor=factor, shrink=shrink)
    assert images.shape == (2, 3, 3, 8, 8) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert_same(begin(data, kind, factor=factor, shrink=shrink), images)
    assert not torch.equal(begin(data, kind, 1, factor=factor, shrink=shrink), images)


def test_noise_has_the_published_moments(data: Dataset):
    images = begin(data, "noise", ipc=100)
    inside = images[(images > 0) & (images < 1)]
    # N(0.5, 0.25^2) cut at two deviations has standard deviation 0.25 * 0.8796; n = 38,400.
    assert abs(inside.mean().item() - 0.5) < 0.006
    assert abs(inside.std().item() - 0.25 * 0.8796) < 0.005
    # 4.55 % lie beyond two deviations
    assert abs(1 - inside.numel() / images.numel() - 0.0455) < 0.006


def positions(data: Dataset, label: int, images: Tensor) -> list[int]:
    """Where in the data each image is, to the last bit."""
    rows = data.class_index[label]
    real = data.images[rows].float() / 255
    return [rows[(real == image).flatten(1).all(1)].item() for image in images]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("ipc", [1, 5, 12])
def test_random_images_are_real_images_of_their_class_without_repetition(data: Dataset, ipc: int):
    images = begin(data, "random", ipc=ipc)
    for label in (0, 1):
        assert len(set(positions(data, label, images[label]))) == ipc


@pytest.mark.parametrize("factor", [1, 2])
def test_mixed_images_decode_back_to_about_the_real_images_they_were_made_of(data: Dataset, factor: int):
    # Wide features, which survive halving.
    smooth = torch.nn.functional.interpolate(data.images.float(), size=2, mode="area")
    smooth = torch.nn.functional.interpolate(smooth, size=8, mode="bilinear").to(torch.uint8)
    wide = Dataset("wide", smooth, data.labels, data.class_names, smooth, data.labels)
    ipc = 3
    stored = begin(wide, "mixed", ipc=ipc, factor=factor)
    chosen = selection.random(wide, ipc * factor**2, Key(0))
    for label in (0, 1):
        assert (wide.labels[chosen[label]] == label).all()
        assert len(chosen[label].unique()) == ipc * factor**2
        real = wide.images[chosen[label]].float() / 255
        decoded = formation.decode(stored[label], factor)
        torch.testing.assert_close(decoded, real, rtol=0, atol=0.08)


def test_mixed_images_by_nearest_are_pixels_of_distinct_real_images_in_decode_s_tiles(data: Dataset):
    stored = begin(data, "mixed", ipc=3, factor=2, shrink="nearest")
    for label in (0, 1):
        shrunk = data.images[data.class_index[label]].float()[:, :, ::2, ::2] / 255
        found = [
            (shrunk == tile).flatten(1).all(1).nonzero().flatten().tolist()
            for tile in formation.split(stored[label], 2)
        ]
        assert all(len(each) == 1 for each in found)
        assert len({each[0] for each in found}) == 12


@pytest.mark.parametrize("factor", [1, 2])
def test_kmeans_images_hold_the_chosen_images_in_decode_s_tiles(data: Dataset, factor: int):
    stored = begin(data, "kmeans", ipc=2, factor=factor, shrink="nearest")
    chosen = selection.kmeans(data, 2 * factor**2, Key(0))
    for label in (0, 1):
        real = data.images[chosen[label]].float()[:, :, ::factor, ::factor] / 255
        assert_same(formation.split(stored[label], factor), real)


# Selection ----------------------------------------------------------------------------------------------------


def test_a_class_with_too_few_images_repeats_them_and_others_do_not():
    small = stripes(per_class=4)
    chosen = selection.random(small, 9, Key(0))
    assert chosen.shape == (2, 9)
    for label in (0, 1):
        assert (small.labels[chosen[label]] == label).all()
    few = noise(20, 3, 8, 8).abs().to(torch.uint8), torch.arange(20).clamp(max=3) // 3  # 3 and 17
    uneven = build("uneven", few, few)
    some = selection.random(uneven, 9, Key(0))
    assert (uneven.labels[some] == torch.arange(2)[:, None]).all()
    assert len(some[0].unique()) == 3 and len(some[1].unique()) == 9


def test_every_image_is_chosen_equally_often(data: Dataset):
    counts = torch.zeros(24)
    for seed in range(600):
        counts[selection.random(data, 3, Key(seed)).flatten()] += 1
    # 600 * 3 / 12 = 150; 5 standard deviations of a binomial with p = 1/4
    assert (counts - 150).abs().max() < 5 * (600 * 0.25 * 0.75) ** 0.5


def clumps(per_clump: int = 6, greys: tuple[int, ...] = (30, 120, 220)) -> Dataset:
    """Two classes of grey images under a little noise, in clumps by their grey."""
    grey = torch.tensor(greys).repeat(2 * per_clump)
    images = (grey[:, None, None, None] + 5 * noise(len(grey), 3, 8, 8)).clamp(0, 255).to(torch.uint8)
    split = images, torch.arange(len(grey)) // len(greys) % 2
    return build("clumps", split, split)


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_takes_of_each_clump_the_image_nearest_to_its_mean(seed: int):
    data = clumps()
    chosen = selection.kmeans(data, 3, Key(seed))
    for label, rows in enumerate(data.class_index):
        pixels = data.images[rows].flatten(1).double()
        clump = (pixels.mean(1) / 100).round()  # 0, 1 and 2
        expected = []
        for each in clump.unique():
            own = rows[clump == each]
            away = (data.images[own].flatten(1).double() - pixels[clump == each].mean(0)).square().sum(1)
            expected.append(int(own[away.argmin()]))
        assert sorted(chosen[label].tolist()) == sorted(expected)


@pytest.mark.parametrize("count", [1, 5, 12, 13, 24, 29])
def test_kmeans_takes_images_of_the_class_once_while_there_are_enough(data: Dataset, count: int):
    chosen = selection.kmeans(data, count, Key(0))
    assert chosen.shape == (2, count) and chosen.dtype == torch.int64
    assert_same(selection.kmeans(data, count, Key(0)), chosen)
    for label, rows in enumerate(data.class_index):
        often = (chosen[label] == rows[:, None]).sum(1)
        assert often.sum() == count and often.max() - often.min() <= 1


def test_kmeans_of_images_that_are_all_the_same_still_takes_different_ones():
    labels = torch.arange(20) % 2
    same = torch.full((20, 3, 8, 8), 7, dtype=torch.uint8), labels
    chosen = selection.kmeans(build("same", same, same), 4, Key(0))
    assert all(len(row.unique()) == 4 for row in chosen)
    assert (labels[chosen] == torch.arange(2)[:, None]).all()


@pytest.mark.parametrize(("count", "seen"), [(2, 7), (5, 10), (6, 12)])
def test_kmeans_looks_at_some_images_of_a_large_class(monkeypatch: pytest.MonkeyPatch, count: int, seen: int):
    data, looked = stripes(per_class=12), []
    principal = selection.principal

    def watching(pixels: Tensor, components: int) -> Tensor:
        looked.append(pixels)
        return principal(pixels, components)

    monkeypatch.setattr(selection, "principal", watching)
    monkeypatch.setattr(selection, "CLUSTERED", 7)
    first, other = (selection.kmeans(data, count, Key(seed)) for seed in (0, 1))
    assert [len(pixels) for pixels in looked] == [seen] * 4
    assert all(len(pixels.unique(dim=0)) == seen for pixels in looked)
    assert not torch.equal(first, other)


def test_all_principal_components_keep_every_distance_and_fewer_keep_the_most(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "_PIXELS", 50)
    pixels = torch.randint(0, 256, (9, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scaled = pixels.double() / 255
    whole, few = selection.principal(pixels, 64), selection.principal(pixels, 3)
    assert whole.shape == (9, 9) and few.shape == (9, 3)
    torch.testing.assert_close(torch.cdist(whole, whole), torch.cdist(scaled, scaled), rtol=0, atol=1e-5)
    left, values, _ = torch.linalg.svd(scaled - scaled.mean(0), full_matrices=False)
    expected = left[:, :3] * values[:3]
    torch.testing.assert_close(torch.cdist(few, few), torch.cdist(expected, expected), rtol=0, atol=1e-4)
