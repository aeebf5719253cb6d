"""Multi-formation against a double loop over tiles with bilinear interpolation written out."""

import itertools
import math

import pytest
import torch
from helpers import FORMATIONS, assert_same, noise
from torch import Tensor

from accdd.formation import FORMATIONS as BY_NAME
from accdd.formation import PADDING, WHOLE, count, decode, decoded_by, encode, join, shares, split

SIZES = (8, 28, 32, 64)
FACTORS = (1, 2, 3)

sizes = pytest.mark.parametrize("size", SIZES)
factors = pytest.mark.parametrize("factor", FACTORS)
formations = pytest.mark.parametrize("formation", FORMATIONS)


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


# Formations ---------------------------------------------------------------------------------------------------


N, BOUND = 5, 24
"""Of 5 images a bound of 24 has room for 2, 1 and 2 at factors 3, 2 and 1, and for 4 and 1 at factors 2 and 1."""
PIECES = {
    ("uniform", 1): [(1, 0, 5)],
    ("uniform", 2): [(2, 0, 5)],
    ("uniform", 3): [(3, 0, 5)],
    ("multi", 1): [(1, 0, 5)],
    ("multi", 2): [(1, 0, 5), (2, 0, 5)],
    ("multi", 3): [(1, 0, 5), (2, 0, 5), (3, 0, 5)],
    ("bounded", 1): [(1, 0, 5)],
    ("bounded", 2): [(2, 0, 4), (1, 4, 5)],
    ("bounded", 3): [(3, 0, 2), (1, 2, 5)],
}
"""Which images, from and to, are decoded by which factor, one after the other."""


@pytest.mark.parametrize(
    ("n", "factor", "bound", "expected"),
    [
        (20, 3, 128, [(3, 12), (2, 3), (1, 5)]),  # 108 / 9; (128 - 108 - 8) / 4; the rest: 125
        (10, 3, 128, [(3, 10)]),  # 118 / 9 is more than there are
        (14, 3, 128, [(3, 12), (2, 2)]),  # 114 / 9; (128 - 108 - 2) / 4 is more than are left
        (50, 3, 128, [(3, 8), (2, 3), (1, 39)]),  # 78 / 9; (128 - 72 - 42) / 4: 123
        (50, 2, 128, [(2, 19), (1, 31)]),  # 78 / 4: 107
        (20, 4, 128, [(4, 6), (3, 2), (1, 12)]),  # 108 / 16; (128 - 96 - 14) / 9; (128 - 114 - 12) / 4: 126
        (128, 3, 128, [(1, 128)]),
        (1, 3, 9, [(2, 1)]),  # the image being placed keeps its slot, so of 9 only 8 are free
        (7, 1, 7, [(1, 7)]),
    ],
)
def test_bounded_gives_the_first_images_the_largest_factors(
    n: int, factor: int, bound: int, expected: list[tuple[int, int]]
):
    assert shares(n, factor, bound) == expected


def test_bounded_leaves_out_no_image_and_stays_within_the_bound():
    for n in range(1, 41):
        for factor in range(1, 6):
            for bound in range(n, 160, 7):
                found = shares(n, factor, bound)
                assert sum(count for _, count in found) == n
                assert sum(count * each**2 for each, count in found) <= bound
                assert all(one > other for (one, _), (other, _) in itertools.pairwise(found))


def test_bounded_does_not_fit_more_images_than_its_bound():
    with pytest.raises(AssertionError, match="5 images do not fit a bound of 4"):
        BY_NAME["bounded"](noise(5, 1, 8, 8), 2, 4)


@formations
@factors
@sizes
def test_a_formation_is_its_pieces_decoded_one_after_the_other(formation: str, factor: int, size: int):
    images = noise(N, 2, size, size, dtype=torch.float64)
    pieces = PIECES[formation, factor]
    expected = torch.cat([naive_decode(images[first:last], each) for each, first, last in pieces])
    found = BY_NAME[formation](images, factor, BOUND)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert count(lambda stored: BY_NAME[formation](stored, factor, BOUND), images.shape) == len(expected)


@pytest.mark.parametrize("mode", ["area", "bilinear", "nearest"])
@formations
@factors
@sizes
def test_encode_undoes_each_piece_of_a_formation(formation: str, factor: int, size: int, mode: str):
    images = noise(N, 2, 1, 1, dtype=torch.float64).expand(N, 2, size, size)
    left = BY_NAME[formation](images, factor, BOUND)
    for each, first, last in PIECES[formation, factor]:
        piece, left = left.split([each**2 * (last - first), len(left) - each**2 * (last - first)])
        found, inside = encode(piece, each, mode), size if size % each == 0 else size - 2  # the border reaches 2 pixels
        expected = images[first:last, :, :inside, :inside]
        torch.testing.assert_close(found[..., :inside, :inside], expected, rtol=0, atol=1e-12)
    assert len(left) == 0


@formations
@pytest.mark.parametrize(("size", "factor"), [(4, 1), (4, 2), (3, 2), (4, 3)])
def test_the_gradient_of_a_formation_is_a_finite_difference(formation: str, size: int, factor: int):
    images = noise(3, 1, size, size, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda stored: BY_NAME[formation](stored, factor, 13), (images,))


@formations
@factors
def test_a_formation_of_several_classes_is_that_of_each(formation: str, factor: int):
    stored = noise(2, N, 3, 8, 8, dtype=torch.float64)
    found = torch.func.vmap(lambda own: BY_NAME[formation](own, factor, BOUND))(stored)
    expected = torch.stack([BY_NAME[formation](own, factor, BOUND) for own in stored])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("formation", WHOLE)
@factors
def test_labels_go_with_formations_without_a_bound_repeated_as_a_whole(formation: str, factor: int):
    labels = torch.tensor([3, 1, 2])
    values = BY_NAME[formation](labels.double()[:, None, None, None].expand(3, 1, 12, 12), factor, 0).mean((1, 2, 3))
    torch.testing.assert_close(values, labels.repeat(len(values) // 3).double())


def test_finished_sets_are_decoded_without_a_bound():
    assert [decoded_by(name) for name in (*FORMATIONS, None)] == ["uniform", "multi", "uniform", "uniform"]
