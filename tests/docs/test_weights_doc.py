"""docs/weights.md: messages that the program really gives, sources that it knows, preprocessing that they want."""

import dataclasses
import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import models
from models import create_model
from tests.docs.test_readme import ROOT, text
from tests.docs.test_training_docs import named, tables_with
from tests.weights_files import Name, NamePickler, write_paddle, write_torch
from util.errors import UntrustedFileError, UserError
from util.options import ModelOptions, PreprocessOptions, WeightsOptions
from util.restore import restore
from util.weights import LoadedWeights, load_weights
from util.weights.download import MAX_BYTES, ROUNDED, Patience, cached
from util.weights.formats import Format, read_raw
from util.weights.names import to_official
from util.weights.sources import list_sources, require_source

PAGES = ("docs/weights.md", "docs/weights_cn.md")
MODEL = "cvt_nano_32x32"
SIGNS = {  # what in a name tells the project
    "cvt.encoder.": "Hugging Face CvT",
    "embeddings.cls_token": "Hugging Face ViT",
    ".gamma": "MindCV",
    ".beta": "MindCV",
}


def state() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in create_model(MODEL, num_classes=3).state_dict().items()}


def evil(path: Path) -> None:
    with open(path, "wb") as file:

        class Call:
            """Is pickled as a call of os.system."""

        NamePickler(file, 2, {Call: lambda _: (Name("os", "system"), ("true",))}).dump({"head.bias": Call()})  # type: ignore[arg-type]


def cut(path: Path) -> None:
    write_paddle(path, {"head.weight": np.zeros((32, 32), np.float32)})
    path.write_bytes(path.read_bytes()[:-200])


def golden(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.copy(ROOT / "tests" / "golden" / name, path)


FILES: dict[str, Callable[[Path], object]] = {
    "written in": golden("torch_legacy.pth"),
    "asks for": evil,
    "encrypted": golden("mindspore_encrypted.ckpt"),
    "a page": lambda path: path.write_text("<!DOCTYPE html><html></html>"),
    "a pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "compressed": lambda path: path.write_bytes(gzip.compress(b"weights")),
    "its pickle has a frame": cut,
    "'state_dict', 'model'": lambda path: write_paddle(path, state(), wrap="model", beside={"state_dict": state()}),
    "has no averaged": lambda path: write_torch(path, state()),
    "has no classification": lambda path: write_torch(path, {"norm.weight": np.ones(3, np.float32)}),
    "does not say": lambda path: write_torch(path, state()),
    "no such file": lambda path: None,
}


def message(path: Path, beginning: str) -> tuple[str, int]:
    """What evaluation says of a file, without its name, and the exit code."""
    model = None if beginning == "does not say" else MODEL
    with pytest.raises(UserError) as caught:
        restore(
            WeightsOptions(pretrained=str(path)),
            ModelOptions(model=model),
            PreprocessOptions(),
            use_ema=beginning == "has no averaged",
            names_file=None,
            registry=models,
        )
    said = str(caught.value)
    assert said.startswith(str(path))
    return said.removeprefix(str(path)).lstrip(": "), caught.value.exit_code


@pytest.mark.parametrize("page", PAGES)
def test_the_messages_are_those_of_the_program(page: str, tmp_path: Path) -> None:
    (table,) = tables_with(page, "message/错误信息")
    assert len(table) == len(FILES) + 1
    for row, (beginning, write) in zip(table[1:], FILES.items(), strict=True):
        (written,) = named(row[0])
        path = tmp_path / f"weights {table.index(row)}.pth"
        write(path)
        said, code = message(path, beginning)
        assert re.sub(r"\d{2,}", "N", written) == re.sub(r"\d{2,}", "N", said)
        assert int(row[1]) == code


@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_does_not_fit_is_told_as_it_is_written(page: str, tmp_path: Path) -> None:
    tensors = create_model(MODEL).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays["stage0.extra"] = arrays.pop("stage0.patch_embed.proj.weight")
    write_torch(tmp_path / "other.pth", {**arrays, "norm.weight": np.zeros(7, np.float32)})
    with pytest.raises(UserError) as caught:
        load_weights(create_model(MODEL), tmp_path / "other.pth")
    said = "".join(f"{line.rstrip()}\n" for line in f"error: {caught.value}".splitlines())
    (written,) = re.findall(r"^```\n(error:.*?)^```$", text(page), re.M | re.S)
    assert written == said.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("page", PAGES)
def test_every_format_and_project_has_its_name_in_the_table(page: str) -> None:
    (table,) = tables_with(page, "whose/项目")
    projects = {name for row in table[1:] for name in named(row[-1])}
    assert projects == {f"{kind} file" for kind in get_args(Format)} | {*SIGNS.values(), "this project"}
    assert LoadedWeights({}, {}).origin in projects
    signs = {sign for row in table[-2:] for sign in named(row[2])}
    assert signs == SIGNS.keys()
    for sign, project in SIGNS.items():
        name = f"norm{sign}" if sign.startswith(".") else sign + "stages.0.weight" * sign.endswith(".")
        assert to_official({name: np.ones(2, np.float32)}, source="").origin == project


@pytest.mark.parametrize("page", PAGES)
def test_the_crops_of_mindcv_are_those_of_its_sources(page: str) -> None:
    (table,) = tables_with(page, "model/模型", "crop in MindCV/MindCV 的裁剪")
    written = {name: float(row[1]) for row in table[1:] for name in named(row[0])}
    vit = written.pop("vit_*")
    for source in (source for source in list_sources() if source.name.endswith(".mindcv")):
        crop = source.preprocess.get("crop_pct", models.model_info(source.model).crop_pct)
        assert crop == (vit if source.model.startswith("vit") else written.pop(source.model)), source.name
    assert written == {}


@pytest.mark.parametrize("page", PAGES)
def test_the_options_for_preprocessing_are_those_of_the_sources(page: str) -> None:
    (table,) = tables_with(page, "weights/权重", "what to add/需要加上")
    options = [row[1] for row in table[1:]]
    for number, name in ((1, "vit_b_16_224.google"), (2, "vit_b_16_224.paddleclas"), (3, "vit_b_16_384.paddleclas")):
        wanted = " ".join(f"--{key} {value:g}" if key == "crop_pct" else f"--{key} {value}"
                          for key, value in require_source(name).preprocess.items())  # fmt: skip
        assert options[number] == f"`{wanted}`", name


@pytest.mark.parametrize("page", PAGES)
def test_the_limits_of_a_download_are_those_of_the_code(page: str) -> None:
    assert f"{(ROUNDED - 1) * 100:.0f} %" in text(page)
    assert f"{MAX_BYTES / 1e9:.0f} GB" in text(page)


def test_a_download_that_fails_says_where_to_put_the_file(tmp_path: Path) -> None:
    """As the page promises under `Without a network`, and with the exit code of a download."""
    source = dataclasses.replace(require_source("convit_tiny"), url="http://127.0.0.1:9/model.safetensors")
    with pytest.raises(UserError, match=re.escape(f"put the file at {tmp_path / source.file} by hand")) as caught:
        cached(source, cache_dir=tmp_path, patience=Patience(tries=1))
    assert caught.value.exit_code == 75


def test_what_is_refused_as_code_is_not_run(tmp_path: Path) -> None:
    evil(tmp_path / "weights.pth")
    with pytest.raises(UntrustedFileError):
        read_raw(tmp_path / "weights.pth")
