"""AugMix: timm's mixtures to the pixel, pictures of any proportions, and the distributions of what is drawn."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
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
from util.data import aug_mix as module
from util.data.aug_mix import OPERATIONS, AugMixConfig, aug_mix, mix_chains, parse_aug_mix
from util.data.operations import apply_operation
from util.errors import UsageError

MIXTURES = [key for key in keys("augmix") if not key.endswith("plan")]


@pytest.mark.parametrize("key", MIXTURES)
def test_mixture_is_timms_to_the_pixel(key: str) -> None:
    plan = plain(f"{key}|plan")
    chains = []
    for steps in plan["chains"]:
        image = source()
        for name, argument in steps:
            image = apply_operation(image, name, argument, fill=FILL, resample=Image.Resampling.BILINEAR)
        chains.append(image)
    mixed = mix_chains(source(), chains, weights=plan["weights"], ratio=plan["ratio"])
    np.testing.assert_array_equal(np.asarray(mixed), ARRAYS[key])


def test_mixtures_of_one_and_of_several_chains_are_compared() -> None:
    assert sorted(len(plain(f"{key}|plan")["chains"]) for key in MIXTURES) == [1, 3, 5]


def test_defaults_and_operations_are_timms() -> None:
    timm = plain("defaults")["augmix"]
    assert timm.pop("depth") == -1  # timm's word for 1 to 3 at random
    assert timm == {name: getattr(AugMixConfig(), name) for name in timm}
    assert AugMixConfig().depth is None
    assert plain("choices")["augmix"] == list(OPERATIONS)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("augmix", AugMixConfig()),
        ("augmix-m5-w4-d2", AugMixConfig(magnitude=5.0, width=4, depth=2)),
        ("augmix-a0.5-mstd0", AugMixConfig(alpha=0.5, magnitude_std=0.0)),
    ],
)
def test_string_means(text: str, config: AugMixConfig) -> None:
    assert parse_aug_mix(text) == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rand-m3", "begin with augmix"),
        ("augmix-p1", "'p1'"),
        ("augmix-w2.5", "'w2.5'"),
        ("augmix-w0", "in [1, 100]"),
        ("augmix-w101", "in [1, 100]"),
        ("augmix-d0", "in [1, 100]"),
        ("augmix-a0", "positive"),
        ("augmix-ainf", "positive"),
    ],
)
def test_bad_string_is_refused_naming_the_part(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        parse_aug_mix(text)


@pytest.mark.parametrize("size", [(20, 33), (33, 20), (1, 7)])
def test_any_proportions(size: tuple[int, int]) -> None:
    image = Image.fromarray(picture(*size))
    mixed = [aug_mix(image, np.random.default_rng(s), config=AugMixConfig(), canvas=BILINEAR) for s in range(5)]
    assert {m.size for m in mixed} == {image.size}
    assert size == (1, 7) or not all(np.array_equal(np.asarray(m), np.asarray(image)) for m in mixed)


def test_weights_and_ratios_are_drawn_by_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[np.ndarray, float]] = []

    def record(image: Image.Image, chains: list[Image.Image], *, weights: np.ndarray, ratio: float) -> Image.Image:
        assert len(chains) == len(weights) == 3
        drawn.append((weights, ratio))
        return image

    monkeypatch.setattr(module, "mix_chains", record)
    monkeypatch.setattr(module, "apply_at", lambda image, *_, **__: image)
    rng = np.random.default_rng(0)
    for alpha in (1.0, 4.0):
        drawn.clear()
        for _ in range(1500):
            aug_mix(source(), rng, config=AugMixConfig(alpha=alpha), canvas=BILINEAR)
        weights, ratios = np.array([w for w, _ in drawn]), np.array([r for _, r in drawn])
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-6)
        assert weights.mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.03)
        assert weights.var(axis=0) == pytest.approx([2 / 9 / (3 * alpha + 1)] * 3, rel=0.15)  # Dirichlet's
        assert ratios.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.12)  # Beta's
        assert (distance_to_uniform(ratios, 0.0, 1.0) < UNLIKELY) == (alpha == 1.0)


def test_chains_have_one_to_three_operations_or_d(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_operations(monkeypatch)

    def lengths(text: str) -> Counter[int]:
        rng, config, found = np.random.default_rng(0), parse_aug_mix(text), []
        for _ in range(900):
            aug_mix(source(), rng, config=config, canvas=BILINEAR)
            found.append(len(calls))
            calls.clear()
        return Counter(found)

    assert set(lengths("augmix-w1")) == {1, 2, 3}
    assert all(240 <= count <= 360 for count in lengths("augmix-w1").values())
    assert lengths("augmix-w2-d4") == {8: 900}


def test_operations_are_drawn_evenly_at_uniform_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_operations(monkeypatch)
    rng = np.random.default_rng(0)
    for _ in range(900):
        aug_mix(source(), rng, config=parse_aug_mix("augmix-m8-w1-d3"), canvas=BILINEAR)
    counts = Counter(name for name, _ in calls)
    assert set(counts) == set(OPERATIONS)
    assert all(150 <= count <= 270 for count in counts.values()), counts  # 208 expected
    shifts = np.array([abs(argument or 0.0) for name, argument in calls if name.startswith("Translate")])
    assert distance_to_uniform(shifts, 0.0, 0.8 * 0.3) < UNLIKELY  # 0.3 of the side at magnitude 10


def test_magnitude_is_fixed_without_mstd(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_operations(monkeypatch)
    for seed in range(60):
        aug_mix(source(), np.random.default_rng(seed), config=parse_aug_mix("augmix-m5-mstd0"), canvas=BILINEAR)
    assert {abs(argument or 0.0) for name, argument in calls if name == "Rotate"} == {15.0}
