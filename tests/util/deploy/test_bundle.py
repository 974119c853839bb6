"""The manifest of an export: channels and size of the program's input, checked against its preprocessing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import Manifest, check_input_size, read_manifest
from util.errors import MismatchError, WeightsError
from util.options import PreprocessOptions

GREY = Manifest(
    model="cvt_nano_32x32",
    input_shape=(None, 1, 28, 28),
    input_dtype="float32",
    num_classes=2,
    class_names=("a", "b"),
    preprocess={
        "input_size": [1, 28, 28], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic", "mean": [0.13],
        "std": [0.31],
    },
    sha256={},
    versions={},
)  # fmt: skip


def test_manifest_of_a_grey_model_comes_back(tmp_path: Path) -> None:
    GREY.write(tmp_path)
    assert read_manifest(tmp_path) == GREY
    assert GREY.preprocessing().input_size == (1, 28, 28)


@pytest.mark.parametrize("shape", [(None, 3, 28, 28), (None, 1, 28, 32), (None, 1, 28), (None, 1, 28, "28")])
def test_input_that_contradicts_the_preprocessing_is_damage(shape: tuple[Any, ...], tmp_path: Path) -> None:
    replace(GREY, input_shape=shape).write(tmp_path)
    with pytest.raises(WeightsError, match=r"export\.json: damaged: input_shape"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(("size", "open_size", "fault"), [
    ((3, 28, 28), True, "C = 1, not 3"), ((3, 28, 28), False, "C = 1, not 3"), ((1, 32, 28), False, "H = 28, not 32"),
    ((1, 32, 28), True, None), ((1, 28, 28), False, None), ((28,), False, None),
])  # fmt: skip
def test_images_must_have_the_programs_channels_and_size(
    size: tuple[int, ...], open_size: bool, fault: str | None
) -> None:
    manifest = replace(GREY, input_shape=(None, 1, None, None)) if open_size else GREY
    preprocessing = resolve_preprocessing(PreprocessOptions(input_size=size), manifest.preprocess)
    if fault is None:
        check_input_size(manifest, preprocessing)
        return
    with pytest.raises(MismatchError, match=rf"exported for {fault}; leave out --input_size"):
        check_input_size(manifest, preprocessing)
