"""TrivialAugmentWide: torchvision's strengths and pixels, drawn evenly."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.util.data.timm_policies import ARRAYS, BILINEAR, FILL, keys, plain, record_operations, source
from util.data import trivial_augment as module
from util.data.operations import apply_operation
from util.data.trivial_augment import NUM_STRENGTHS, OPERATIONS, argument_at, trivial_augment

STRENGTHS = plain("trivial_strengths")
FACTORS = ("Brightness", "Color", "Contrast", "Sharpness")


def test_operations_are_torchvisions() -> None:
    assert list(OPERATIONS) == list(STRENGTHS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_strengths_are_torchvisions(name: str) -> None:
    values, signed = STRENGTHS[name]
    for negate in (False, True):
        found = [argument_at(name, i, negate=negate) for i in range(NUM_STRENGTHS)]
        if values is None:
            assert set(found) == {None}
            continue
        sign = -1.0 if signed and negate else 1.0
        expected = sign * np.array(values)
        if name in FACTORS:
            expected = 1.0 + expected
        elif name.startswith("Translate"):
            expected = np.trunc(expected.round(5))  # torchvision's float32 16.0 is just below 16
        assert found == pytest.approx(list(expected), abs=2e-5)


@pytest.mark.parametrize("key", keys("trivial"))
def test_operation_is_torchvisions_to_the_pixel(key: str) -> None:
    _, name, strength, sign = key.split("|")
    against = -1 if name.startswith("Translate") else 1  # torchvision shifts the picture, Pillow where it is read
    argument = argument_at(name, int(strength), negate=int(sign) * against < 0)
    if name.startswith("Shear") or name in FACTORS:  # torchvision's, in float32, to the bit
        argument = int(sign) * STRENGTHS[name][0][int(strength)] + (name in FACTORS)
    result = apply_operation(source(), name, argument, fill=FILL, resample=Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(result), ARRAYS[key])


def test_every_operation_has_golden_pictures() -> None:
    assert {key.split("|")[1] for key in keys("trivial")} == set(OPERATIONS)


def test_one_operation_and_one_strength_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_operations(monkeypatch, module)
    rng, images = np.random.default_rng(0), 5600
    for _ in range(images):
        trivial_augment(source(), rng, canvas=BILINEAR)
    assert len(calls) == images
    counts = Counter(name for name, _ in calls)
    assert all(320 <= counts[name] <= 480 for name in OPERATIONS), counts  # 400 expected
    for name, least in (("Rotate", 58), ("Solarize", 31)):
        arguments = Counter(round(argument or 0.0, 6) for n, argument in calls if n == name)
        assert least <= len(arguments) <= (61 if name == "Rotate" else 31)
        assert max(arguments.values()) < 4 * counts[name] / len(arguments)
    assert np.mean([(a or 0) > 0 for n, a in calls if n == "Rotate"]) == pytest.approx(0.484, abs=0.08)
