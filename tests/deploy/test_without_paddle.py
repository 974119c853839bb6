"""infer.py with ONNX Runtime, numpy and Pillow alone: the answers of the other engines; what is missing is named."""

import ast
import os
import pty
import shutil
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.deploy.environments import ROOT, call, make_environment, requirements
from tests.scripts.run import last_error
from tests.serving.conftest import NAMES
from util.deploy.archive import pack

INFER = ROOT / "infer.py"
PICTURES = [str(ROOT / "demo" / name) for name in ("chelsea.jpg", "coffee.jpg")]


def predictions(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found = ast.literal_eval(done.stdout)
    assert [list(p) for p in found] == [["class_ids", "scores", "file_name", "label_names"]] * len(PICTURES)
    return list(found)


@pytest.fixture(scope="module")
def expected(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What Paddle Inference finds."""
    options = ("--model_dir", str(exported), "--engine", "paddle", "--input_file", *PICTURES)
    return predictions(call(Path(sys.executable), INFER, *options, cwd=tmp_path_factory.mktemp("paddle")))


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert {k: v for k, v in a.items() if k != "scores"} == {k: v for k, v in b.items() if k != "scores"}
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=0, atol=1e-5)


def test_the_file_names_three_packages_in_the_ranges_of_the_others() -> None:
    found = {str(requirement) for requirement in requirements(ROOT / "deploy/requirements.txt")}
    assert {line.partition("<")[0].partition(">")[0] for line in found} == {"numpy", "onnxruntime", "Pillow"}
    others = ("requirements.txt", "requirements-deploy.txt")
    assert found <= {str(requirement) for name in others for requirement in requirements(ROOT / name)}


def test_the_environment_has_nothing_else(paddle_free: Path, tmp_path: Path) -> None:
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    names = ["numpy", "PIL", "onnxruntime", "paddle", "yaml", "tqdm", "safetensors", "openvino", "fastapi", "pip"]
    found = [ast.literal_eval(call(python, "-c", code, *names, cwd=tmp_path).stdout)
             for python in (paddle_free, Path(sys.executable))]  # fmt: skip
    assert found[0] == ["numpy", "PIL", "onnxruntime"]
    assert set(found[1]) >= set(names) - {"pip"}


def test_a_folder_and_a_zip_have_the_classes_of_paddle(
    paddle_free: Path, exported: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    pack(exported, [path.name for path in exported.iterdir()], tmp_path / "model.zip")
    options = ("--input_file", *PICTURES)
    for place, engine in ((exported, "onnxruntime"), (tmp_path / "model.zip", "auto")):
        done = call(paddle_free, INFER, "--model_dir", place, "--engine", engine, *options, cwd=tmp_path)
        assert "ONNX Runtime" in done.stderr
        assert_same(predictions(done), expected)
    assert expected[0]["label_names"][0] in NAMES
    assert expected[0]["scores"] != expected[1]["scores"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]  # the engine keeps nothing in the home folder


def test_openvino_has_them_too(exported: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    options = ("--model_dir", str(exported), "--engine", "openvino", "--input_file", *PICTURES)
    assert_same(predictions(call(Path(sys.executable), INFER, *options, cwd=tmp_path)), expected)
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_model_onnx_is_told_what_to_export(paddle_free: Path, exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns("*.onnx"))
    done = call(paddle_free, INFER, "--model_dir", folder, "--input_file", *PICTURES, cwd=tmp_path, code=66)
    assert last_error(done) == f"{folder}/model.onnx: no such file; export it with export_model.py --format onnx"
    program = folder / "model.pdmodel"
    done = call(paddle_free, INFER, "--model_file", program, "--input_file", *PICTURES, cwd=tmp_path, code=2)
    assert last_error(done) == (
        "model.pdmodel needs Paddle, which is not installed: export_model.py --format onnx writes model.onnx"
    )


def test_what_needs_more_says_so_in_a_line(paddle_free: Path, exported: Path, tmp_path: Path) -> None:
    wanted = "PyYAML>=6.0 is not installed; install it: pip install -r requirements.txt"
    (tmp_path / "a.yaml").write_text("batch_size: 2\n")
    infer = (str(INFER), "--model_dir", str(exported), "--input_file", *PICTURES)
    scripts = [(str(ROOT / name), "--help") for name in ("train.py", "eval.py", "predict.py", "export_model.py")]
    for command in (*scripts, (*infer, "--config", "a.yaml")):
        assert last_error(call(paddle_free, *command, cwd=tmp_path, code=2)) == wanted
    done = call(paddle_free, *infer, "--engine", "openvino", cwd=tmp_path, code=2)
    assert "OpenVINO is not installed" in last_error(done)
    done = call(paddle_free, ROOT / "serve.py", "--model_dir", exported, cwd=tmp_path, code=2)
    assert last_error(done) == "serve.py needs fastapi: pip install -r requirements-serve.txt"


def test_without_one_of_the_three_a_line_names_it(exported: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", ["deploy/requirements.txt"], without="pillow")
    done = call(python, INFER, "--model_dir", exported, "--input_file", *PICTURES, cwd=tmp_path, code=2)
    assert last_error(done) == "Pillow>=12.3 is not installed; install it: pip install -r requirements.txt"


def test_a_terminal_without_tqdm_has_no_bar(paddle_free: Path, exported: Path, tmp_path: Path) -> None:
    command = [INFER, "--model_dir", exported, "--input_file", *PICTURES]
    shown = {}
    for python in (paddle_free, Path(sys.executable)):
        terminal, end = pty.openpty()
        termios.tcsetwinsize(end, (24, 100))
        environment = os.environ | {"HOME": str(tmp_path), "TERM": "xterm"}
        arguments = [python, *command, *(() if python == paddle_free else ("--engine", "onnxruntime"))]
        done = subprocess.run(arguments, stderr=end, stdout=subprocess.PIPE, env=environment, timeout=120, check=True)
        os.close(end)
        shown[python] = os.read(terminal, 1 << 16).decode()
        os.close(terminal)
        assert [p["file_name"] for p in ast.literal_eval(done.stdout.decode())] == PICTURES
        assert "engine: ONNX Runtime" in shown[python]
    assert ["images" in shown[python] for python in shown] == [False, True]


def test_the_makers_of_the_engines_are_told_nothing(tmp_path: Path) -> None:
    path = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); "
    look = (
        "import openvino\n"
        "print(sys.modules.get('openvino_telemetry') is not None, 'ORT_DISABLE_TELEMETRY' in os.environ)"
    )
    ours = "from util.deploy.engines import tell_nobody; tell_nobody(); "
    as_it_comes = "os.environ['CI'] = 'true'; "  # in which case the package itself sends nothing
    found = [call(Path(sys.executable), "-c", path + how + look, cwd=tmp_path) for how in (ours, as_it_comes)]
    assert [done.stdout.strip() for done in found] == ["False True", "True False"]


def test_the_server_needs_no_paddle(paddle_free_server: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import serve, util.serving.app, util.serving.engine_process"
    call(paddle_free_server, "-c", code, cwd=tmp_path)
