"""RandAugment: timm's operations to the pixel, its strings, and how often what is applied."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import GOLDEN, picture
from util.data import rand_augment as module
from util.data.rand_augment import (
    OPERATIONS,
    WEIGHTS,
    RandAugmentConfig,
    apply_operation,
    argument_of,
    parse_rand_augment,
    rand_augment,
)
from util.errors import UsageError

FILL, RESAMPLE = (124, 116, 104), Image.Resampling.BICUBIC
with np.load(GOLDEN / "timm_transforms.npz") as _file:
    GOLDEN_PICTURE = _file["picture_48x64"]
    GOLDEN_RESULTS = {key: _file[key] for key in _file.files if "|m=" in key}


def _parts(key: str) -> tuple[str, float, float | None]:
    name, magnitude, argument = key.split("|")
    value = argument.removeprefix("args=")
    return name, float(magnitude.removeprefix("m=")), float(value) if value else None


def test_the_golden_picture_is_ours() -> None:
    np.testing.assert_array_equal(picture(48, 64), GOLDEN_PICTURE)


@pytest.mark.parametrize("key", GOLDEN_RESULTS)
def test_operation_is_timms_to_the_pixel(key: str) -> None:
    name, _, argument = _parts(key)
    result = apply_operation(
        Image.fromarray(GOLDEN_PICTURE), name.removesuffix("Increasing"), argument, fill=FILL, resample=RESAMPLE
    )
    np.testing.assert_array_equal(np.asarray(result), GOLDEN_RESULTS[key])


@pytest.mark.parametrize("key", GOLDEN_RESULTS)
def test_argument_is_timms_at_that_magnitude(key: str) -> None:
    name, magnitude, expected = _parts(key)
    operation = name.removesuffix("Increasing")
    found = [argument_of(operation, magnitude, increasing=True, negate=negate) for negate in (False, True)]
    if expected is None:
        assert found == [None, None]
    else:
        assert any(value == pytest.approx(expected, abs=1e-9) for value in found)


def test_every_operation_has_a_golden_result() -> None:
    assert {_parts(key)[0].removesuffix("Increasing") for key in GOLDEN_RESULTS} == set(OPERATIONS)
    with pytest.raises(ValueError, match="unknown operation Blur"):
        apply_operation(Image.fromarray(GOLDEN_PICTURE), "Blur", 1.0, fill=FILL, resample=RESAMPLE)


@pytest.mark.parametrize(
    ("name", "at_2", "at_10"),
    [("Posterize", 0, 4), ("Solarize", 51, 256), ("SolarizeAdd", 22, 110), ("Color", 0.46, 1.9)],
)
def test_arguments_without_inc(name: str, at_2: float, at_10: float) -> None:
    found = [argument_of(name, magnitude, increasing=False, negate=True) for magnitude in (2.0, 10.0)]
    assert found == pytest.approx([at_2, at_10])


PARSED: dict[str, dict[str, Any]] = {
    "rand": {},
    "rand-m9-mstd0.5-inc1": {"magnitude": 9.0, "magnitude_std": 0.5, "increasing": True},
    "rand-n3-p0.25": {"num_ops": 3, "prob": 0.25},
    "rand-inc0-mmax8.5": {"increasing": False, "max_magnitude": 8.5},
    "rand-mstd101-w0": {"magnitude_std": 101.0, "weighted": True},
    "rand-mstdinf": {"magnitude_std": float("inf")},
}


@pytest.mark.parametrize("text", PARSED)
def test_string_means(text: str) -> None:
    assert parse_rand_augment(text) == RandAugmentConfig(**PARSED[text])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("m9", "begin with rand"),
        ("augmix-m3", "begin with rand"),
        ("", "begin with rand"),
        ("rand-", "''"),
        ("rand-x9", "'x9'"),
        ("rand-m", "'m'"),
        ("rand-9", "'9'"),
        ("rand-m9-", "''"),
        ("rand-m9,inc1", "'m9,inc1'"),
        ("rand-n2.5", "'n2.5'"),
        ("rand-ninf", "'ninf'"),
        ("rand-m9-m8", "m stands twice"),
        ("rand-p1.5", "p must be in [0, 1]"),
        ("rand-n0", "n at least 1"),
        ("rand-w1", "w0"),
    ],
)
def test_bad_string_is_refused_naming_the_part(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)) as caught:
        parse_rand_augment(text)
    assert repr(text) in str(caught.value)


def test_more_operations_than_w0_can_choose_from_are_refused() -> None:
    with pytest.raises(UsageError, match="n"):
        parse_rand_augment("rand-m9-n14-w0")


def _applied(monkeypatch: pytest.MonkeyPatch, text: str, *, images: int) -> list[list[tuple[str, float | None]]]:
    """Returns the operations and arguments that each of a number of images gets."""
    calls: list[list[tuple[str, float | None]]] = []

    def record(image: Image.Image, name: str, argument: float | None, *, fill: Any, resample: Any) -> Image.Image:
        assert (fill, resample) == (FILL, RESAMPLE)
        calls[-1].append((name, argument))
        return image

    monkeypatch.setattr(module, "apply_operation", record)
    rng, image = np.random.default_rng(0), Image.new("RGB", (8, 8))
    for _ in range(images):
        calls.append([])
        rand_augment(image, rng, config=parse_rand_augment(text), fill=FILL, resample=RESAMPLE)
    return calls


@pytest.mark.parametrize(("text", "mean"), [("rand", 1.0), ("rand-p1-n3", 3.0), ("rand-n4-p0.25", 1.0), ("rand-p0", 0)])
def test_each_of_n_operations_is_applied_with_probability_p(
    monkeypatch: pytest.MonkeyPatch, text: str, mean: float
) -> None:
    counts = [len(calls) for calls in _applied(monkeypatch, text, images=600)]
    assert np.mean(counts) == pytest.approx(mean, abs=0.12)  # 3.5 standard errors
    assert max(counts) <= parse_rand_augment(text).num_ops


def test_operations_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _applied(monkeypatch, "rand-p1-n2", images=1500)
    counts = Counter(name for image in calls for name, _ in image)
    assert set(counts) == set(OPERATIONS)
    assert all(150 <= count <= 250 for count in counts.values()), counts  # 200 expected


def test_weighted_operations_are_drawn_by_weight_without_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _applied(monkeypatch, "rand-p1-n1-w0", images=1500)
    counts = Counter(name for image in calls for name, _ in image)
    for name, weight in zip(OPERATIONS, WEIGHTS, strict=True):
        assert counts[name] == pytest.approx(1500 * weight, abs=4 * (1500 * weight) ** 0.5 + 1e-9), name
    assert all(len({n for n, _ in image}) == 3 for image in _applied(monkeypatch, "rand-p1-n3-w0", images=200))


def test_signs_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    rotations = [a for image in _applied(monkeypatch, "rand-m9-p1-n2", images=1500) for n, a in image if n == "Rotate"]
    assert {round(abs(a or 0), 6) for a in rotations} == {27.0}
    assert np.mean([(a or 0) > 0 for a in rotations]) == pytest.approx(0.5, abs=0.13)


@pytest.mark.parametrize(
    ("text", "low", "high", "mean"),
    [
        ("rand-m5-mstd1-p1", 0.0, 10.0, 5.0),
        ("rand-m10-mstd1-p1", 0.0, 10.0, 9.6),  # half of the normal is cut at 10: 10 - 0.4
        ("rand-m8-mstdinf-p1", 0.0, 8.0, 4.0),
        ("rand-m12-mmax15-p1", 12.0, 12.0, 12.0),
        ("rand-m12-p1", 10.0, 10.0, 10.0),
    ],
)
def test_magnitudes(monkeypatch: pytest.MonkeyPatch, text: str, low: float, high: float, mean: float) -> None:
    calls = _applied(monkeypatch, text, images=1500)
    magnitudes = np.array([abs(a or 0) / 3 for image in calls for n, a in image if n == "Rotate"])
    assert low - 1e-9 <= magnitudes.min() <= magnitudes.max() <= high + 1e-9
    assert magnitudes.mean() == pytest.approx(mean, abs=0.5)


@pytest.mark.parametrize("bits", range(9))
def test_posterize_keeps_the_highest_bits(bits: int) -> None:
    source = picture(12, 16, seed=3)
    image = apply_operation(
        Image.fromarray(source), "Posterize", bits, fill=(0, 0, 0), resample=Image.Resampling.BICUBIC
    )
    step = 2 ** (8 - bits)
    np.testing.assert_array_equal(np.asarray(image), source.astype(int) // step * step)


def test_no_magnitude_makes_an_operation_fail() -> None:
    image = Image.fromarray(picture(12, 16, seed=3))
    for name in OPERATIONS:
        for magnitude in (0.0, 0.01, 5.0, 9.99, 10.0, 15.0):
            for increasing, negate in ((True, True), (True, False), (False, False)):
                argument = argument_of(name, magnitude, increasing=increasing, negate=negate)
                result = apply_operation(image, name, argument, fill=(0, 0, 0), resample=Image.Resampling.BICUBIC)
                assert (result.mode, result.size) == (image.mode, image.size)
