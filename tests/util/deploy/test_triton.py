"""The model repository that --format triton writes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime

from models import create_model
from tests.scripts.run import last_error, run
from util.deploy.bundle import ONNX, load_bundle
from util.deploy.manifest import Manifest
from util.deploy.triton import _config


def test_a_model_repository(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    state = create_model("cvt_nano_32x32", num_classes=3).state_dict()
    save_file({key: value.numpy() for key, value in state.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "names.txt").write_text("0 a cat\n1 dog, hound\n2 \u9e1f\n", encoding="utf-8")
    common = ("--model", "cvt_nano_32x32", "--pretrained", "weights.safetensors", "--class_names", "names.txt")
    done = run("export_model.py", *common, "--format", "triton", "--output", "models", cwd=tmp_path)
    assert "tritonserver --model-repository models" in done.stderr
    place = tmp_path / "models/cvt_nano_32x32"
    assert (place / "labels.txt").read_text(encoding="utf-8").splitlines() == ["a cat", "dog, hound", "\u9e1f"]
    config = (place / "config.pbtxt").read_text()
    assert config.count("{") == config.count("}")
    session = onnxruntime.InferenceSession(place / "1/model.onnx")
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert re.findall(r'(?<!\w)name: "([^"]+)"', config) == ["cvt_nano_32x32", "images", "logits"]
    assert (given.name, output.name) == ("images", "logits"), "as serve.py names them at /v2"
    assert re.findall(r"dims: \[ ([^]]+) \]", config) == ["3, 32, 32", "3"]
    found = session.run(None, {given.name: np.zeros((16, 3, 32, 32), np.float32)})[0]
    assert found.shape == (16, 3)
    assert load_bundle(place / "1").program((ONNX,)).path == place / "1/model.onnx"
    refused = run("export_model.py", *common, "--format", "triton", "--output", "models.zip", cwd=tmp_path, code=2)
    assert "--format triton writes a folder" in last_error(refused)


def test_the_repository_lists_the_attention_map(tmp_path: Path) -> None:
    manifest = Manifest(
        model="a", input_shape=(None, 3, 32, 48), input_dtype="float32", num_classes=7, class_names=("x",) * 7,
        preprocess={}, sha256={}, versions={}, attention=(4, 6),
    )  # fmt: skip
    outputs = _config(manifest, "given", ["first", "second"]).partition("output [")[2]
    assert re.findall(r'name: "([^"]+)" data_type: TYPE_FP32 dims: \[ ([^]]+) \]', outputs) == [
        ("first", "7"), ("second", "4, 6"),
    ]  # fmt: skip
    without = _config(replace(manifest, attention=None), "given", ["first"]).partition("output [")[2]
    assert re.findall(r'(?<!\w)name: "([^"]+)"', without) == ["first"]
    assert outputs.replace("\n", "").count("},  {") == 1
