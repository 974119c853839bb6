"""Bringing weights along: conversion, every script on foreign files, published names, files that are refused."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import create_model
from tests.checkpoints import make_model
from tests.scripts.run import ROOT, TINY, last_error, run
from tests.trees import write_tree
from tests.weights_files import write_paddle, write_safetensors
from util.errors import UserError
from util.weights.__main__ import main as convert
from util.weights.container import read_container

NANO = ("--model", "cvt_nano_32x32")


def module(*command: str | Path, cwd: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m ...` in a folder, as from a checkout."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def values(seed: int) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in make_model(3, seed=seed).state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data tree of three classes, a CvT-paddle checkpoint with an average, and what it was converted to."""
    folder = tmp_path_factory.mktemp("weights")
    write_tree(folder / "data", num_classes=3)
    write_paddle(folder / "best.pd", values(1), wrap="model", beside={"epoch": 3, "model_ema": values(2)})
    module("util.weights", "best.pd", *NANO, "--output", "best.safetensors", cwd=folder)
    return folder


def evaluate(folder: Path, *options: str) -> dict[str, Any]:
    return json.loads(run("eval.py", "data", "-j", "0", *options, cwd=folder).stdout)


def test_conversion_keeps_every_bit_and_says_what_it_made(folder: Path) -> None:
    container = read_container(folder / "best.safetensors")
    for name, value in values(1).items():
        np.testing.assert_array_equal(container.tensors[f"model/{name}"], value)
    assert container.state["model"] == {"name": "cvt_nano_32x32", "num_classes": 3}
    assert container.state["made_by"] == {"command": "convert", "files": ["best.pd"], "ema": False}
    assert container.state["preprocess"]["input_size"] == [3, 32, 32]
    again = folder / "again.safetensors"
    module("util.weights", "best.safetensors", "--output", again, cwd=folder)
    for name, value in read_container(again).tensors.items():
        np.testing.assert_array_equal(container.tensors[name], value)


@pytest.mark.slow
def test_scripts_answer_alike_on_the_foreign_file_the_converted_one_and_its_export(folder: Path) -> None:
    foreign = ("--pretrained", "best.pd", *NANO)
    found = evaluate(folder, *foreign)
    assert found == evaluate(folder, "--resume", "best.safetensors")
    run("export_model.py", *foreign, "--output", "exported", cwd=folder)
    assert found == evaluate(folder, "--pretrained", "exported")
    averaged = evaluate(folder, *foreign, "--use_ema")
    assert averaged["loss"] != found["loss"]


def test_training_starts_from_a_foreign_file(folder: Path) -> None:
    done = run("train.py", "data", *TINY, "--pretrained", "best.pd", "--dry_run", cwd=folder)
    assert "weights from best.pd\n" in done.stderr


def test_a_converted_file_is_no_run_to_continue(folder: Path) -> None:
    done = run("train.py", "data", *TINY, "--resume", "best.safetensors", cwd=folder, code=65)
    assert "holds weights alone, made by convert; start from it with --pretrained" in last_error(done)


@pytest.mark.parametrize("arguments", [
    ("eval.py", "data", "--pretrained", "evil.pdparams", *NANO),
    ("train.py", "data", *TINY, "--pretrained", "evil.pdparams"),
])  # fmt: skip
def test_a_file_that_wants_to_run_code_ends_with_77(folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "evil.pdparams").write_bytes(b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch canary\x85R.")
    done = run(*arguments, cwd=folder, code=77)
    assert "evil.pdparams" in last_error(done)
    assert "os.system" in last_error(done)
    assert not (folder / "canary").exists()


def test_what_conversion_refuses(folder: Path) -> None:
    for arguments, error in (
        (["best.pd"], "name the weights, and the new file with --output"),
        (["best.pd", "--output", "x.pd"], r"must end in \.safetensors"),
        (["best.pd", "--output", str(folder / "best.safetensors")], "exists; nothing is written over"),
    ):
        with pytest.raises(UserError, match=error):
            convert(arguments)

    def refusal(*arguments: str, code: int) -> str:
        done = module("util.weights", *arguments, "--output", "x.safetensors", cwd=folder, code=code)
        return last_error(done)

    assert "best.pd does not say which model it is for; name it with --model" in refusal("best.pd", code=2)
    assert "best.pd does not fit the model" in refusal("best.pd", "--model", "convit_tiny", code=65)
    assert not (folder / "x.safetensors").exists()


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py", "export_model.py"])
def test_published_weights_are_listed(script: str, tmp_path: Path) -> None:
    done = run(script, "--pretrained", "list", cwd=tmp_path)
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"name", "convit_tiny.fb_in1k", "cvt_13_224x224.paddleclas", "vit_b_32_224.mindcv"} <= set(names)


def test_an_unknown_published_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = run("export_model.py", "--output", "out", "--pretrained", "convit_tinny", cwd=tmp_path, code=2)
    assert "convit_tiny" in last_error(done)


def test_published_weights_in_the_cache_need_no_network_and_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ConViT-tiny, in timm's file format and layout; a proxy that is not there would betray a request."""
    tensors = {}
    for name, value in create_model("convit_tiny").state_dict().items():
        array = value.numpy()
        tensors[name] = array.T if name.endswith(".weight") and array.ndim == 2 else array
    cache = tmp_path / "home/weights"
    cache.mkdir(parents=True)
    write_safetensors(cache / "convit_tiny.fb_in1k.safetensors", tensors)
    monkeypatch.setenv("PADDLE_CVT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    image = ROOT / "demo/chelsea.jpg"
    done = run("predict.py", "--infer_imgs", image, "--pretrained", "convit_tiny.fb_in1k", cwd=tmp_path)
    found = ast.literal_eval(done.stdout)
    labels = (ROOT / "demo/imagenet1k_label_list.txt").read_text(encoding="utf-8")
    assert all(
        f"\n{i} {n}\n" in f"\n{labels}" for i, n in zip(found[0]["class_ids"], found[0]["label_names"], strict=True)
    )


def test_a_run_is_not_continued_from_a_foreign_file(folder: Path) -> None:
    done = run("train.py", "data", *TINY, "--resume", "best.pd", "--experiment", "foreign", cwd=folder, code=65)
    assert last_error(done) == (
        "best.pd: not a checkpoint of this project; to start from it, give it with --pretrained"
    )
    assert not (folder / "output/train/foreign").exists()
