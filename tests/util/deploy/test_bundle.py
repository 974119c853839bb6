"""The manifest of an export: channels and size of the program's input, checked against its preprocessing."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import (
    INT8,
    MANIFEST,
    MAX_MANIFEST,
    ONNX,
    OWN_HASH,
    PARAMS,
    PROGRAMS,
    Manifest,
    check_input_size,
    file_sha256,
    open_bundle,
    read_manifest,
)
from util.errors import MismatchError, MissingInputError, UsageError, WeightsError
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
    numerics={"act": "gelu_tanh"},
    parameters=("norm1.weight", None, "norm2.weight"),
)  # fmt: skip


@pytest.fixture
def patience() -> Iterator[None]:
    """Ends a test that waits for the other end of a FIFO."""

    def give_up(*_: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A folder whose hashes are right."""
    for name in (*PROGRAMS, PARAMS):
        (tmp_path / name).write_bytes(name.encode())
    replace(GREY, sha256={name: file_sha256(tmp_path / name) for name in (*PROGRAMS, PARAMS)}).write(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, indent: int | None = 2) -> None:
    path = folder / MANIFEST
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values, indent=indent))


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


SLIPS: dict[str, Callable[[dict[str, Any]], object]] = {
    "two names swapped": lambda m: m["parameters"].reverse(),
    "numerics left out": lambda m: m.pop("numerics"),
    "another number": lambda m: m["preprocess"].update(crop_pct=0.5),
    "a field too many": lambda m: m.update(note="x"),
    "no hash": lambda m: m.pop(OWN_HASH),
    "another hash": lambda m: m.update({OWN_HASH: "0" * 64}),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_manifest_that_was_edited_is_refused(slip: str, bundle: Path) -> None:
    edit(bundle, SLIPS[slip])
    with pytest.raises(WeightsError, match=r"export\.json: damaged or edited: .*; export again"):
        open_bundle(str(bundle), None, None)


def test_the_layout_of_a_manifest_is_free(bundle: Path) -> None:
    expected = read_manifest(bundle)
    edit(bundle, lambda m: m.update(model=m.pop("model")), indent=None)  # another order, one line
    assert read_manifest(bundle) == expected


def test_a_manifest_of_before_the_hash_asks_for_another_export(bundle: Path) -> None:
    edit(bundle, lambda m: (m.pop(OWN_HASH), m.update(version=1)))
    with pytest.raises(
        WeightsError, match=r"export\.json: written in version 1; this code reads 2 and 3: export again"
    ):
        read_manifest(bundle)


def test_a_manifest_of_before_folding_is_read(bundle: Path) -> None:
    expected = read_manifest(bundle)
    before = replace(expected, version=2)
    before.write(bundle)
    assert read_manifest(bundle) == before


def test_programs_that_an_export_has_not_are_named_with_what_writes_them(bundle: Path) -> None:
    for name, hint in ((ONNX, "--format onnx"), (INT8, "--int8 CALIBRATION_FOLDER")):
        with pytest.raises(MissingInputError, match=rf"{name}: no such file; export it with .*{hint}"):
            open_bundle(str(bundle), None, None, programs=(name,))
    (bundle / ONNX).write_bytes(b"onnx")
    with pytest.raises(UsageError, match=r"model\.onnx holds its own parameters; leave out --params_file"):
        open_bundle(None, str(bundle / ONNX), str(bundle / PARAMS))
    manifest = read_manifest(bundle)
    replace(manifest, sha256=manifest.sha256 | {ONNX: file_sha256(bundle / ONNX)}).write(bundle)
    found = open_bundle(str(bundle), None, None, programs=(ONNX,))
    assert found.program == found.params == bundle / ONNX
    assert open_bundle(str(bundle), None, None, programs=("model.pdmodel",)).program.name == "model.pdmodel"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[" * 200_000, "not JSON"), (b"\xff", "not JSON"), (b"", "not JSON"), (b"[1]", "expected an object of JSON")],
)
def test_what_is_no_manifest_is_damage(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"export\.json: damaged: {message}$"):
        read_manifest(tmp_path)


def test_a_huge_manifest_is_refused_before_it_is_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(bundle / MANIFEST, MAX_MANIFEST + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
    with pytest.raises(WeightsError, match=r"export\.json: damaged: 67108865 bytes; a manifest has at most 67108864"):
        read_manifest(bundle)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", [MANIFEST, PROGRAMS[0], PARAMS])
@pytest.mark.usefixtures("patience")
def test_only_regular_files_are_opened(name: str, kind: str, bundle: Path) -> None:
    (bundle / name).unlink()
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](bundle / name)
    whole, program = (str(bundle), None), (None, str(bundle / "model.json"))
    for model_dir, model_file in [whole] if (kind, name) == ("folder", PROGRAMS[0]) else [whole, program]:
        with pytest.raises(WeightsError, match=rf"{name}: is not a regular file$"):
            open_bundle(model_dir, model_file, None)


def test_a_bundle_is_found_by_its_folder_or_a_file_of_it(bundle: Path) -> None:
    for name in ("", MANIFEST, PROGRAMS[0], PARAMS):
        assert open_bundle(None, str(bundle / name), None) == open_bundle(str(bundle), None, None)
    assert open_bundle(str(bundle), None, None).program == bundle / PROGRAMS[0]
    (bundle / PROGRAMS[0]).unlink()
    assert open_bundle(str(bundle), None, None).program == bundle / PROGRAMS[1]


def test_a_name_that_is_too_long_is_a_missing_input(tmp_path: Path) -> None:
    path = str(tmp_path / ("a" * 300))
    for model_dir, model_file in ((path, None), (None, path)):
        with pytest.raises(MissingInputError, match="cannot be read: File name too long"):
            open_bundle(model_dir, model_file, None)
