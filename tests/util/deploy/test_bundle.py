"""An export's manifest and its files: what is verified, what is found, and what is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import INT8, ONNX, PARAMS, PROGRAMS, load_bundle
from util.deploy.manifest import (
    MANIFEST,
    MAX_MANIFEST,
    OWN_HASH,
    Card,
    Manifest,
    check_input_size,
    content_sha256,
    file_sha256,
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


@pytest.mark.parametrize(
    "shape",
    [(None, 3, 28, 28), (None, 1, 28, 32), (None, 1, 28), (None, 1, 28, "28"), (0, 1, 28, 28), (10**30, 1, 28, 28)],
)
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
        load_bundle(bundle)


def test_the_layout_of_a_manifest_is_free(bundle: Path) -> None:
    expected = read_manifest(bundle)
    edit(bundle, lambda m: m.update(model=m.pop("model")), indent=None)  # another order, one line
    assert read_manifest(bundle) == expected


def test_a_manifest_of_before_the_hash_asks_for_another_export(bundle: Path) -> None:
    edit(bundle, lambda m: (m.pop(OWN_HASH), m.update(version=1)))
    with pytest.raises(WeightsError, match=r"export\.json: written in version 1; this code reads 2 to 5: export again"):
        read_manifest(bundle)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_manifest_of_before_is_read(version: int, bundle: Path) -> None:
    expected = read_manifest(bundle)
    before = replace(expected, version=version)
    before.write(bundle)
    values = json.loads((bundle / MANIFEST).read_text())
    del values["attention"]
    if version < 4:
        del values["card"]
    (bundle / MANIFEST).write_text(json.dumps(values | {OWN_HASH: content_sha256(values)}))
    assert read_manifest(bundle) == before


def test_programs_that_an_export_has_not_are_named_with_what_writes_them(bundle: Path) -> None:
    for name, hint in ((ONNX, "--format onnx"), (INT8, "--int8 CALIBRATION_FOLDER")):
        with pytest.raises(MissingInputError, match=rf"{name}: no such file; export it with .*{hint}"):
            load_bundle(bundle).program((name,))
    (bundle / ONNX).write_bytes(b"onnx")
    with pytest.raises(UsageError, match=r"model\.onnx holds its own parameters; leave out --params_file"):
        load_bundle(bundle / ONNX, params=bundle / PARAMS).program()
    manifest = read_manifest(bundle)
    replace(manifest, sha256=manifest.sha256 | {ONNX: file_sha256(bundle / ONNX)}).write(bundle)
    found = load_bundle(bundle).program((ONNX,))
    assert found.path == found.params == bundle / ONNX
    assert load_bundle(bundle).program(("model.pdmodel",)).path.name == "model.pdmodel"


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
    for place in [bundle] if (kind, name) == ("folder", PROGRAMS[0]) else [bundle, bundle / "model.json"]:
        with pytest.raises(WeightsError, match=rf"{name}: is not a regular file$"):
            load_bundle(place).program()


def test_a_bundle_is_found_by_its_folder_or_a_file_of_it(bundle: Path) -> None:
    for name in ("", MANIFEST, PROGRAMS[0], PARAMS):
        assert load_bundle(bundle / name).program() == load_bundle(str(bundle)).program()
    assert load_bundle(bundle).program().path == bundle / PROGRAMS[0]
    (bundle / PROGRAMS[0]).unlink()
    assert load_bundle(bundle).program().path == bundle / PROGRAMS[1]


def test_a_name_that_is_too_long_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="cannot be read: File name too long"):
        load_bundle(tmp_path / ("a" * 300))


def test_what_is_not_there_is_a_missing_input(bundle: Path, tmp_path: Path) -> None:
    for place, fault in (
        (tmp_path / "none", "none: no such file$"),  # beside a manifest it is taken for a program
        (tmp_path / "none" / "none", "none/none: no such file or folder$"),
    ):
        with pytest.raises(MissingInputError, match=fault):
            load_bundle(place).program()
    (bundle / MANIFEST).unlink()
    with pytest.raises(MissingInputError, match=r"export\.json: no such file; export the model with export_model\.py"):
        load_bundle(bundle)
    with pytest.raises(UsageError, match="--params_file goes with --model_file PROGRAM"):
        load_bundle(bundle, params=bundle / PARAMS)


@pytest.mark.parametrize(
    "changes",
    [{"class_names": "ab"}, {"class_names": ["a", "b\x1b[2J"]}, {"class_names": {"a": 1, "b": 2}}, {"model": 3},
     {"model": "../../x"}, {"attention": [10**30, 10**30]}],
)  # fmt: skip
def test_values_that_an_export_does_not_write_are_damage(changes: dict[str, Any], tmp_path: Path) -> None:
    values = json.loads(json.dumps(asdict(GREY))) | changes
    (tmp_path / MANIFEST).write_text(json.dumps(values | {OWN_HASH: content_sha256(values)}), encoding="utf-8")
    with pytest.raises(WeightsError, match=r"export\.json: damaged: "):
        read_manifest(tmp_path)


@pytest.mark.parametrize("card", [
    {"top1": 101.0}, {"top1": "81"}, {"licence": 1}, {"colour": "red"}, {"source": ["a"]}, {"top5": True},
])  # fmt: skip
def test_a_card_of_another_form_is_damage(card: dict[str, Any], bundle: Path) -> None:
    values = {name: value for name, value in card.items() if name in Card.__dataclass_fields__}
    replace(read_manifest(bundle), card=Card(**values)).write(bundle)
    if not values:
        edit(bundle, lambda m: m["card"].update(card))
        values = json.loads((bundle / MANIFEST).read_text())
        edit(bundle, lambda m: m.update({OWN_HASH: content_sha256(values)}))
    with pytest.raises(WeightsError, match=r"export\.json: damaged: .*(card|Card)"):
        load_bundle(bundle)


@pytest.mark.parametrize("grid", [(14, 14), (7, 9), None])
def test_the_grid_of_an_attention_map_comes_back(grid: tuple[int, int] | None, bundle: Path) -> None:
    replace(read_manifest(bundle), attention=grid).write(bundle)
    assert load_bundle(bundle).manifest.attention == grid


@pytest.mark.parametrize("grid", [(14,), (14, 14, 14), (0, 14), (14.0, 14), (True, 14), (None, 14), "ab", (), 14, True])
def test_an_attention_map_of_another_form_is_damage(grid: Any, bundle: Path) -> None:
    replace(read_manifest(bundle), attention=grid).write(bundle)
    with pytest.raises(WeightsError, match=r"export\.json: damaged: "):
        load_bundle(bundle)
