"""The operations of all automatic augmentations: timm's pixels and arguments, and the drawing of magnitudes."""

import math

import numpy as np
import pytest
from PIL import Image

from tests.reference import GOLDEN, picture
from tests.util.data.timm_policies import (
    ARRAYS,
    BILINEAR,
    FILL,
    SOURCE,
    UNLIKELY,
    distance_to_uniform,
    keys,
    source,
)
from util.data import aug_mix, rand_augment, trivial_augment
from util.data.operations import Canvas, apply_at, apply_operation, argument_of, draw_magnitude

BICUBIC = Image.Resampling.BICUBIC
with np.load(GOLDEN / "timm_transforms.npz") as _file:
    PICTURE_48X64 = _file["picture_48x64"]
    BICUBIC_RESULTS = {key: _file[key] for key in _file.files if "|m=" in key}
NAMES = sorted(
    {*rand_augment.OPERATIONS, *rand_augment.OPERATIONS_INCREASING, *aug_mix.OPERATIONS, "PosterizeOriginal"}
)


def _parts(key: str) -> tuple[str, float, float | None]:
    """Of a key of either golden file: operation, magnitude, argument."""
    name, magnitude, argument = key.removeprefix("operation|").split("|")
    value = argument.removeprefix("args=")
    return name, float(magnitude.removeprefix("m=")), float(value) if value else None


def test_the_golden_pictures_are_ours() -> None:
    np.testing.assert_array_equal(picture(48, 64), PICTURE_48X64)
    np.testing.assert_array_equal(SOURCE, ARRAYS["picture"])


@pytest.mark.parametrize("key", BICUBIC_RESULTS)
def test_operation_is_timms_to_the_pixel(key: str) -> None:
    name, _, argument = _parts(key)
    result = apply_operation(Image.fromarray(PICTURE_48X64), name, argument, fill=FILL, resample=BICUBIC)
    np.testing.assert_array_equal(np.asarray(result), BICUBIC_RESULTS[key])


@pytest.mark.parametrize("key", keys("operation"))
def test_operation_is_timms_to_the_pixel_in_both_directions(key: str) -> None:
    name, _, argument = _parts(key)
    result = apply_operation(source(), name, argument, fill=FILL, resample=Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(result), ARRAYS[key])


@pytest.mark.parametrize("key", [*BICUBIC_RESULTS, *keys("operation")])
def test_argument_is_timms_at_that_magnitude(key: str) -> None:
    name, magnitude, expected = _parts(key)
    found = [argument_of(name, magnitude, negate=negate) for negate in (False, True)]
    if expected is None:
        assert found == [None, None]
    else:
        assert any(value == pytest.approx(expected, abs=1e-9) for value in found)


def test_every_operation_has_golden_results_in_each_direction() -> None:
    golden = [_parts(key) for key in keys("operation")]
    assert sorted({name for name, _, _ in golden}) == NAMES
    for name in NAMES:
        for magnitude in (2.0, 7.0):
            expected = {argument_of(name, magnitude, negate=negate) for negate in (False, True)}
            assert len(expected) == sum((n, m) == (name, magnitude) for n, m, _ in golden), name


def test_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown operation Blur"):
        apply_operation(source(), "Blur", 1.0, fill=FILL, resample=BICUBIC)


def test_shifts_scale_with_max_shift() -> None:
    assert argument_of("TranslateXRel", 5.0, negate=False, max_shift=0.3) == pytest.approx(0.15)
    assert argument_of("TranslateYRel", 10.0, negate=True) == pytest.approx(-0.45)


@pytest.mark.parametrize("bits", range(9))
def test_posterize_keeps_the_highest_bits(bits: int) -> None:
    pixels = picture(12, 16, seed=3)
    image = apply_operation(Image.fromarray(pixels), "Posterize", bits, fill=(0, 0, 0), resample=BICUBIC)
    step = 2 ** (8 - bits)
    np.testing.assert_array_equal(np.asarray(image), pixels.astype(int) // step * step)


def test_no_magnitude_makes_an_operation_fail() -> None:
    image = Image.fromarray(picture(12, 16, seed=3))
    for name in NAMES:
        for magnitude in (0.0, 0.01, 5.0, 9.99, 10.0, 15.0):
            for negate in (False, True):
                argument = argument_of(name, magnitude, negate=negate)
                result = apply_operation(image, name, argument, fill=(0, 0, 0), resample=BICUBIC)
                assert (result.mode, result.size) == (image.mode, image.size)


def _draw(magnitude: float, std: float, maximum: float, count: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_magnitude(rng, magnitude, std=std, maximum=maximum) for _ in range(count)])


def test_magnitude_without_std_is_fixed_and_bounded() -> None:
    assert set(_draw(9.0, 0.0, 10.0, count=3)) == {9.0}
    assert set(_draw(12.0, 0.0, 10.0, count=3)) == {10.0}
    assert set(_draw(12.0, 0.0, 15.0, count=3)) == {12.0}


def test_magnitude_is_normal_and_cut_at_the_bounds() -> None:
    drawn = _draw(9.0, 1.5, 10.0)
    normal = np.array([0.5 * (1 + math.erf((x - 9.0) / 1.5 / math.sqrt(2))) for x in drawn[drawn < 10.0]])
    assert distance_to_uniform(normal, 0.0, 0.7475) < UNLIKELY  # a quarter is above 10
    assert (drawn == 10.0).mean() == pytest.approx(0.2525, abs=0.025)
    assert _draw(0.1, 1.0, 10.0).min() == 0.0


@pytest.mark.parametrize("std", [101.0, math.inf])
def test_magnitude_is_uniform_with_a_huge_std(std: float) -> None:
    assert distance_to_uniform(_draw(8.0, std, 10.0), 0.0, 8.0) < UNLIKELY


def test_directions_are_drawn_evenly() -> None:
    bright = Image.new("RGB", (8, 8), (100, 100, 100))
    rng = np.random.default_rng(0)
    brighter = sum(
        np.asarray(apply_at(bright, rng, "BrightnessIncreasing", 5.0, canvas=BILINEAR))[0, 0, 0] > 100
        for _ in range(600)
    )
    assert 250 <= brighter <= 350


def test_each_operation_gets_one_of_the_filters_at_random() -> None:
    resamples = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    rng = np.random.default_rng(0)
    drawn = [Canvas(fill=FILL, resamples=resamples).draw_resample(rng) for _ in range(600)]
    assert 250 <= drawn.count(resamples[0]) <= 350
    assert drawn.count(resamples[0]) + drawn.count(resamples[1]) == 600
    before = rng.bit_generator.state
    assert BILINEAR.draw_resample(rng) == resamples[0]
    assert rng.bit_generator.state == before  # a single filter draws nothing


def test_names_of_trivial_augment_are_operations() -> None:
    for name in trivial_augment.OPERATIONS:
        result = apply_operation(source(), name, 1.0, fill=FILL, resample=BICUBIC)
        assert result.size == source().size


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateXRel", "TranslateYRel"])
def test_inexact_canvas_moves_lines_within_a_level(name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 120, 3), np.uint8))
    exact, near, shorter = (
        np.asarray(
            apply_at(image, np.random.default_rng(0), name, m, canvas=Canvas(fill=FILL, resamples=(BICUBIC,), exact=e))
        ).astype(int)
        for m, e in ((7.7, True), (7.7, False), (7.6, True))
    )
    assert set(np.unique(near - exact)) == {0, 1}
    assert np.abs(shorter - exact).max() > 20  # negative control: another strength would be seen
