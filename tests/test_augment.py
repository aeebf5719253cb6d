"""Augmentation: every transform against a loop over pixels, and how draws are shared, sliced and batched."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_same, doubled, generator, noise
from torch import Tensor

from accdd import augment
from accdd.augment import NAMES, PLACEMENTS, apply, apply_cutmix, at, draw, draw_cutmix, in_pixels, normalise
from accdd.config import InputError

SIZE = 8

# Loops --------------------------------------------------------------------------------------------------------


def flipped(image: Tensor, flip: bool) -> Tensor:
    result = image.clone()
    for column in range(image.shape[-1]):
        if flip:
            result[:, :, column] = image[:, :, image.shape[-1] - 1 - column]
    return result


def coloured(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    result = image + brightness
    grey = sum(result[channel] for channel in range(image.shape[0])) / image.shape[0]
    result = torch.stack([grey + saturation * (result[channel] - grey) for channel in range(image.shape[0])])
    mean = result.sum() / result.numel()
    return mean + contrast * (result - mean)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """out[i, j] = in[i + down, j + right], zero where that lies outside."""
    _, h, w = image.shape
    result = torch.zeros_like(image)
    for i in range(h):
        for j in range(w):
            if 0 <= i + down < h and 0 <= j + right < w:
                result[:, i, j] = image[:, i + down, j + right]
    return result


def sampled(image: Tensor, matrix: Tensor) -> Tensor:
    """Bilinear samples at matrix @ (x, y) around the image's centre, zero outside."""
    _, h, w = image.shape
    result = torch.zeros_like(image)
    for i in range(h):
        for j in range(w):
            x, y = (2 * j + 1) / w - 1, (2 * i + 1) / h - 1
            u = (matrix[0, 0] * x + matrix[0, 1] * y).item()
            v = (matrix[1, 0] * x + matrix[1, 1] * y).item()
            column, row = ((u + 1) * w - 1) / 2, ((v + 1) * h - 1) / 2
            for a in (math.floor(row), math.floor(row) + 1):
                for b in (math.floor(column), math.floor(column) + 1):
                    if 0 <= a < h and 0 <= b < w:
                        result[:, i, j] += (1 - abs(row - a)) * (1 - abs(column - b)) * image[:, a, b]
    return result


def with_hole(image: Tensor, row: int, column: int) -> Tensor:
    _, h, w = image.shape
    result = image.clone()
    for i in range(row - h // 4, row - h // 4 + h // 2):
        for j in range(column - w // 4, column - w // 4 + w // 2):
            if 0 <= i < h and 0 <= j < w:
                result[:, i, j] = 0
    return result


def naive(image: Tensor, drawn: augment.Draw, row: int) -> Tensor:
    """The whole chain in the documented order, for one image and one row of a draw."""
    if "flip" in drawn:
        image = flipped(image, bool(drawn["flip"][row]))
    if "brightness" in drawn:
        image = coloured(image, *(drawn[name][row].item() for name in ("brightness", "saturation", "contrast")))
    if "shift" in drawn:
        image = shifted(image, *drawn["shift"][row].tolist())
    if "affine" in drawn:
        image = sampled(image, drawn["affine"][row])
    if "cutout" in drawn:
        image = with_hole(image, *drawn["cutout"][row].tolist())
    return image


# Transforms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [*[(name,) for name in NAMES], NAMES, ("color", "crop", "cutout")], ids="+".join)
def test_apply_is_the_loop_over_pixels_per_image(names: tuple[str, ...]):
    images = noise(6, 3, SIZE, SIZE, dtype=torch.float64)
    for seed in range(4):
        drawn = doubled(draw(names, (6,), SIZE, generator(seed)))
        expected = torch.stack([naive(image, drawn, row) for row, image in enumerate(images)])
        torch.testing.assert_close(apply(images, drawn), expected, rtol=0, atol=1e-6)


def test_apply_without_augmentations_is_the_identity():
    images = noise(2, 3, SIZE, SIZE)
    drawn = draw((), (1,), SIZE, generator())
    assert drawn == {}
    assert_same(apply(images, drawn), images)


def test_colour_with_neutral_parameters_is_the_identity():
    images = noise(2, 3, SIZE, SIZE, dtype=torch.float64)
    neutral = {"brightness": torch.zeros(1), "saturation": torch.ones(1), "contrast": torch.ones(1)}
    torch.testing.assert_close(apply(images, neutral), images, rtol=0, atol=1e-12)


def test_no_saturation_leaves_grey_and_no_contrast_leaves_the_mean():
    images = noise(2, 3, SIZE, SIZE, dtype=torch.float64)
    grey = apply(images, {"brightness": torch.zeros(1), "saturation": torch.zeros(1), "contrast": torch.ones(1)})
    torch.testing.assert_close(grey, images.mean(1, keepdim=True).expand_as(images))
    flat = apply(images, {"brightness": torch.ones(1), "saturation": torch.ones(1), "contrast": torch.zeros(1)})
    torch.testing.assert_close(flat, images.mean((1, 2, 3), keepdim=True).expand_as(images) + 1)


def test_a_shift_further_than_the_image_leaves_only_the_zeros_that_entered():
    assert_same(apply(noise(2, 3, SIZE, SIZE), {"shift": torch.tensor([[SIZE, 0]])}), torch.zeros(2, 3, SIZE, SIZE))


def test_an_affine_quarter_turn_is_rot90():
    images = noise(2, 3, SIZE, SIZE)
    turned = apply(images, {"affine": torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])})
    torch.testing.assert_close(turned, images.rot90(1, (-2, -1)), rtol=0, atol=1e-5)


# Photographs --------------------------------------------------------------------------------------------------


def test_a_window_is_cut_out_and_enlarged_as_interpolate_does():
    images = noise(40, 3, 13, 13, dtype=torch.float64).sigmoid()
    windows = draw(("resized",), (40,), 13, generator())["window"]
    expected = [
        F.interpolate(image[None, :, top : top + height, left : left + width], 13, mode="bilinear")
        for image, (top, left, height, width) in zip(images, windows.tolist(), strict=True)
    ]
    torch.testing.assert_close(in_pixels(images, {"window": windows}), torch.cat(expected), rtol=0, atol=1e-5)


def test_windows_lie_in_the_image_and_are_as_large_and_as_wide_as_told():
    top, left, height, width = draw(("resized",), (5000,), 64, generator())["window"].unbind(-1)
    assert min(top.min(), left.min()) == 0 and (top + height).max() == 64 and (left + width).max() == 64
    area, aspect = height * width / 64**2, width / height
    assert 0.48 < area.min() and area.max() == 1
    assert 0.72 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.4
    assert abs(area.mean() - 0.7) < 0.03, "the large ones fit less often, so below 0.75"
    assert abs(top.float().mean() - (64 - height.float()).mean() / 2) < 0.3


def test_jitter_is_the_loop_over_images_in_the_order_drawn():
    images = noise(12, 3, SIZE, SIZE, dtype=torch.float64).sigmoid()
    drawn = doubled(draw(("jitter",), (12,), SIZE, generator()))
    assert {tuple(order) for order in drawn["order"].tolist()} > {(0, 1, 2)}
    assert drawn["jitter"].min() >= 0.6 and drawn["jitter"].max() <= 1.4
    expected = []
    for image, factors, order in zip(images, drawn["jitter"], drawn["order"].tolist(), strict=True):
        for kind in order:
            grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
            target = (torch.tensor(0.0), grey.mean(), grey)[kind]
            image = factors[kind] * image + (1 - factors[kind]) * target
        expected.append(image)
    torch.testing.assert_close(in_pixels(images, drawn), torch.stack(expected), rtol=0, atol=1e-9)


def test_lighting_moves_colours_along_their_principal_directions_and_grey_not_at_all():
    drawn = draw(("lighting",), (20_000,), SIZE, generator())
    directions = torch.tensor(augment.COLOUR_DIRECTIONS)
    along = drawn["lighting"] @ directions  # they are nearly orthonormal
    expected = augment.LIGHTING * torch.tensor(augment.COLOUR_VARIANCES)
    torch.testing.assert_close(along.std(0), expected, rtol=0.02, atol=1e-4)
    images = noise(2, 3, SIZE, SIZE)
    two = at(drawn, slice(2))
    torch.testing.assert_close(in_pixels(images, two) - images, two["lighting"][:, :, None, None].expand_as(images))
    grey = noise(2, 1, SIZE, SIZE)
    assert_same(in_pixels(grey, two), grey)


def test_pixels_of_all_kinds_are_augmented_before_they_are_normalised():
    names, mean, std = ("flip", *augment.PHOTOGRAPHS), torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    whole = torch.randint(0, 256, (4, 3, SIZE, SIZE), generator=generator(), dtype=torch.uint8)
    drawn = draw(names, (4,), SIZE, generator(1))
    found = augment.augmented(whole, drawn, mean, std)
    torch.testing.assert_close(found, augment.augmented(whole / 255, drawn, mean, std))
    pixels = in_pixels(whole, drawn)
    torch.testing.assert_close(found, apply((pixels - mean[:, None, None]) / std[:, None, None], drawn))
    grey = augment.augmented(whole[:, :1], drawn, mean[:1], std[:1])
    assert grey.shape == (4, 1, SIZE, SIZE) and grey.isfinite().all()


def test_photographs_are_never_rivals_and_change_no_other_draw():
    alone = draw(NAMES, (6,), SIZE, generator(), one_of=True)
    both = draw((*NAMES, *augment.PHOTOGRAPHS), (6,), SIZE, generator(), one_of=True)
    assert_same(alone, {name: both[name] for name in alone})
    assert set(both) - set(alone) == {"window", "jitter", "order", "lighting"}


def test_photographs_are_mapped_over_networks():
    images = noise(2, 3, 3, SIZE, SIZE)
    drawn = draw(augment.PHOTOGRAPHS, (2, 3), SIZE, generator())
    expected = torch.stack([in_pixels(image, at(drawn, row)) for row, image in enumerate(images)])
    torch.testing.assert_close(torch.func.vmap(in_pixels)(images, drawn), expected)


@pytest.mark.parametrize("names", [("crop", "scale", "rotate"), ("crop", "scale"), ("crop", "rotate")])
def test_the_affine_is_the_identity_whenever_crop_was_chosen(names: tuple[str, ...]):
    images = noise(1, 3, SIZE, SIZE)
    seen = 0
    for seed in range(30):
        drawn = draw(names, (1,), SIZE, generator(seed))
        if drawn["shift"].any():
            seen += 1
            assert_same(drawn["affine"], torch.eye(2)[None])
            torch.testing.assert_close(apply(images, {"affine": drawn["affine"]}), images, rtol=0, atol=1e-5)
    assert seen > 0


# Draws --------------------------------------------------------------------------------------------------------


def test_one_placement_at_a_time_the_same_for_a_batch_and_each_equally_often():
    drawn = draw(PLACEMENTS, (900, 4), 32, generator())
    cropped = drawn["shift"].any(-1)  # (900, 4)
    off_diagonal = drawn["affine"][..., 0, 1] != 0
    stretched = (drawn["affine"].diagonal(dim1=-2, dim2=-1) != 1).any(-1) & ~off_diagonal
    used = torch.stack([cropped, stretched, off_diagonal])
    assert used.sum(0).max() == 1
    batches = used.any(-1)  # (3, 900): which placement a batch uses anywhere
    assert batches.sum(0).max() == 1
    # 5 standard deviations of a binomial with n = 900, p = 1/3
    assert (batches.sum(1) - 300).abs().max() < 5 * math.sqrt(900 / 3 * 2 / 3)


def test_draws_stay_in_and_fill_their_published_ranges():
    drawn = draw(NAMES, (3000, 2), 32, generator())
    half, third = drawn["flip"].float().mean().item(), drawn["affine"][..., 0, 1]
    assert abs(half - 0.5) < 5 * 0.5 / math.sqrt(6000)
    for name, low, high in [("brightness", -0.5, 0.5), ("saturation", 0, 2), ("contrast", 0.5, 1.5)]:
        values = drawn[name]
        assert low <= values.min() < low + 0.01 * 2 and high - 0.01 * 2 < values.max() <= high
    assert (drawn["shift"].min(), drawn["shift"].max()) == (-4, 4)  # 32 * 0.125
    assert (drawn["cutout"].min(), drawn["cutout"].max()) == (0, 32)
    angle = torch.asin(third).abs().max().item() * 180 / math.pi
    assert 14.9 < angle <= 15.0001
    stretched = drawn["affine"].diagonal(dim1=-2, dim2=-1)[third == 0]
    assert 1 / 1.2 - 1e-6 <= stretched.min() < 0.84 and 1.19 < stretched.max() <= 1.2 + 1e-6


def test_scale_draws_height_and_width_apart_and_rotation_keeps_lengths():
    stretch = draw(("scale",), (50,), SIZE, generator())["affine"].diagonal(dim1=-2, dim2=-1)
    assert (stretch[:, 0] != stretch[:, 1]).all()
    turn = draw(("rotate",), (50,), SIZE, generator())["affine"]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(2).expand(50, 2, 2))
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(50))


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3, 1), (4, 6)])
def test_every_drawn_tensor_begins_with_the_shape_asked_for(shape: tuple[int, ...]):
    drawn = draw(NAMES, shape, SIZE, generator())
    assert set(drawn) == {"flip", "brightness", "saturation", "contrast", "shift", "affine", "cutout"}
    rest = {"shift": (2,), "cutout": (2,), "affine": (2, 2)}
    for name, value in drawn.items():
        assert value.shape == (*shape, *rest.get(name, ())), name


def test_the_order_of_names_changes_no_draw():
    assert_same(draw(NAMES[::-1], (2, 3), SIZE, generator()), draw(NAMES, (2, 3), SIZE, generator()))


def test_per_image_draws_differ_within_a_batch_and_positions_in_time_differ():
    drawn = draw(("color", "cutout"), (3, 16), SIZE, generator())
    assert all(value.unique(dim=1).shape[1] > 1 for value in drawn.values())
    assert len(drawn["brightness"].unique()) == 48


def test_an_unknown_augmentation_is_refused_with_the_choices():
    with pytest.raises(InputError, match=r"colour.*Expected any of: flip, color"):
        draw(("colour",), (1,), SIZE, generator())


# Sharing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_real_and_synthetic_images_see_the_same_siamese_draw(name: str):
    real, synthetic = noise(5, 3, SIZE, SIZE, seed=1), noise(3, 3, SIZE, SIZE, seed=2)
    for seed in range(5):
        drawn = draw((name,), (1,), SIZE, generator(seed))
        together = apply(torch.cat([real, synthetic]), drawn)
        torch.testing.assert_close(together, torch.cat([apply(real, drawn), apply(synthetic, drawn)]))


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_per_image_acts_on_each_image_alone(name: str):
    images = noise(5, 3, SIZE, SIZE)
    drawn = draw((name,), (5,), SIZE, generator(3))
    alone = [apply(images[i : i + 1], at(drawn, slice(i, i + 1))) for i in range(5)]
    torch.testing.assert_close(apply(images, drawn), torch.cat(alone))


def test_a_siamese_draw_is_the_per_image_draw_that_is_equal_for_all():
    images = noise(4, 3, SIZE, SIZE)
    drawn = draw(NAMES, (1,), SIZE, generator(2))
    repeated = {name: value.expand(4, *value.shape[1:]) for name, value in drawn.items()}
    torch.testing.assert_close(apply(images, drawn), apply(images, repeated))


@pytest.mark.parametrize("name", NAMES)
def test_apply_is_differentiable(name: str):
    images = noise(2, 3, 4, 4, dtype=torch.float64).requires_grad_(True)
    drawn = doubled(draw((name,), (2,), 4, generator(1)))
    assert torch.autograd.gradcheck(lambda batch: apply(batch, drawn), (images,))


@pytest.mark.parametrize("name", NAMES)
def test_apply_over_classes_by_vmap_equals_the_loop_without_a_slow_fallback(name: str):
    # Slow fallbacks of vmap announce themselves by a warning, which is an error here.
    images = noise(3, 4, 3, SIZE, SIZE)
    drawn = draw((name,), (3, 1), SIZE, generator(1))
    looped = torch.stack([apply(batch, at(drawn, label)) for label, batch in enumerate(images)])
    torch.testing.assert_close(torch.func.vmap(apply)(images, drawn), looped)


# Normalising --------------------------------------------------------------------------------------------------


def test_normalise_treats_bytes_and_floats_alike_and_scales_each_channel():
    pixels = torch.randint(256, (4, 3, SIZE, SIZE), generator=generator(), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    expected = torch.stack([(pixels[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(normalise(pixels, mean, std), expected)
    torch.testing.assert_close(normalise(pixels.float() / 255, mean, std), expected)


def test_normalised_training_data_has_zero_mean_and_unit_deviation(data):
    images = normalise(data.images, data.mean, data.std)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), torch.ones(3), rtol=1e-5, atol=0)


# CutMix -------------------------------------------------------------------------------------------------------


def one_hot(*labels: int) -> Tensor:
    return torch.eye(4)[list(labels)]


@pytest.mark.parametrize(("top", "bottom", "left", "right"), [(1, 4, 2, 8), (0, 8, 0, 8), (3, 3, 0, 8), (7, 8, 7, 8)])
def test_cutmix_pastes_the_partners_box_and_mixes_targets_by_its_area(top: int, bottom: int, left: int, right: int):
    images, targets = noise(3, 2, SIZE, SIZE), one_hot(0, 1, 2)
    box = {"top": top, "bottom": bottom, "left": left, "right": right}
    drawn = {name: torch.tensor(value) for name, value in box.items()} | {"rank": torch.tensor([0.9, 0.1, 0.5])}
    partner = [1, 2, 0]  # order of the ranks
    expected, share = images.clone(), (bottom - top) * (right - left) / SIZE**2
    for i in range(3):
        expected[i, :, top:bottom, left:right] = images[partner[i], :, top:bottom, left:right]
    mixed, mixed_targets = apply_cutmix(images, targets, drawn)
    assert_same(mixed, expected)
    torch.testing.assert_close(mixed_targets, (1 - share) * targets + share * targets[partner])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(3))


def test_cutmix_with_probability_0_is_the_identity_and_with_1_never_idle_for_long():
    images, targets = noise(4, 3, SIZE, SIZE), one_hot(0, 1, 2, 3)
    never, always = (draw_cutmix(probability, 40, 4, SIZE, generator()) for probability in (0.0, 1.0))
    changed = 0
    for step in range(40):
        assert_same(apply_cutmix(images, targets, at(never, step)), (images, targets))
        changed += not torch.equal(apply_cutmix(images, targets, at(always, step))[0], images)
    assert changed > 25


def test_cutmix_boxes_lie_inside_the_image_and_are_used_as_often_as_asked():
    drawn = draw_cutmix(0.5, 2000, 4, 32, generator())
    for low, high in (("top", "bottom"), ("left", "right")):
        assert (drawn[low] >= 0).all() and (drawn[low] <= drawn[high]).all() and (drawn[high] <= 32).all()
    area = (drawn["bottom"] - drawn["top"]) * (drawn["right"] - drawn["left"])
    used = (area > 0).float().mean().item()
    # 5 standard errors below and above; a few boxes are too thin to hold a pixel.
    assert 0.5 - 0.056 - 0.01 < used < 0.5 + 0.056


def test_cutmix_box_sides_follow_beta_1_1():
    drawn = draw_cutmix(1.0, 4000, 1, 1024, generator())
    # Away from the borders the side is 1024 sqrt(u), u uniform: half of the boxes are wider than 1024 sqrt(1/2).
    # The border cuts a side s centred uniformly on 1024 to s - s^2 / (4 * 1024) on average, and E[s] = 2/3,
    # E[s^2] = 1/2 of the image: mean width (2/3 - 1/8).
    width = (drawn["right"] - drawn["left"]).float().mean().item() / 1024
    assert abs(width - (2 / 3 - 1 / 8)) < 0.02


def test_a_short_last_batch_takes_a_prefix_of_the_ranks():
    drawn = at(draw_cutmix(1.0, 1, 8, SIZE, generator(1)), 0)
    images, targets = noise(3, 2, SIZE, SIZE), one_hot(0, 1, 2)
    short = drawn | {"rank": drawn["rank"][:3]}
    assert_same(apply_cutmix(images, targets, drawn), apply_cutmix(images, targets, short))
