"""What the server answers: the classes that infer.py prints, for every form of request; a 4xx for every bad one."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scripts.background import wait_until
from tests.scripts.run import ROOT
from tests.serving.conftest import KEY, NAMES
from tests.serving.served import Answered, Serving, form
from tests.util.data.test_images_odd import BAD_BYTES, BASELINE, EXACT, NEAR, SAME_AS_BASELINE
from util.data.images import decode_image
from util.deploy.bundle import ONNX, load_bundle
from util.deploy.engine_choice import Engine
from util.deploy.engines import start_engine
from util.prediction import top_k

ODD = {**{name: part[0] for name, part in EXACT.items()}, **SAME_AS_BASELINE, **{n: p[0] for n, p in NEAR.items()}}
CHELSEA, COFFEE = ((ROOT / "demo" / name).read_bytes() for name in ("chelsea.jpg", "coffee.jpg"))


@pytest.fixture(scope="module")
def expected(exported: Path) -> Any:
    """f(image files) -> what infer.py finds for each, but for the file's name."""
    program = load_bundle(exported).program((ONNX,))
    engine = Engine(name="onnxruntime", precision="fp32", programs=(ONNX,))
    forward = start_engine(engine, program, device="cpu", threads=1, onednn=True)
    transform = program.manifest.preprocessing().transform()

    def find(*files: bytes) -> list[dict[str, Any]]:
        logits = forward(np.stack([transform(decode_image(file)) for file in files]))
        found = top_k(logits, ["x"] * len(files), NAMES)
        return [{k: v for k, v in prediction.items() if k != "file_name"} for prediction in found]

    return find


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [list(p) for p in found] == [["class_ids", "scores", "label_names"]] * len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert (a["class_ids"], a["label_names"]) == (b["class_ids"], b["label_names"])
        np.testing.assert_allclose(a["scores"], b["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_has_the_classes_of_infer(name: str, server: Serving, expected: Any) -> None:
    assert_same(server.classify(ODD[name]).predictions, expected(ODD[name]))


@pytest.mark.parametrize("name", BAD_BYTES)
def test_a_bad_image_is_refused_with_a_reason(name: str, server: Serving) -> None:
    answer = server.classify(BAD_BYTES[name][0])
    assert answer.status in (400, 413, 415, 422)
    assert re.search(BAD_BYTES[name][1], answer.error) or answer.error == "the request has no image"


def test_the_demo_pictures_are_told_apart(server: Serving, expected: Any) -> None:
    found = [server.classify(image).predictions[0] for image in (CHELSEA, COFFEE)]
    assert_same(found, expected(CHELSEA, COFFEE))
    assert found[0]["scores"] != found[1]["scores"]


def test_several_images_are_answered_in_their_order(server: Serving, expected: Any) -> None:
    body, kind = form(CHELSEA, COFFEE, BASELINE)
    assert_same(server.classify(body, kind=kind).predictions, expected(CHELSEA, COFFEE, BASELINE))
    texts = [base64.b64encode(file).decode() for file in (COFFEE, CHELSEA)]
    found = server.classify(json.dumps({"images": texts}).encode(), kind="application/json")
    assert_same(found.predictions, expected(COFFEE, CHELSEA))
    one = server.classify(json.dumps({"image": texts[0]}).encode(), kind="application/json; charset=utf-8")
    assert_same(one.predictions, expected(COFFEE))


@pytest.mark.parametrize(("number", "found"), [(1, 1), (3, 3), (7, 7), (1000, 7)])
def test_as_many_classes_as_were_asked_for(number: int, found: int, server: Serving) -> None:
    [prediction] = server.classify(CHELSEA, f"?top_k={number}").predictions
    assert [len(prediction[name]) for name in ("class_ids", "scores", "label_names")] == [found] * 3
    assert prediction["scores"] == sorted(prediction["scores"], reverse=True)


@pytest.mark.parametrize("number", ["0", "-1", "1001", "x", "1.5", ""])
def test_another_number_of_classes_is_refused(number: str, server: Serving) -> None:
    answer = server.classify(CHELSEA, f"?top_k={number}")
    assert (answer.status, answer.error[:12]) == (422, "query.top_k:")


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b"", "image/jpeg", 400, "has no image"),
        (CHELSEA, "text/plain", 415, "send an image"),
        (b"{", "application/json", 400, "is not JSON"),
        (b"[]", "application/json", 400, "JSON has the form"),
        (b'{"image": 1}', "application/json", 400, "texts in base64"),
        (b'{"image": "%%"}', "application/json", 400, "texts in base64"),
        (b'{"image": "AA==", "images": []}', "application/json", 400, "JSON has the form"),
        (b'{"images": []}', "application/json", 400, "has no image"),
        (b"[" * 100_000, "application/json", 400, "is not JSON"),
        (b"nothing", "multipart/form-data; boundary=x", 400, "the form cannot be read"),
        (b"nothing", "multipart/form-data", 400, "the form cannot be read"),
        (form(CHELSEA)[0], f"{form()[1]}; charset=undefined", 400, "the form cannot be read"),
        (form()[0], form()[1], 400, "has no image"),
        (form(*[BASELINE] * 17)[0], form()[1], 413, "up to 16 images"),
        (form(CHELSEA, b"text")[0], form()[1], 415, "image 1: is not an image"),
        (form(CHELSEA, CHELSEA[:5000])[0], form()[1], 422, "image 1: cannot be decoded"),
    ],
)
def test_what_cannot_be_read_is_a_4xx(body: bytes, kind: str, status: int, reason: str, server: Serving) -> None:
    answer = server.classify(body, kind=kind)
    assert (answer.status, reason in answer.error) == (status, True), answer.body


def test_compressed_bodies_are_refused(server: Serving) -> None:
    assert server.classify(CHELSEA, Content_Encoding="gzip").status == 415


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("ü", False)])
def test_a_request_has_a_number(given: str, kept: bool, server: Serving) -> None:
    for answer in (server.classify(CHELSEA, X_Request_ID=given), server.classify(b"x", X_Request_ID=given)):
        number = answer.values["request_id"]
        assert answer.headers["x-request-id"] == number
        assert (number == given) == kept
    # its line is written after its answer
    wait_until(lambda: any(event["request_id"] == number for event in server.events("request")), "logged", 10.0)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v1/classify", 405), ("DELETE", "/healthz", 405), ("GET", "/nothing", 404), ("GET", "/../etc/passwd", 404),
    ("GET", "/%00", 404), ("GET", "/docs", 404),
])  # fmt: skip
def test_unknown_paths_and_methods(method: str, path: str, status: int, server: Serving) -> None:
    answer = server.ask(method, path)
    assert (answer.status, bool(answer.error)) == (status, True)


def test_health_model_and_description(server: Serving, exported: Path) -> None:
    assert server.get("/healthz").values == {"status": "ok"}
    assert server.get("/readyz").values == {"status": "ready"}
    model = server.get("/v1/model").values
    assert (model["model"], model["class_names"]) == ("cvt_nano_32x32", list(NAMES))
    assert model["sha256"] == load_bundle(exported).manifest.sha256
    assert model["card"] == {"source": "a test", "licence": "MIT", "top1": None, "top5": None, "measured": None}
    assert model["engine"].startswith("ONNX Runtime")
    paths = server.get("/openapi.json").values["paths"]
    assert set(paths) >= {"/healthz", "/readyz", "/metrics", "/v1/classify", "/v1/model", "/v2/models/{model}/infer"}


def test_metrics_count_what_was_done(server: Serving) -> None:
    before = [server.metric(name) for name in ("paddle_cvt_images_total", "paddle_cvt_requests_total")]
    server.classify(form(CHELSEA, COFFEE)[0], kind=form()[1])
    after = [server.metric(name) for name in ("paddle_cvt_images_total", "paddle_cvt_requests_total")]
    assert after[0] == before[0] + 2
    assert after[1] >= before[1] + 1
    assert server.metric("paddle_cvt_held_images") == 0


def test_a_key_is_asked_for_and_never_logged(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    options = ("--engine", "onnxruntime", "--api_key_file", str(tmp_path / "key"))
    with Serving(exported, tmp_path, *options) as server:
        server.wait_ready()
        answers: list[Answered] = [
            server.classify(CHELSEA), server.classify(CHELSEA, Authorization="Bearer wrong"),
            server.classify(CHELSEA, X_API_Key=""), server.get("/metrics"), server.get("/v1/model"),
        ]  # fmt: skip
        assert [answer.status for answer in answers] == [401] * 5
        assert all("the API key" in answer.error for answer in answers)
        assert answers[0].headers["www-authenticate"] == "Bearer"
        assert server.classify(CHELSEA, Authorization=f"Bearer {KEY}").status == 200
        assert server.classify(CHELSEA, f"?top_k=1&key={KEY}", X_API_Key=KEY).status == 200
        assert KEY not in server.stderr + server.stdout
