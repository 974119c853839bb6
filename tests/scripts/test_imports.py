"""No script loads what it does not use: seconds before an answer, and packages that may be missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.exports import export_random
from tests.scripts.run import ROOT
from tests.trees import write_picture

ALWAYS_UNUSED = {"paddle", "wandb", "matplotlib", "onnxruntime", "openvino", "torch", "scipy", "multiprocessing"}

# Runs a script in this process, so that what it has loaded can be listed when it is done.
CODE = """
import json, os, runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
{before}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write("\\n" + json.dumps(sorted(sys.modules)))
"""


def loaded(script: str, *arguments: str, cwd: Path = ROOT, before: str = "") -> set[str]:
    """Returns the modules that are there when a script has ended well."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before), str(ROOT / script), *arguments], cwd=cwd,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "script", ["train.py", "eval.py", "predict.py", "visualize.py", "export_model.py", "infer.py", "serve.py"]
)
def test_help_loads_no_framework(script: str) -> None:
    found = loaded(script, "--help")
    assert "util.settings" in found
    assert found & ALWAYS_UNUSED == set()


def test_a_module_that_is_loaded_is_noticed() -> None:
    found = loaded("infer.py", "--help", before="import multiprocessing")
    assert found & ALWAYS_UNUSED == {"multiprocessing"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export in `model` and a picture."""
    folder = tmp_path_factory.mktemp("imports")
    export_random(folder)
    write_picture(folder / "a.jpg", seed=0)
    return folder


# An engine of another package, in the place of those that may not be installed.
STAND_IN = """
import util.deploy.engine_choice as choice, util.deploy.engines as engines
other = choice.Engine(name="onnxruntime", precision="fp32", programs=("model.json",))
choice.choose_engine = lambda *values, **named: other
engines.start_engine = lambda *values, **named: lambda images: images.reshape(len(images), -1)[:, :10]
choice.Engine.__str__ = lambda self: "stand-in"
"""


def test_infer_without_paddles_engine_loads_no_paddle(place: Path) -> None:
    arguments = ("--model_dir", "model", "--input_file", "a.jpg", "--device", "cpu")
    unused = {"paddle", "models", "util.train", "util.weights", "tqdm", "concurrent.futures.thread"}
    found = loaded("infer.py", *arguments, cwd=place, before=STAND_IN)
    assert "util.prediction" in found
    assert found & (unused | ALWAYS_UNUSED) == set()
    with_paddle = loaded("infer.py", *arguments, "--engine", "paddle", cwd=place)
    assert "paddle" in with_paddle
    assert with_paddle & {"models", "util.train", "util.weights"} == set()
