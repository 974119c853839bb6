"""AutoAugment: timm's policies, pair by pair, and how often what is applied."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from tests.util.data.timm_policies import (
    ARRAYS,
    BILINEAR,
    FILL,
    UNLIKELY,
    distance_to_uniform,
    keys,
    plain,
    record_operations,
    source,
)
from util.data.auto_augment import POLICIES, AutoAugmentConfig, auto_augment, parse_auto_augment
from util.data.operations import apply_operation, argument_of
from util.errors import UsageError


def test_policies_are_timms() -> None:
    expected = {name: [[tuple(op) for op in pair] for pair in pairs] for name, pairs in plain("policies").items()}
    assert {name: [list(pair) for pair in pairs] for name, pairs in POLICIES.items()} == expected
    assert all(len(pairs) == 25 for pairs in POLICIES.values())


@pytest.mark.parametrize("key", keys("pair"))
def test_pair_of_operations_is_timms_to_the_pixel(key: str) -> None:
    _, policy, number = key.split("|")
    image = source()
    for name, _, magnitude in POLICIES[policy][int(number)]:
        argument = argument_of(name, magnitude, negate=int(number) % 2 == 1)
        image = apply_operation(image, name, argument, fill=FILL, resample=Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(image), ARRAYS[key])


def test_every_pair_has_a_golden_picture() -> None:
    golden = {tuple(key.split("|")[1:]) for key in keys("pair")}
    for name, pairs in POLICIES.items():
        own = [i for i, pair in enumerate(pairs) if any(step[0] == "PosterizeIncreasing" for step in pair)]
        expected = own if name.endswith("r") else range(25)  # the others are those of v0 and original
        assert {(name, str(i)) for i in expected} == {key for key in golden if key[0] == name}


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("v0", AutoAugmentConfig(policy="v0")),
        ("originalr-mstd0.5", AutoAugmentConfig(policy="originalr", magnitude_std=0.5)),
    ],
)
def test_string_means(text: str, config: AutoAugmentConfig) -> None:
    assert parse_auto_augment(text) == config


@pytest.mark.parametrize(("text", "named"), [("v1", "v0r"), ("original-m9", "'m9'"), ("v0-mstd", "'mstd'")])
def test_bad_string_is_refused_naming_the_part(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_auto_augment(text)


def _applied(monkeypatch: pytest.MonkeyPatch, text: str, *, images: int) -> list[list[tuple[str, float | None]]]:
    calls = record_operations(monkeypatch)
    rng, config, result = np.random.default_rng(0), parse_auto_augment(text), []
    for _ in range(images):
        auto_augment(source(), rng, config=config, canvas=BILINEAR)
        result.append(calls.copy())
        calls.clear()
    return result


@pytest.mark.parametrize("policy", POLICIES)
def test_pairs_are_drawn_evenly_and_operations_by_their_probability(
    monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    images = 3000
    found = Counter(tuple(name for name, _ in image) for image in _applied(monkeypatch, policy, images=images))
    expected: dict[tuple[str, ...], float] = defaultdict(float)
    for (first, p, _), (second, q, _) in POLICIES[policy]:
        for names, prob in (
            ((first, second), p * q), ((first,), p * (1 - q)), ((second,), (1 - p) * q), ((), (1 - p) * (1 - q)),
        ):  # fmt: skip
            expected[names] += prob / 25 * images
    expected = {names: count for names, count in expected.items() if count > 0}
    assert set(found) <= set(expected)
    statistic = sum((found[names] - count) ** 2 / count for names, count in expected.items())
    degrees = len(expected) - 1
    assert statistic < degrees + 3 * (2 * degrees) ** 0.5  # chi-square: mean + 3 standard deviations


def test_mstd_draws_the_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    def shears(text: str) -> np.ndarray:  # of magnitude 5 in the policy
        calls = _applied(monkeypatch, text, images=4000)
        return np.array([abs(argument or 0) / 0.03 for image in calls for name, argument in image if name == "ShearX"])

    assert {round(m, 6) for m in shears("original")} == {5.0}
    normal = shears("original-mstd0.5")
    assert normal.mean() == pytest.approx(5.0, abs=0.2)
    assert normal.std() == pytest.approx(0.5, abs=0.12)
    assert shears("original-mstd50").max() == pytest.approx(10.0)  # the bound
    assert distance_to_uniform(shears("original-mstdinf"), 0.0, 5.0) < UNLIKELY
