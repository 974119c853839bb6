"""Which engine is chosen for what is installed, what is asked for and what the export has."""

import pytest

from util.deploy import engine_choice
from util.deploy.bundle import INT8, ONNX, PROGRAMS, Contents
from util.deploy.engine_choice import choose_engine
from util.errors import UsageError


def chosen(**options: object) -> str:
    given = {"name": "auto", "precision": "fp32", "device": "cpu", "given": None, "onednn": True} | options
    return choose_engine(**given).name  # type: ignore[arg-type]


def test_auto_takes_the_fastest_that_is_installed_and_runs_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [chosen(), chosen(given="model.json"), chosen(onednn=False), chosen(device="gpu:0")] == [
        "openvino", "paddle", "paddle", "paddle",
    ]  # fmt: skip
    assert [chosen(given=ONNX), chosen(precision="int8")] == ["openvino", "onnxruntime"]
    monkeypatch.setattr(engine_choice, "is_installed", lambda package: package != "openvino")
    assert [chosen(), chosen(given=ONNX), chosen(precision="int8")] == [
        "paddle-openvino", "onnxruntime", "onnxruntime",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("installed", "names", "folded", "expected"),
    [
        ("openvino onnxruntime paddle", (*PROGRAMS, ONNX), True, ("openvino", "model.pdmodel")),
        ("openvino onnxruntime paddle", (*PROGRAMS, ONNX), False, ("openvino", ONNX)),
        ("openvino onnxruntime paddle", (ONNX,), True, ("openvino", ONNX)),
        ("openvino onnxruntime paddle", PROGRAMS, False, ("paddle", "model.json")),
        ("openvino onnxruntime paddle", ("model.json",), True, ("paddle", "model.json")),
        ("onnxruntime paddle", (*PROGRAMS, ONNX), True, ("paddle-openvino", "model.pdmodel")),
        ("onnxruntime paddle", (*PROGRAMS, ONNX), False, ("onnxruntime", ONNX)),
        ("onnxruntime", (*PROGRAMS, ONNX), True, ("onnxruntime", ONNX)),
        ("openvino", (*PROGRAMS,), True, ("openvino", "model.pdmodel")),
        ("paddle", (ONNX, "model.json"), True, ("paddle", "model.json")),
    ],
)
def test_auto_takes_what_is_there(
    installed: str, names: tuple[str, ...], folded: bool, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "is_installed", lambda package: package in installed.split())
    engine = choose_engine(
        "auto", "fp32", device="cpu", given=None, onednn=True,
        contents=Contents(names=frozenset(names), is_folded=folded),
    )  # fmt: skip
    assert (engine.name, next(p for p in engine.programs if p in names)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"onednn": False, "given": ONNX}, "--no_onednn is for Paddle Inference, which runs no .onnx"),
        ({"name": "paddle", "precision": "int8"}, "--engine paddle computes in fp32; leave the engine out for int8"),
        ({"name": "onnxruntime", "precision": "bf16"}, "for bf16 choose --engine openvino"),
        ({"name": "openvino", "precision": "int8"}, "for int8 choose --engine onnxruntime"),
        ({"name": "openvino", "device": "gpu"}, "--engine openvino runs on the CPU; got --device gpu"),
        (
            {"name": "openvino", "given": "model.json"},
            r"runs .onnx, .pdiparams, .pdmodel; got --model_file model.json",
        ),
        ({"name": "onnxruntime", "given": "model.pdmodel"}, "runs .onnx; got --model_file model.pdmodel"),
        ({"given": ONNX, "precision": "int8"}, "int8 runs model.int8.onnx; got --model_file model.onnx"),
        ({"given": INT8}, "model.int8.onnx computes in int8: add --precision int8"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen(**options)


def test_what_is_not_installed_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "is_installed", lambda package: False)
    for options in ({"name": "onnxruntime"}, {"name": "openvino", "given": ONNX}, {"precision": "int8"}):
        with pytest.raises(UsageError, match=r"pip install -r requirements-deploy\.txt"):
            chosen(**options)


def test_bf16_is_refused_where_it_would_be_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "has_bfloat16", lambda: False)
    with pytest.raises(UsageError, match="this processor has neither AVX512_BF16 nor AMX"):
        chosen(precision="bf16")
    monkeypatch.setattr(engine_choice, "has_bfloat16", lambda: True)
    assert chosen(precision="bf16") == "openvino"
