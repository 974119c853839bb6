"""One set of pictures, odd ones too, has the same top 5 whichever way it is asked for: each script as users call it."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file
from tritonclient import http

from models import create_model
from tests.deploy.environments import ROOT, call, make_environment
from tests.scripts.run import run
from tests.serving.conftest import NAMES
from tests.serving.served import Serving
from tests.serving.test_classify import CHELSEA, COFFEE, ODD

MODEL = "cvt_nano_32x32"
PICTURES = {**ODD, "chelsea": CHELSEA, "coffee": COFFEE}
Top5 = list[tuple[list[int], list[float], list[str]]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, class names, pictures and what export_model.py makes of them."""
    folder = tmp_path_factory.mktemp("same")
    paddle.seed(0)
    state = create_model(MODEL, num_classes=len(NAMES)).state_dict()
    weights = {key: value.numpy() for key, value in state.items()}
    # scores that are far from 0 and 1
    weights["head.weight"] = 0.1 * np.random.default_rng(0).standard_normal((64, len(NAMES))).astype(np.float32)
    save_file(weights, folder / "weights.safetensors")
    lines = [f"{i} {name}\n" for i, name in enumerate(NAMES)]
    (folder / "names.txt").write_text("".join(lines), encoding="utf-8")
    (folder / "pictures").mkdir()
    for i, data in enumerate(PICTURES.values()):
        (folder / f"pictures/{i:02d}.jpg").write_bytes(data)
    given = ("--model", MODEL, "--pretrained", "weights.safetensors", "--class_names", "names.txt")
    run("export_model.py", *given, "--output", "export", "--format", "onnx", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def predicted(place: Path) -> Top5:
    given = ("--model", MODEL, "--pretrained", "weights.safetensors", "--class_names", "names.txt")
    return as_printed(run("predict.py", "--infer_imgs", "pictures", *given, cwd=place).stdout)


def as_printed(text: str) -> Top5:
    found = ast.literal_eval(text)
    assert [Path(f["file_name"]).name for f in found] == [f"{i:02d}.jpg" for i in range(len(PICTURES))]
    return [top5(f) for f in found]


def top5(prediction: dict[str, Any]) -> tuple[list[int], list[float], list[str]]:
    return prediction["class_ids"], prediction["scores"], prediction["label_names"]


def assert_same(found: Top5, wanted: Top5) -> None:
    assert len(found) == len(wanted) == len(PICTURES)
    for (ids, scores, labels), (wanted_ids, wanted_scores, wanted_labels) in zip(found, wanted, strict=True):
        assert len(ids) == 5
        assert (ids, labels) == (wanted_ids, wanted_labels)
        np.testing.assert_allclose(scores, wanted_scores, rtol=0, atol=1e-5)


def test_pictures_are_told_apart(predicted: Top5) -> None:
    """Or the comparisons could not see an answer that belongs to another picture."""
    assert len({tuple(np.round(scores, 5)) for _, scores, _ in predicted}) > 10  # many are one picture in another form


@pytest.mark.parametrize(
    ("program", "engine"),
    [("model.json", "paddle"), ("model.pdmodel", "paddle"), ("model.pdmodel", "openvino"), ("model.onnx", "openvino"),
     ("model.onnx", "onnxruntime")],
)  # fmt: skip
def test_infer_has_the_answers_of_predict(program: str, engine: str, place: Path, predicted: Top5) -> None:
    given = ("--model_file", f"export/{program}", "--engine", engine, "--input_file", "pictures")
    assert_same(as_printed(run("infer.py", *given, cwd=place).stdout), predicted)


def test_an_environment_without_paddle_has_them(place: Path, predicted: Top5, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", ["deploy/requirements.txt"])
    options = ("--model_dir", place / "export", "--input_file", "pictures")
    assert_same(as_printed(call(python, ROOT / "infer.py", *options, cwd=place).stdout), predicted)


@pytest.fixture(scope="module")
def served(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(place / "export", tmp_path_factory.mktemp("server")) as server:
        yield server.wait_ready()


def test_the_server_has_them(served: Serving, predicted: Top5) -> None:
    assert_same([top5(served.classify(data).predictions[0]) for data in PICTURES.values()], predicted)


def test_tritonclient_gets_them(served: Serving, predicted: Top5) -> None:
    client, found = http.InferenceServerClient(f"127.0.0.1:{served.port}"), []
    for data in PICTURES.values():
        images = http.InferInput("images", [1], "BYTES")
        images.set_data_from_numpy(np.array([data], object))
        [logits] = client.infer(f"{MODEL}_files", [images]).as_numpy("logits").astype(np.float64)
        scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = np.argsort(-scores, kind="stable")[:5]
        found.append((best.tolist(), scores[best].tolist(), [NAMES[i] for i in best]))
    assert_same(found, predicted)


def test_the_export_says_what_it_was_made_of(place: Path) -> None:
    card = json.loads((place / "export/export.json").read_text(encoding="utf-8"))["card"]
    assert "weights.safetensors" in card["source"]
