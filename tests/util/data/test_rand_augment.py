"""RandAugment: its strings, its operations, and how often what is applied."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.util.data.timm_policies import BILINEAR, plain, record_operations, source
from util.data.rand_augment import (
    OPERATIONS,
    OPERATIONS_INCREASING,
    WEIGHTS,
    RandAugmentConfig,
    parse_rand_augment,
    rand_augment,
)
from util.errors import UsageError

# What seed 0 draws for nine pictures of `rand-m9-mstd0.5-inc1`.
STREAM: list[tuple[str, float | None]] = [
    ("ShearY", -0.27961),
    ("AutoContrast", None),
    ("ShearY", -0.28564),
    ("Rotate", 25.88475),
    ("BrightnessIncreasing", 1.80283),
    ("ShearY", 0.26019),
]

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


def test_defaults_and_operations_are_timms() -> None:
    config, timm = parse_rand_augment("rand"), plain("defaults")["rand"]
    assert {name: getattr(config, name) for name in timm} == timm
    assert plain("choices")["rand"] == list(OPERATIONS)
    assert plain("choices")["rand-inc1"] == list(OPERATIONS_INCREASING)


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
        ("rand-n0", "n in [1, 100]"),
        ("rand-n99999999", "n in [1, 100]"),
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
    calls = record_operations(monkeypatch)
    rng, image, result = np.random.default_rng(0), Image.new("RGB", (8, 8)), []
    for _ in range(images):
        rand_augment(image, rng, config=parse_rand_augment(text), canvas=BILINEAR)
        result.append(calls.copy())
        calls.clear()
    return result


def test_numbers_are_drawn_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of their order would change every training that has been recorded."""
    drawn = [call for image in _applied(monkeypatch, "rand-m9-mstd0.5-inc1", images=9) for call in image]
    assert [(name, argument and round(argument, 5)) for name, argument in drawn] == STREAM


@pytest.mark.parametrize(("text", "mean"), [("rand", 1.0), ("rand-p1-n3", 3.0), ("rand-n4-p0.25", 1.0), ("rand-p0", 0)])
def test_each_of_n_operations_is_applied_with_probability_p(
    monkeypatch: pytest.MonkeyPatch, text: str, mean: float
) -> None:
    counts = [len(calls) for calls in _applied(monkeypatch, text, images=600)]
    assert np.mean(counts) == pytest.approx(mean, abs=0.12)  # 3.5 standard errors
    assert max(counts) <= parse_rand_augment(text).num_ops


@pytest.mark.parametrize(("text", "names"), [("rand-p1-n2", OPERATIONS), ("rand-p1-n2-inc1", OPERATIONS_INCREASING)])
def test_operations_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch, text: str, names: tuple[str, ...]) -> None:
    calls = _applied(monkeypatch, text, images=1500)
    counts = Counter(name for image in calls for name, _ in image)
    assert set(counts) == set(names)
    assert all(150 <= count <= 250 for count in counts.values()), counts  # 200 expected


def test_inc0_is_the_same_as_no_inc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _applied(monkeypatch, "rand-m9-inc0", images=20) == _applied(monkeypatch, "rand-m9", images=20)


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


def test_pixels_change() -> None:
    config = parse_rand_augment("rand-m9-p1-n3-inc1")
    image = rand_augment(source(), np.random.default_rng(0), config=config, canvas=BILINEAR)
    assert not np.array_equal(np.asarray(image), np.asarray(source()))
