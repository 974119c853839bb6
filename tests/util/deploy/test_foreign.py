"""Programs of other projects: the same answers as their own, and what has to be said about their images."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import infer
from tests.scripts.run import ROOT, last_error, run
from tests.util.deploy.foreign_programs import (
    CLASSES,
    FLAGS,
    GIVEN,
    PREPARED,
    SIZE,
    Classifier,
    change_program,
    make_classifier,
    save_onnx,
    save_paddle,
)
from util.data.images import decode_image
from util.deploy.bundle import Program
from util.deploy.engine_choice import Engine
from util.deploy.engines import start_engine
from util.deploy.foreign import find_foreign, load_foreign
from util.deploy.manifest import file_sha256
from util.errors import MismatchError, MissingInputError, UsageError, WeightsError
from util.options import PreprocessOptions
from util.serving.engine_process import EngineProcess, EngineSpec, StartError

CHELSEA = ROOT / "demo" / "chelsea.jpg"
COFFEE = ROOT / "demo" / "coffee.jpg"


@pytest.fixture(scope="module")
def model() -> Classifier:
    return make_classifier()


@pytest.fixture(scope="module")
def saved(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `inference.pdmodel`, `inference.json` and their `inference.pdiparams`."""
    folder = tmp_path_factory.mktemp("saved")
    for old_format in (True, False):
        save_paddle(model, folder / "inference", old_format=old_format)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)


def started(program: Program, name: Any = "paddle") -> Callable[[np.ndarray], np.ndarray]:
    engine = Engine(name=name, precision="fp32", programs=())
    return start_engine(engine, program, device="cpu", threads=1, onednn=True)


def load(path: Path, params: Path | None = None) -> Program:
    return load_foreign(path, params=params, preprocess=GIVEN, names_file=None).program


@pytest.mark.parametrize(
    ("name", "engine"),
    [("inference.pdmodel", "paddle"), ("inference.pdmodel", "openvino"), ("inference.json", "paddle")],
)
def test_a_program_answers_as_the_model_it_was_saved_from(
    model: Classifier, folder: Path, name: str, engine: str
) -> None:
    path = folder / name
    program = path.rename(folder / f"other{path.suffix}")
    params = (folder / "inference.pdiparams").rename(folder / "weights.bin")
    loaded = load(program, params)
    assert loaded.manifest.output == "probabilities"
    assert loaded.manifest.input_shape == (None, 3, SIZE, SIZE)
    assert loaded.manifest.class_names == tuple("01234")
    assert loaded.manifest.sha256 == {program.name: file_sha256(program), "weights.bin": file_sha256(params)}
    expected = model(paddle.to_tensor(images(3))).numpy()
    np.testing.assert_allclose(started(loaded, engine)(images(3)), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01  # the images make a difference


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("batch", ["N", 1, 2])
def test_an_onnx_program_answers_for_any_number_of_images(batch: Any, engine: str, tmp_path: Path) -> None:
    expected = save_onnx(tmp_path / "other.onnx", batch=batch)
    loaded = load(tmp_path / "other.onnx")
    assert loaded.manifest.input_shape == (None if batch == "N" else batch, 3, SIZE, SIZE)
    for count in (1, 3):
        np.testing.assert_allclose(started(loaded, engine)(images(count)), expected(images(count)), rtol=0, atol=1e-5)


def test_infer_prints_the_probabilities_of_the_model_itself(
    model: Classifier, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infer.main(["--model_file", str(folder / "inference.pdmodel"), *FLAGS, "--input_file", str(CHELSEA)])
    printed = capsys.readouterr()
    (found,) = ast.literal_eval(printed.out)
    image = PREPARED.transform()(decode_image(CHELSEA))
    expected = model(paddle.to_tensor(image[None])).numpy()[0]
    assert found["class_ids"] == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose(found["scores"], np.sort(expected)[::-1], rtol=0, atol=1e-5)  # no second softmax
    assert found["label_names"] == [str(i) for i in found["class_ids"]]
    assert "another project's program, which gives probabilities of 5 classes, named by their numbers" in printed.err


def test_a_folder_of_another_tool_says_all_by_its_inference_yml(
    model: Classifier, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "inference.yml").write_text(
        f"""
Global: {{model_name: PP-LCNet_x1_0}}
PreProcess:
  transform_ops:
  - ResizeImage: {{resize_short: 36, interpolation: bilinear, backend: pil}}
  - CropImage: {{size: {SIZE}}}
  - NormalizeImage: {{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], scale: 1.0/255.0, order: '', channel_num: 3}}
  - ToCHWImage: null
PostProcess:
  Topk: {{topk: 3, label_list: [ant, bee, cat, dog, emu]}}
"""
    )
    infer.main(["--model_dir", str(folder), "--input_file", str(CHELSEA), str(COFFEE)])
    found = ast.literal_eval(capsys.readouterr().out)
    for entry, file in zip(found, (CHELSEA, COFFEE), strict=True):
        expected = model(paddle.to_tensor(PREPARED.transform()(decode_image(file))[None])).numpy()[0]
        np.testing.assert_allclose(entry["scores"], np.sort(expected)[::-1], rtol=0, atol=1e-5)
        assert entry["label_names"] == [["ant", "bee", "cat", "dog", "emu"][i] for i in entry["class_ids"]]
    with pytest.raises(MismatchError, match=r"takes images of 3 x 32 x 32 .* prepared as 3 x 48 x 48; change --input_"):
        infer.main(["--model_dir", str(folder), "--input_file", str(CHELSEA), "--input_size", "48"])
    loaded = load_foreign(
        folder / "inference.json", params=None, preprocess=PreprocessOptions(mean=(0.1, 0.2, 0.3)), names_file=None
    )
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)  # the command line wins
    assert loaded.preprocessing.std == (0.25, 0.25, 0.25)


def test_what_is_not_said_is_asked_for_all_at_once(folder: Path, tmp_path: Path) -> None:
    program = folder / "inference.pdmodel"
    nothing = PreprocessOptions()
    with pytest.raises(UsageError, match=r"pdmodel: .*; give --crop_pct --interpolation --mean --std$"):
        load_foreign(program, params=None, preprocess=nothing, names_file=None)
    squash = PreprocessOptions(crop_mode="squash", mean=(0.0, 0.0, 0.0))
    with pytest.raises(UsageError, match=r"; give --interpolation --std$"):
        load_foreign(program, params=None, preprocess=squash, names_file=None)

    def open_sizes(block: Any) -> None:
        (x,) = (variable for variable in block.vars if variable.name == "x")
        x.type.dense_tensor.tensor.dims[2:] = [-1, -1]

    change_program(program, open_sizes)
    with pytest.raises(UsageError, match=r"; give --input_size --crop_pct --interpolation --mean --std$"):
        load_foreign(program, params=None, preprocess=nothing, names_file=None)
    assert load(program).manifest.input_shape == (None, 3, None, None)

    done = run("infer.py", "--model_file", program, "--input_file", CHELSEA, cwd=tmp_path, code=2)
    assert last_error(done).endswith("; give --input_size --crop_pct --interpolation --mean --std")
    assert done.stdout == ""


def test_the_names_of_the_classes_are_the_files_or_none(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{i} name {i}\n" for i in range(CLASSES)))
    program = folder / "inference.json"
    loaded = load_foreign(program, params=None, preprocess=GIVEN, names_file=str(names))
    assert loaded.program.manifest.class_names == tuple(f"name {i}" for i in range(CLASSES))
    (folder / "inference.yml").write_text(
        "PreProcess: {transform_ops: [ResizeImage: {resize_short: 36}, CropImage: {size: 32}, NormalizeImage: {},"
        " ToCHWImage: null]}\n"
        "PostProcess: {Topk: {topk: 1, label_list: [a, b]}}\n"
    )
    with pytest.raises(
        MismatchError, match=r"inference\.yml: names 2 classes, but inference\.json has 5; give --class"
    ):
        load(program)
    assert load_foreign(program, params=None, preprocess=PreprocessOptions(), names_file=str(names)).notes == (
        f"inference.json: another project's program, which gives probabilities of 5 classes, named by {names}",
        "inference.yml: resizes with OpenCV, here it is Pillow: scores differ a little from the other tool's",
    )


def test_what_is_no_foreign_program_is_left_to_the_export(folder: Path, tmp_path: Path) -> None:
    assert find_foreign(folder) == folder / "inference.json"
    assert find_foreign(folder / "inference.pdmodel") == folder / "inference.pdmodel"
    with pytest.raises(
        UsageError, match=r"pdiparams: is no program; name a \.json, \.pdmodel, \.onnx with --model_file"
    ):
        find_foreign(folder / "inference.pdiparams")
    (folder / "export.json").write_text("{}")
    for place in (folder, folder / "inference.pdmodel", folder / "export.json", tmp_path, tmp_path / "none.pdmodel"):
        assert find_foreign(place) is None  # `load_bundle` says what is wrong with it, hashes above all


def test_parameters_lie_beside_the_program_or_are_named(folder: Path) -> None:
    (folder / "inference.pdiparams").rename(folder / "elsewhere")
    for name in ("inference.pdmodel", "inference.json"):
        with pytest.raises(
            MissingInputError, match=r"inference\.pdiparams: no such file; name the parameters of infer"
        ):
            load(folder / name)
        assert load(folder / name, folder / "elsewhere").params == folder / "elsewhere"
    save_onnx(folder / "x.onnx")
    with pytest.raises(UsageError, match=r"x\.onnx holds its own parameters; leave out --params_file"):
        load(folder / "x.onnx", folder / "elsewhere")


def test_a_server_runs_it_and_refuses_what_has_changed_meanwhile(model: Classifier, folder: Path) -> None:
    from dataclasses import asdict

    program = load(folder / "inference.pdmodel")
    spec = EngineSpec(
        place=str(program.path), params=str(program.params), name="paddle", precision="fp32",
        programs=("inference.pdmodel",), device="cpu", threads=1, onednn=True, image_shape=(3, SIZE, SIZE), max_batch=2,
        manifest=asdict(program.manifest), is_foreign=True,
    )  # fmt: skip
    process = EngineProcess(spec)
    process.start()
    try:
        [found] = process.run(list(images(2)))
    finally:
        process.close()
    np.testing.assert_allclose(found, model(paddle.to_tensor(images(2))).numpy(), rtol=0, atol=1e-5)

    data = bytearray(program.params.read_bytes())
    data[-1] ^= 1
    program.params.write_bytes(data)
    changed = EngineProcess(spec)
    try:
        with pytest.raises(StartError, match=r"inference\.pdiparams: has changed since it was verified"):
            changed.start()
    finally:
        changed.close()


def test_a_scale_by_one_as_paddle_2_ends_programs_changes_nothing(model: Classifier, folder: Path) -> None:
    """`save_inference_model` put one before each output until Paddle 2.5."""
    program = folder / "inference.pdmodel"
    change_program(program, lambda block: add_scale(block, 1.0))
    loaded = load(program)
    assert loaded.manifest.output == "probabilities"
    np.testing.assert_allclose(
        started(loaded)(images(2)), model(paddle.to_tensor(images(2))).numpy(), rtol=0, atol=1e-5
    )
    change_program(program, lambda block: setattr(block.ops[-2].attrs[0], "f", 2.0))
    with pytest.raises(WeightsError, match="its output comes from 'softmax', of which it is not known whether a soft"):
        load(program)


def add_scale(block: Any, factor: float) -> None:
    """Puts `scale` between what is fetched and the fetch."""
    fetch = block.ops.pop()
    given = fetch.inputs[0].arguments[0]
    (variable,) = (variable for variable in block.vars if variable.name == given)
    block.vars.add().CopyFrom(variable)
    block.vars[-1].name = "save_infer_model/scale_0.tmp_0"
    scale = block.ops.add()
    scale.type = "scale"
    for slots, slot, name in ((scale.inputs, "X", given), (scale.outputs, "Out", "save_infer_model/scale_0.tmp_0")):
        slots.add(parameter=slot).arguments.append(name)
    for attribute, value in (("scale", factor), ("bias", 0.0)):
        scale.attrs.add(name=attribute, type=1, f=value)
    scale.attrs.add(name="bias_after_scale", type=6, b=True)
    fetch.inputs[0].arguments[0] = "save_infer_model/scale_0.tmp_0"
    block.ops.append(fetch)
