"""The Open Inference Protocol, as its own client speaks it, and as nobody should."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from tritonclient import http

from tests.serving.conftest import NAMES
from tests.serving.served import Answered, Serving
from tests.serving.test_classify import CHELSEA, COFFEE
from util.data.images import decode_image
from util.data.preprocessing import Preprocessing
from util.prediction import top_k

MODEL = "cvt_nano_32x32"


@pytest.fixture(scope="module")
def images(server: Serving) -> np.ndarray:
    transform = Preprocessing.from_plain(server.get("/v1/model").values["preprocess"]).transform()
    return np.stack([transform(decode_image(file)) for file in (CHELSEA, COFFEE)])


def assert_answers(server: Serving, logits: np.ndarray) -> None:
    """Asserts that logits of both pictures are those behind /v1/classify."""
    for found, file in zip(top_k(logits, ["a", "b"], NAMES, k=7), (CHELSEA, COFFEE), strict=True):
        [wanted] = server.classify(file, "?top_k=7").predictions
        assert found["class_ids"] == wanted["class_ids"]
        np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("takes_files", [True, False])
def test_tritonclient_gets_the_logits(binary: bool, takes_files: bool, server: Serving, images: np.ndarray) -> None:
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    name = f"{MODEL}_files" if takes_files else MODEL
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    assert client.is_model_ready(name, "1")
    described = client.get_model_metadata(name)
    assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 7]}]
    if takes_files:
        given = http.InferInput("images", [2], "BYTES")
        files = [CHELSEA, COFFEE] if binary else [file.decode("latin-1") for file in (CHELSEA, COFFEE)]
        given.set_data_from_numpy(np.array(files, object), binary_data=binary)
    else:
        given = http.InferInput("images", list(images.shape), "FP32")
        given.set_data_from_numpy(images, binary_data=binary)
    output = http.InferRequestedOutput("logits", binary_data=binary)
    answer = client.infer(name, [given], outputs=[output], request_id="seven")
    assert answer.get_response()["id"] == "seven"
    assert_answers(server, answer.as_numpy("logits"))
    best = client.infer(name, [given], outputs=[http.InferRequestedOutput("logits", binary, class_count=2)])
    texts = best.as_numpy("logits")
    assert texts.shape == (2, 2)
    first = texts.ravel()[0]
    value, index, label = (first.decode() if binary else first).split(":")
    logits = answer.as_numpy("logits")[0]
    assert (int(index), label) == (logits.argmax(), NAMES[logits.argmax()])
    assert float(value) == pytest.approx(logits.max(), abs=1e-4)


def infer(server: Serving, values: Any, *, name: str = MODEL, tail: bytes = b"", **headers: str) -> Answered:
    text = json.dumps(values).encode()
    given = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    if tail:
        given |= {"Inference-Header-Content-Length": str(len(text))}
    return server.ask("POST", f"/v2/models/{name}/infer", text + tail, given)


IMAGE = {"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}
FILE = {"name": "images", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("values", "status", "reason"),
    [
        ([], 400, "the request is an object"),
        ({}, 400, "inputs is a list"),
        ({"inputs": []}, 400, "one input"),
        ({"inputs": [IMAGE, IMAGE]}, 400, "one input"),
        ({"inputs": [1]}, 400, "an input is an object"),
        ({"inputs": [IMAGE | {"name": "x"}]}, 400, "one input"),
        ({"inputs": [IMAGE | {"datatype": "FP16"}]}, 400, "is FP32, got 'FP16'"),
        ({"inputs": [IMAGE | {"shape": [1, 3, 32]}]}, 400, "images have the shape [-1, 3, 32, 32]"),
        ({"inputs": [IMAGE | {"shape": [1, 3, 32, -32]}]}, 400, "a shape is a list of numbers"),
        ({"inputs": [IMAGE | {"shape": []}]}, 400, "a shape is a list of numbers"),
        ({"inputs": [IMAGE | {"shape": [0, 3, 32, 32], "data": []}]}, 400, "has no image"),
        ({"inputs": [IMAGE | {"shape": [10**9, 3, 32, 32]}]}, 413, "up to 16 images"),
        ({"inputs": [IMAGE | {"shape": [2, 3, 32, 32]}]}, 400, "has 6144 numbers, got 3072"),
        ({"inputs": [IMAGE | {"data": ["a"] * 3072}]}, 400, "not numbers of float32"),
        ({"inputs": [IMAGE | {"data": ["1"] * 3072}]}, 400, "not numbers of float32"),
        ({"inputs": [IMAGE | {"data": [True] * 3072}]}, 400, "not numbers of float32"),
        ({"inputs": [IMAGE | {"data": [[1], [2, 3]]}]}, 400, "not numbers of float32"),
        ({"inputs": [IMAGE | {"data": [1e300] * 3072}]}, 422, "NaN or infinite"),
        ({"inputs": [IMAGE], "outputs": [{"name": "x"}]}, 400, "one output"),
        ({"inputs": [IMAGE], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, 400, "a number"),
        ({"inputs": [IMAGE], "id": 1}, 400, "the id is a text"),
        ({"inputs": [IMAGE], "id": "\ud800"}, 400, "the id is a text"),
        ({"inputs": [IMAGE | {"data": [10**400] * 3072}]}, 400, "not numbers of float32"),
        ({"inputs": [IMAGE | {"data": [3e38] * 3072}]}, 422, "no finite numbers"),
        ({"inputs": [IMAGE | {"data": [[]] * 300_000}]}, 413, "JSON may have up to"),
        ({"inputs": [IMAGE | {"datatype": "x" * 10_000}]}, 400, "got 'xxxxxxxxxxxx...xxxxxxxxxxxxx'"),
        ({"inputs": [IMAGE | {"parameters": {"binary_data_size": 5}}]}, 400, "behind the JSON are 0 bytes"),
    ],
)
def test_what_the_protocol_does_not_allow(values: Any, status: int, reason: str, server: Serving) -> None:
    answer = infer(server, values)
    assert (answer.status, reason in answer.error) == (status, True), answer.body


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        (b"\xff\xff\xff\xff", "length before them"),
        (struct.pack("<I", 3) + b"ab", "length before them"),
        (struct.pack("<I", 1) + b"a" + struct.pack("<I", 1) + b"b", "has 1 files, got 2"),
        (struct.pack("<I", 4) + b"text", "image 0: is not an image"),
    ],
)
def test_files_that_are_none(tail: bytes, reason: str, server: Serving) -> None:
    given = FILE | {"parameters": {"binary_data_size": len(tail)}}
    answer = infer(server, {"inputs": [given]}, name=f"{MODEL}_files", tail=tail)
    assert (answer.status in (400, 415), reason in answer.error) == (True, True), answer.body


def test_names_versions_and_headers(server: Serving) -> None:
    assert infer(server, {"inputs": [IMAGE]}).values["outputs"][0]["shape"] == [1, 7]
    for path in ("/v2/models/other", "/v2/models/other/ready", f"/v2/models/{MODEL}/versions/2"):
        assert server.get(path).status == 404
    assert infer(server, {"inputs": [IMAGE]}, name="other").status == 404
    for length in ("-1", "x", "99999999", "9" * 5000):
        assert infer(server, {"inputs": [IMAGE]}, Inference_Header_Content_Length=length).status == 400
    assert server.get("/v2").values["extensions"] == ["classification", "binary_tensor_data"]
