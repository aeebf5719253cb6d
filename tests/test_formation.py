"""Multi-formation against a double loop over tiles with bilinear interpolation written out."""

import math

import pytest
import torch
from helpers import assert_same, noise
from torch import Tensor

from accdd.formation import PADDING, decode, encode, join, split

SIZES = (8, 28, 32, 64)
FACTORS = (1, 2, 3)

sizes = pytest.mark.parametrize("size", SIZES)
factors = pytest.mark.parametrize("factor", FACTORS)


def enlarging(tile: int, size: int) -> Tensor:
    """The matrix (size, tile) of bilinear enlargement where pixels are areas (align_corners=False)."""
    matrix = torch.zeros(size, tile, dtype=torch.float64)
    for pixel in range(size):
        position = max(0.0, (pixel + 0.5) * tile / size - 0.5)
        below = min(int(position), tile - 1)
        above = min(below + 1, tile - 1)
        matrix[pixel, below] += 1 - (position - below)
        matrix[pixel, above] += position - below
    return matrix


def naive_decode(images: Tensor, factor: int) -> Tensor:
    size = images.shape[-1]
    tile = math.ceil(size / factor)
    enlarge = enlarging(tile, size)
    decoded = []
    for row in range(factor):
        for column in range(factor):
            for image in images:
                canvas = torch.full((image.shape[0], tile * factor, tile * factor), 0.5, dtype=torch.float64)
                canvas[:, :size, :size] = image
                piece = canvas[:, row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
                decoded.append(enlarge @ piece @ enlarge.T)
    return torch.stack(decoded)


@sizes
@factors
def test_join_undoes_split_exactly(size: int, factor: int):
    images = noise(3, 2, size, size)
    assert_same(join(split(images, factor), factor, (size, size)), images)


@sizes
@factors
def test_decode_is_a_double_loop_over_enlarged_tiles(size: int, factor: int):
    images = noise(3, 2, size, size, dtype=torch.float64)
    decoded = decode(images, factor)
    assert decoded.shape == (factor**2 * 3, 2, size, size)
    torch.testing.assert_close(decoded, naive_decode(images, factor), rtol=0, atol=1e-12)


@sizes
def test_decode_with_factor_1_returns_the_images(size: int):
    images = noise(2, 3, size, size)
    assert_same(decode(images, 1), images)
    assert_same(encode(images, 1), images)


@pytest.mark.parametrize("factor", [2, 3])
def test_all_top_left_tiles_come_first_then_those_right_of_them(factor: int):
    size = 4 * factor
    for row in range(factor):
        for column in range(factor):
            images = torch.zeros(2, 1, size, size)
            images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = torch.tensor([1.0, 2.0])[
                :, None, None, None
            ]
            values = decode(images, factor).mean((1, 2, 3))
            expected = torch.zeros(factor**2 * 2)
            first = 2 * (row * factor + column)
            expected[first : first + 2] = torch.tensor([1.0, 2.0])
            torch.testing.assert_close(values, expected)


@factors
def test_labels_of_decoded_images_are_the_labels_repeated(factor: int):
    labels = torch.tensor([3, 1, 2])
    images = labels.double()[:, None, None, None].expand(3, 1, 12, 12)
    values = decode(images, factor).mean((1, 2, 3))
    torch.testing.assert_close(values, labels.repeat(factor**2).double())


@pytest.mark.parametrize(("size", "factor", "border"), [(28, 3, 2), (8, 3, 1), (32, 3, 1), (64, 3, 2)])
def test_the_border_added_where_factor_does_not_divide_is_mid_grey(size: int, factor: int, border: int):
    last = split(torch.zeros(1, 1, size, size), factor)[-1, 0]
    assert PADDING == 0.5
    assert_same(last[-border:], torch.full_like(last[-border:], 0.5))
    assert_same(last[:, -border:], torch.full_like(last[:, -border:], 0.5))
    assert_same(last[:-border, :-border], torch.zeros_like(last[:-border, :-border]))


@pytest.mark.parametrize("mode", ["area", "bilinear", "nearest"])
@pytest.mark.parametrize(("size", "factor"), [(8, 2), (28, 2), (32, 2), (64, 2), (12, 3), (24, 3)])
def test_encode_undoes_decode_on_constant_images(mode: str, size: int, factor: int):
    images = noise(3, 2, 1, 1, dtype=torch.float64).expand(3, 2, size, size)
    torch.testing.assert_close(encode(decode(images, factor), factor, mode), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["area", "bilinear", "nearest"])
@sizes
@factors
def test_encode_undoes_decode_on_images_of_the_border_value_at_every_size(mode: str, size: int, factor: int):
    images = torch.full((2, 3, size, size), PADDING, dtype=torch.float64)
    torch.testing.assert_close(encode(decode(images, factor), factor, mode), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["area", "nearest"])
@pytest.mark.parametrize(("size", "factor"), [(8, 2), (28, 2), (32, 2), (64, 2), (12, 3), (24, 3)])
def test_encode_undoes_repetition_of_pixels_where_factor_divides(mode: str, size: int, factor: int):
    images = noise(3, 2, size, size, dtype=torch.float64)
    enlarged = split(images, factor).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(encode(enlarged, factor, mode), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["area", "bilinear", "nearest"])
@sizes
@factors
def test_encode_puts_each_image_into_the_tile_that_decode_cuts(mode: str, size: int, factor: int):
    values = torch.arange(factor**2 * 2, dtype=torch.float64)
    stored = encode(values[:, None, None, None].expand(-1, 3, size, size), factor, mode)
    assert stored.shape == (2, 3, size, size)
    tiles = split(stored, factor)
    tile = tiles.shape[-1]
    inside = size - (factor - 1) * tile  # pixels of the last tile before the border
    for value, piece in zip(values, tiles, strict=True):
        part = piece[:, :inside, :inside]
        torch.testing.assert_close(part, value.expand_as(part), rtol=0, atol=1e-12)


def test_nearest_shrinking_keeps_existing_pixels():
    images = torch.arange(4 * 8 * 8, dtype=torch.float64).reshape(4, 1, 8, 8)
    tiles = split(encode(images, 2, "nearest"), 2)
    assert_same(tiles, images[:, :, ::2, ::2])


def test_area_shrinking_keeps_the_mean_where_factor_divides():
    images = noise(4, 3, 8, 8, dtype=torch.float64)
    tiles = split(encode(images, 2, "area"), 2)
    torch.testing.assert_close(tiles.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "factor"), [(4, 2), (3, 2), (4, 3)])
def test_decode_is_differentiable(size: int, factor: int):
    images = noise(1, 1, size, size, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda stored: decode(stored, factor), (images,))


@pytest.mark.parametrize("factor", [2, 3])
def test_every_stored_pixel_reaches_the_decoded_images(factor: int):
    images = noise(1, 1, 8, 8, dtype=torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(decode(images, factor).sum(), images)
    assert gradient.min() > 0
