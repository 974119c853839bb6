"""What is said when images will be prepared otherwise than the weights want, and which weights were left aside."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import models
from tests.checkpoints import write_checkpoint
from util.errors import MismatchError
from util.options import ModelOptions, PreprocessOptions, WeightsOptions
from util.restore import restore
from util.weights.container import read_container, write_container
from util.weights.sources import find_source

Warnings = Callable[..., list[str]]


@pytest.fixture
def warnings_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Warnings:
    monkeypatch.chdir(tmp_path)

    def warnings_of(source: str, *, use_ema: bool = False, model: str | None = None, **options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="run.weights"):
            restore(
                WeightsOptions(pretrained=source), ModelOptions(model=model), PreprocessOptions(**options),
                use_ema=use_ema, names_file=None, registry=models,
            )  # fmt: skip
        return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    return warnings_of


def test_another_normalisation_than_the_checkpoints_is_a_warning(warnings_of: Warnings, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.safetensors")
    assert warnings_of("x.safetensors", mean=(0.485, 0.456, 0.406), crop_pct=1.0, input_size=(40,)) == []
    assert warnings_of("x.safetensors", mean=(0.5, 0.5, 0.5), interpolation="bilinear") == [
        "x.safetensors was made for mean 0.485 0.456 0.406, here it is 0.5 0.5 0.5; --mean 0.485 0.456 0.406 keeps it",
        "x.safetensors was made for interpolation bicubic, here it is bilinear; --interpolation bicubic keeps it",
    ]


def test_what_a_published_name_implies_is_told_against_a_recipe(
    warnings_of: Warnings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the source says nothing: then its model's name does."""
    source = find_source("convit_tiny.fb_in1k")
    assert source is not None
    write_checkpoint(tmp_path / "x.safetensors")
    published = replace(source, model="cvt_nano_32x32", preprocess={"crop_pct": 0.9})
    monkeypatch.setattr(
        "util.restore.find_weights", lambda text, canonical_name: (tmp_path / "x.safetensors", published)
    )
    assert warnings_of("convit_tiny.fb_in1k") == []
    (text,) = warnings_of("convit_tiny.fb_in1k", crop_pct=0.875)
    assert "crop_pct 0.9, here it is 0.875" in text
    (text,) = warnings_of("convit_tiny.fb_in1k", std=(0.5, 0.5, 0.5))
    assert "std 0.229 0.224 0.225, here it is 0.5 0.5 0.5" in text


def test_averaged_weights_that_are_left_aside_are_named(warnings_of: Warnings, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.safetensors", ema_seed=3)
    assert warnings_of("x.safetensors") == ["x.safetensors holds averaged weights, too, which --use_ema would take"]
    assert warnings_of("x.safetensors", use_ema=True) == []


def test_another_spelling_of_the_models_name_is_the_same_model(warnings_of: Warnings, tmp_path: Path) -> None:
    model = models.create_model("vit_ti_16_224", num_classes=3, img_size=32)
    tensors = {f"model/{name}": value.numpy() for name, value in model.state_dict().items()}
    write_checkpoint(tmp_path / "x.safetensors")
    state = read_container(tmp_path / "x.safetensors").state | {"model": {"name": "vit_ti16_224", "num_classes": 3}}
    write_container(tmp_path / "vit.safetensors", tensors, state)
    for spelling in (None, "vit_ti_16_224", "vit_ti16_224"):
        assert warnings_of("vit.safetensors", model=spelling) == []
    with pytest.raises(MismatchError, match="holds vit_ti_16_224, not vit_s_16_224"):
        warnings_of("vit.safetensors", model="vit_s_16_224")
