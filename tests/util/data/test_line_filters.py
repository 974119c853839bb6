"""Translations, shears and smoothing: Pillow's own pixels, whatever the picture, the amount and the filter."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.reference import picture
from util.data.line_filters import move_lines, smooth

FILL = (124, 116, 104)
BICUBIC, BILINEAR, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST
SIZES = [(48, 64), (224, 224), (1, 1), (1, 9), (9, 1), (2, 2), (33, 7)]  # height, width


def _pillow(image: Image.Image, slope: float, shift: float, resample: Image.Resampling) -> np.ndarray:
    matrix = (1, slope, shift, 0, 1, 0)
    moved = image.transform(image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=FILL)
    return np.asarray(moved)


def _pictures(height: int, width: int) -> list[Image.Image]:
    """A smooth one, one of black and white pixels, where the filter overshoots, one of few levels, and one colour."""
    noise = np.random.default_rng(0).integers(0, 2, (height, width, 3), np.uint8)
    arrays = (picture(height, width), noise * 255, noise * 3 + 100, np.full((height, width, 3), 255, np.uint8))
    return [Image.fromarray(array) for array in arrays]


@pytest.mark.parametrize("resample", [BICUBIC, BILINEAR])
@pytest.mark.parametrize("size", SIZES)
def test_moved_lines_are_pillows_to_the_pixel(size: tuple[int, int], resample: Image.Resampling) -> None:
    rng = np.random.default_rng(1)
    slopes = [0.27, -0.27, 0.3, 0.123456789, 0.99, *rng.uniform(-1, 1, 6)]
    shifts = [0.25, -0.75, 60.3, -1e-6, 1e-6, 500.3, -500.3, *rng.uniform(-100, 100, 6)]
    computed = 0
    for image in _pictures(*size):
        for slope, shift in [*((slope, 0.0) for slope in slopes), *((0.0, shift) for shift in shifts)]:
            moved = move_lines(image, slope=slope, shift=shift, fill=FILL, resample=resample)
            if moved is not None:
                computed += 1
                np.testing.assert_array_equal(
                    np.asarray(moved), _pillow(image, slope, shift, resample), f"{slope} {shift}"
                )
    assert computed > 60  # of 96; a line that moves by half a pixel is left to Pillow


@pytest.mark.parametrize("resample", [BICUBIC, BILINEAR])
@pytest.mark.parametrize("size", SIZES)
def test_inexact_lines_are_a_level_from_pillows_in_few_places(
    size: tuple[int, int], resample: Image.Resampling
) -> None:
    moves = [(0.27, 0.0), (-0.123456789, 0.0), (0.0, 60.3), (0.0, -500.3), (0.0, -0.75), (0.0, 0.25)]
    differing = total = 0
    for image in _pictures(*size):
        for slope, shift in moves:
            moved = move_lines(image, slope=slope, shift=shift, fill=FILL, resample=resample, exact=False)
            if moved is not None:
                difference = np.asarray(moved).astype(int) - _pillow(image, slope, shift, resample)
                assert set(np.unique(difference)) <= {0, 1}
                differing, total = differing + int(np.count_nonzero(difference)), total + difference.size
    assert total > 0
    assert differing <= 0.005 * total


def test_float32_alone_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without the second look at values near whole numbers the pixels are others."""
    monkeypatch.setattr("util.data.line_filters.NEAR", 0.0)
    image = _pictures(224, 224)[2]
    slopes = [move_lines(image, slope=s, shift=0.0, fill=FILL, resample=BICUBIC) for s in (0.27, 0.3, 0.123)]
    references = [_pillow(image, s, 0.0, BICUBIC) for s in (0.27, 0.3, 0.123)]
    assert any((np.asarray(s) != r).any() for s, r in zip(slopes, references, strict=True) if s is not None)


@pytest.mark.parametrize(("slope", "shift"), [(0.0, 0.0), (0.0, 3.0), (0.0, -2.5), (1.0, 0.0)])
def test_moves_by_half_pixels_are_left_to_pillow(slope: float, shift: float) -> None:
    assert move_lines(_pictures(8, 8)[0], slope=slope, shift=shift, fill=FILL, resample=BICUBIC) is None


def test_other_filters_are_left_to_pillow() -> None:
    assert move_lines(_pictures(8, 8)[0], slope=0.1, shift=0.0, fill=FILL, resample=NEAREST) is None


@pytest.mark.parametrize("size", [*SIZES, (3, 3), (2, 50)])
def test_smoothing_is_pillows_to_the_pixel(size: tuple[int, int]) -> None:
    for image in _pictures(*size):
        np.testing.assert_array_equal(np.asarray(smooth(image)), np.asarray(image.filter(ImageFilter.SMOOTH)))


def test_every_sum_is_rounded_as_pillow_rounds() -> None:
    """Of all sums of 13 levels, each occurs: the middle of 3 x 3 pixels counts five times."""
    sums = np.arange(13 * 255 + 1)
    middle = np.where(sums > 13 * 128, -(-sums // 13), sums // 13)
    rest = sums - 5 * middle
    around = np.minimum(rest[:, None] // 8 + (np.arange(8) < rest[:, None] % 8), 255)
    tiles = np.insert(around, 4, middle, axis=1).reshape(-1, 3, 3).astype(np.uint8)
    assert (np.sort(around.sum(axis=1) + 5 * middle) == sums).all()
    whole = np.repeat(tiles.transpose(1, 0, 2).reshape(3, -1)[..., None], 3, axis=2)
    np.testing.assert_array_equal(
        np.asarray(smooth(Image.fromarray(whole))), np.asarray(Image.fromarray(whole).filter(ImageFilter.SMOOTH))
    )
