"""Preprocessing: which source decides, and one channel or three."""

from typing import Any

import numpy as np
import pytest

from tests.reference import picture
from util.data.preprocessing import Preprocessing, resolve_preprocessing
from util.errors import UsageError
from util.options import PreprocessOptions

MODEL: dict[str, Any] = {
    "input_size": (3, 224, 224), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
}  # fmt: skip
GREY = MODEL | {"input_size": [1, 28, 28], "mean": [0.13], "std": [0.31]}  # as a checkpoint says it


def resolve(*implied: dict[str, Any], **options: Any) -> Preprocessing:
    return resolve_preprocessing(PreprocessOptions(**options), *implied)


def test_options_come_before_the_checkpoint_and_that_before_the_model() -> None:
    found = resolve(MODEL, {"crop_pct": 0.9, "interpolation": "bilinear"}, interpolation="nearest")
    assert (found.input_size, found.crop_pct, found.interpolation) == ((3, 224, 224), 0.9, "nearest")
    assert (found.mean, found.std) == (MODEL["mean"], MODEL["std"])
    assert resolve(MODEL, found.to_plain()) != resolve(MODEL)
    assert Preprocessing.from_plain(found.to_plain()) == found


@pytest.mark.parametrize(("given", "model", "expected"), [
    ((64,), MODEL, (3, 64, 64)), ((48, 64), MODEL, (3, 48, 64)), ((3, 48, 64), MODEL, (3, 48, 64)),
    ((1, 28, 28), MODEL, (1, 28, 28)), ((64,), GREY, (1, 64, 64)), ((48, 64), GREY, (1, 48, 64)),
    ((3, 64, 64), GREY, (3, 64, 64)), (None, GREY, (1, 28, 28)),
])  # fmt: skip
def test_a_size_without_channels_keeps_those_implied(
    given: tuple[int, ...] | None, model: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    assert resolve(MODEL, model, input_size=given).input_size == expected


def test_implied_statistics_follow_the_number_of_channels() -> None:
    grey = resolve(MODEL, input_size=(1, 28, 28))
    assert grey.mean == ((0.485 + 0.456 + 0.406) / 3,) == (0.449,)
    assert grey.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,)) == (0.226,)
    colour = resolve(MODEL, GREY, input_size=(3, 28, 28))
    assert (colour.mean, colour.std) == ((0.13,) * 3, (0.31,) * 3)
    given = resolve(MODEL, input_size=(1, 28, 28), mean=(0.1307,), std=(0.3081,))
    assert (given.mean, given.std) == ((0.1307,), (0.3081,))


@pytest.mark.parametrize(("options", "name", "channels", "given"), [
    ({"input_size": (1, 28, 28), "mean": (0.5, 0.5, 0.5)}, "mean", 1, 3),
    ({"input_size": (1, 28, 28), "std": (0.5, 0.5, 0.5)}, "std", 1, 3),
    ({"mean": (0.5,)}, "mean", 3, 1),
    ({"std": (0.5,), "input_size": (64,)}, "std", 3, 1),
])  # fmt: skip
def test_given_statistics_of_another_length_are_refused(
    options: dict[str, Any], name: str, channels: int, given: int
) -> None:
    with pytest.raises(UsageError, match=rf"{name} takes .*, {channels} for these images; got {given}: .*--input_size"):
        resolve(MODEL, **options)


def test_squash_and_crop_pct_exclude_each_other() -> None:
    with pytest.raises(UsageError, match=r"crop_pct 0\.9 has no effect with crop_mode squash"):
        resolve(MODEL | {"crop_mode": "squash", "crop_pct": 1.0}, crop_pct=0.9)


@pytest.mark.parametrize("wrong", [
    {"input_size": (2, 28, 28)}, {"input_size": (4, 28, 28)}, {"input_size": (3, 28)}, {"input_size": (3, 0, 28)},
    {"input_size": (3, 28, 20_000)}, {"input_size": (3, 28.0, 28)}, {"input_size": (1, 28, 28)}, {"mean": (0.5,)},
    {"std": (0.5, 0.5)}, {"std": (0.5, 0.0, 0.5)}, {"mean": (0.5, float("nan"), 0.5)}, {"crop_pct": 0.0},
    {"crop_mode": "middle"}, {"interpolation": "cubic"},
])  # fmt: skip
def test_wrong_values_of_a_file_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"input_size|channel|mean|crop_pct|interpolation"):
        Preprocessing.from_plain(MODEL | wrong)


def test_grey_pictures_are_the_grey_of_coloured_ones() -> None:
    """R, G and B weighted as in ITU-R 601, which is what Pillow does, after resizing."""
    pixels = picture(28, 28)
    image = resolve(MODEL, input_size=(1, 28, 28), crop_pct=1.0).transform()(pixels)
    assert (image.shape, image.dtype) == ((1, 28, 28), np.float32)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    assert abs(image[0] * 0.226 + 0.449 - grey / 255).max() < 1.01 / 255  # Pillow rounds to a grey level


def test_text_of_the_log() -> None:
    assert str(resolve(MODEL, input_size=(1, 28, 28))) == (
        "1 x 28 x 28, centre crop 0.875, bicubic, mean (0.449,), std (0.226,)"
    )
