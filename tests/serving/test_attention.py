"""The attention map through the server: values, place in the picture, and only where it is asked for."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient import http

from tests.reference import picture
from tests.serving.conftest import write_export
from tests.serving.served import Serving, form
from tests.serving.test_classify import CHELSEA, COFFEE
from tests.serving.test_inference_protocol import IMAGE, MODEL, infer
from util.data.images import decode_image
from util.deploy.bundle import ONNX, load_bundle
from util.deploy.engine_choice import Engine
from util.deploy.engines import start_engine
from util.serving.attention import attention_answers
from util.serving.classifier import Computed


@pytest.fixture(scope="module")
def attended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("attended"), attention=True)


@pytest.fixture(scope="module")
def seeing(attended: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server of an export with maps, whose pictures are cropped, too; the folder is named from beside it."""
    options = ("--engine", "onnxruntime", "--crop_pct", "0.8")
    with Serving(Path(attended.name), attended.parent, *options) as found:
        yield found.wait_ready()


@pytest.fixture(scope="module")
def maps(attended: Path, seeing: Serving) -> Any:
    """f(image files) -> the program's maps (B, rows, columns), with the server's preprocessing."""
    engine = Engine(name="onnxruntime", precision="fp32", programs=(ONNX,))
    program = load_bundle(attended).program((ONNX,))
    forward = start_engine(engine, program, device="cpu", threads=1, onednn=True)
    transform = replace(program.manifest.preprocessing(), crop_pct=0.8).transform()

    def find(*files: bytes) -> np.ndarray:
        return forward.outputs(np.stack([transform(decode_image(file)) for file in files]))[1]

    return find


def png(height: int, width: int, seed: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(height, width, seed)).save(file, "PNG")
    return file.getvalue()


def assert_shows(found: dict[str, Any], expected: np.ndarray) -> None:
    assert (found["rows"], found["cols"]) == expected.shape == (4, 4)
    assert max(found["values"]) == 1.0
    np.testing.assert_allclose(found["values"], (expected / expected.max()).ravel(), rtol=0, atol=2e-5)


def test_a_map_comes_with_its_place_in_the_picture(seeing: Serving, maps: Any) -> None:
    wanted = maps(CHELSEA, COFFEE)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3 * wanted.max(), "maps of two pictures are told apart"
    [found] = seeing.classify(CHELSEA, "?attention=true&top_k=2").predictions
    assert list(found) == ["class_ids", "scores", "label_names", "attention"]
    assert list(found["attention"]) == ["rows", "cols", "values", "box"]
    assert_shows(found["attention"], wanted[0])


@pytest.mark.parametrize(
    ("source", "box"),  # 40 / (height, width of the resized picture): 32 of 40 pixels are seen
    [
        ((300, 451), [14 / 60, 0.1, 46 / 60, 0.9]),
        ((451, 300), [0.1, 14 / 60, 0.9, 46 / 60]),
        ((64, 64), [0.1, 0.1, 0.9, 0.9]),
        ((5, 5000), [19984 / 40000, 0.1, 20016 / 40000, 0.9]),
    ],
)
def test_the_box_is_what_the_model_saw(source: tuple[int, int], box: list[float], seeing: Serving) -> None:
    [found] = seeing.classify(png(*source), "?attention=true", kind="image/png").predictions
    assert found["attention"]["box"] == pytest.approx(box, abs=1e-12)


def test_each_of_several_images_has_its_own_map(seeing: Serving, maps: Any) -> None:
    files = [CHELSEA, png(40, 90, 2), COFFEE, png(90, 40, 3)]
    body, kind = form(*files)
    texts = json.dumps({"images": [base64.b64encode(file).decode() for file in files]}).encode()
    for answer in (
        seeing.classify(body, "?attention=1", kind=kind),
        seeing.classify(texts, "?attention=true", kind="application/json"),
    ):
        for found, expected in zip(answer.predictions, maps(*files), strict=True):
            assert_shows(found["attention"], expected)
        first, second, third, fourth = (found["attention"]["box"] for found in answer.predictions)
        assert first == third  # both demo pictures have one size
        assert second == [fourth[1], fourth[0], fourth[3], fourth[2]] != first


def test_without_the_parameter_nothing_changes(seeing: Serving, server: Serving) -> None:
    number = "a-number"
    plain = seeing.classify(CHELSEA, X_Request_ID=number)
    assert seeing.classify(CHELSEA, "?attention=false", X_Request_ID=number).body == plain.body
    assert b"attention" not in plain.body
    [with_map] = seeing.classify(CHELSEA, "?attention=true", X_Request_ID=number).predictions
    del with_map["attention"]
    assert [with_map] == plain.predictions
    other = server.classify(CHELSEA, X_Request_ID=number)
    assert list(other.predictions[0]) == list(plain.predictions[0])


def test_what_has_no_map_says_so(server: Serving, seeing: Serving) -> None:
    answer = server.classify(CHELSEA, "?attention=true")
    assert (answer.status, answer.error) == (
        422,
        "query.attention: this model has no map; it was exported without --attention",
    )
    assert server.classify(CHELSEA, "?attention=false").status == 200
    for asked in (server, seeing):
        answer = asked.classify(CHELSEA, "?attention=perhaps")
        assert (answer.status, answer.error[:16]) == (422, "query.attention:")
    assert (server.get("/v1/model").values["attention"], seeing.get("/v1/model").values["attention"]) == (False, True)


def test_the_description_has_the_field(server: Serving) -> None:
    described = server.get("/openapi.json").values
    [*_, parameter] = described["paths"]["/v1/classify"]["post"]["parameters"]
    assert (parameter["name"], parameter["schema"]["type"], parameter["required"]) == ("attention", "boolean", False)
    fields = described["components"]["schemas"]
    assert fields["Attention"]["required"] == ["rows", "cols", "values", "box"]
    assert "attention" not in fields["OnePrediction"]["required"]
    assert fields["Model"]["properties"]["attention"]["type"] == "boolean"


# --- a map as an answer


def computed(values: np.ndarray) -> Computed:
    return Computed(logits=np.zeros((len(values), 2), np.float32), attention=values, parts=[(0.0, 0.0, 1.0, 1.0)])


def test_a_map_of_zeros_stays_one() -> None:
    [found] = attention_answers(computed(np.zeros((1, 2, 3), np.float32)))
    assert found == {"rows": 2, "cols": 3, "values": [0.0] * 6, "box": [0.0, 0.0, 1.0, 1.0]}


# --- the Open Inference Protocol


def test_the_protocol_names_the_second_output_where_there_is_one(seeing: Serving, server: Serving) -> None:
    for name in (MODEL, f"{MODEL}_files"):
        outputs = seeing.get(f"/v2/models/{name}").values["outputs"]
        assert outputs == [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 7]},
            {"name": "attention", "datatype": "FP32", "shape": [-1, 4, 4]},
        ]
        assert server.get(f"/v2/models/{name}").values["outputs"] == outputs[:1]


@pytest.mark.parametrize("binary", [(True, True), (False, False), (True, False), (False, True)])
def test_tritonclient_gets_both_outputs(binary: tuple[bool, bool], seeing: Serving, maps: Any) -> None:
    client = http.InferenceServerClient(f"127.0.0.1:{seeing.port}")
    given = http.InferInput("images", [2], "BYTES")
    given.set_data_from_numpy(np.array([CHELSEA, COFFEE], object), binary_data=True)
    wanted = [
        http.InferRequestedOutput(name, binary_data=form)
        for name, form in zip(("attention", "logits"), binary, strict=True)
    ]
    answer = client.infer(f"{MODEL}_files", [given], outputs=wanted)
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["attention", "logits"]
    np.testing.assert_allclose(answer.as_numpy("attention"), maps(CHELSEA, COFFEE), rtol=0, atol=1e-6)
    alone = client.infer(f"{MODEL}_files", [given])
    np.testing.assert_array_equal(answer.as_numpy("logits"), alone.as_numpy("logits"))
    assert [output["name"] for output in alone.get_response()["outputs"]] == ["logits"]
    one = client.infer(f"{MODEL}_files", [given], outputs=wanted[:1])
    np.testing.assert_array_equal(one.as_numpy("attention"), answer.as_numpy("attention"))
    best = http.InferRequestedOutput("logits", binary_data=binary[1], class_count=2)
    mixed = client.infer(f"{MODEL}_files", [given], outputs=[best, wanted[0]])
    assert mixed.as_numpy("logits").shape == (2, 2)
    np.testing.assert_array_equal(mixed.as_numpy("attention"), answer.as_numpy("attention"))


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([{"name": "attention"}, {"name": "attention"}], 'two outputs, "logits" and "attention", each once'),
        ([{"name": "logits"}, {"name": "x"}], 'two outputs, "logits" and "attention", each once'),
        ([{"name": ["logits"]}], 'two outputs, "logits" and "attention", each once'),
        ([{"name": "attention", "parameters": {"classification": 2}}], 'classification is for "logits"'),
    ],
)
def test_outputs_that_cannot_be(outputs: list[dict[str, Any]], reason: str, seeing: Serving) -> None:
    answer = infer(seeing, {"inputs": [IMAGE], "outputs": outputs})
    assert (answer.status, reason in answer.error) == (400, True), answer.body


def test_an_export_without_maps_has_one_output(server: Serving) -> None:
    for outputs in ([{"name": "attention"}], [{"name": "logits"}, {"name": "attention"}]):
        answer = infer(server, {"inputs": [IMAGE], "outputs": outputs})
        assert (answer.status, answer.error) == (400, 'the model has one output, "logits"')
