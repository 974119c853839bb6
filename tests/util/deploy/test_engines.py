"""Every engine gives the model's logits and maps, and what it cannot run is refused in a line."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model
from models.attention_maps import Attended, attention_probabilities
from models.deploy import deployed
from models.saliency import class_attention, watch
from util.data.images import decode_image
from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import INT8, ONNX, PROGRAMS, Contents, Program, load_bundle
from util.deploy.calibration import Calibration
from util.deploy.engine_choice import Engine, choose_engine
from util.deploy.engines import openvino_engine, paddle_openvino_engine, start_engine
from util.deploy.export import export
from util.deploy.manifest import Manifest, read_manifest
from util.deploy.onnx_export import _input_and_weighted_nodes
from util.errors import WeightsError
from util.options import PreprocessOptions

ROOT = Path(__file__).resolve().parents[3]


def images(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((number, 3, 32, 32), dtype=np.float32)


@pytest.fixture(scope="module")
def model() -> nn.Layer:
    paddle.seed(0)
    model = create_model("cvt_nano_32x32", num_classes=4)
    rng = np.random.default_rng(0)
    model.head.weight.set_value(rng.standard_normal((64, 4)).astype(np.float32))  # classes that are told apart
    last = model.stage2.blocks[-1].attn.proj_q.weight
    last.set_value(-20 * last)  # as are places, in the map of the last block
    model.eval()
    return model


@pytest.fixture(scope="module")
def folder(model: nn.Layer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with everything in it."""
    info = {"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic",
            "mean": (0.5,) * 3, "std": (0.5,) * 3}  # fmt: skip
    manifest = Manifest(
        model="cvt_nano_32x32", input_shape=(None, 3, 32, 32), input_dtype="float32", num_classes=4,
        class_names=tuple("abcd"), preprocess=resolve_preprocessing(PreprocessOptions(), info).to_plain(), sha256={},
        versions={},
    )  # fmt: skip
    target = tmp_path_factory.mktemp("export")
    calibration = Calibration(images=images(24, 1), held_out=images(24, 2))
    differences = export(
        model, manifest, target, threads=1, sizes=[(32, 32)], form=deployed(model), calibration=calibration
    )
    assert set(differences) == {*PROGRAMS, ONNX}
    return target


@pytest.mark.parametrize(
    ("name", "program", "batch"),
    [("paddle", "model.json", 1), ("paddle", "model.pdmodel", 3), ("paddle-openvino", "model.pdmodel", 3),
     ("openvino", "model.pdmodel", 3), ("openvino", ONNX, 2), ("onnxruntime", ONNX, 3)],
)  # fmt: skip
def test_an_engine_gives_the_models_logits_at_any_batch(
    name: str, program: str, batch: int, model: nn.Layer, folder: Path
) -> None:
    engine = Engine(name=name, precision="fp32", programs=(program,))  # type: ignore[arg-type]
    forward = start_engine(engine, load_bundle(folder).program((program,)), device="cpu", threads=1, onednn=True)
    for number in (batch, 1):
        given = images(number, seed=number)
        expected = model(paddle.to_tensor(given)).numpy()
        np.testing.assert_allclose(forward(given), expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.fixture(scope="module")
def attended(model: nn.Layer, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same export with attention maps."""
    target = tmp_path_factory.mktemp("attended")
    export(
        model, replace(read_manifest(folder), sha256={}, int8={}), target, threads=1, sizes=[(32, 32)],
        form=deployed(model, attention=True), attended=Attended(model),
        calibration=Calibration(images=images(24, 1), held_out=images(24, 2)),
    )  # fmt: skip
    return target


PLACES = [
    ("paddle", "model.json"), ("paddle", "model.pdmodel"), ("paddle-openvino", "model.pdmodel"),
    ("openvino", "model.pdmodel"), ("openvino", ONNX), ("onnxruntime", ONNX),
]  # fmt: skip


@pytest.mark.parametrize(("name", "program"), PLACES)
def test_an_engine_gives_the_models_map_beside_the_same_logits(
    name: str, program: str, model: nn.Layer, folder: Path, attended: Path
) -> None:
    engine = Engine(name=name, precision="fp32", programs=(program,))  # type: ignore[arg-type]
    plain, both = (
        start_engine(engine, load_bundle(place).program((program,)), device="cpu", threads=1, onednn=True)
        for place in (folder, attended)
    )
    for number in (3, 1):
        given = 4 * images(number, seed=number)
        watched = watch(model, paddle.to_tensor(given))
        expected = class_attention(watched).mean(1)
        assert expected.std() > 0.01 * expected.mean(), "a map that shows something"
        logits, maps = both.outputs(given)
        assert (maps.shape, maps.dtype) == ((number, 4, 4), np.float32)
        np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5)
        last = attention_probabilities(watched.path.last.attn, watched.read[-1], watched.grid)  # (B, h, T, S)
        own = last[:, :, 0, 0].mean(1).numpy()  # of the class token to itself
        np.testing.assert_allclose(maps.sum((1, 2)), 1.0 - own, rtol=0, atol=1e-5)
        assert len(plain.outputs(given)) == 1
        scale = max(1.0, float(np.abs(logits).max()))
        np.testing.assert_allclose(logits, plain(given), rtol=0, atol=1e-6 * scale)
        np.testing.assert_array_equal(both(given), logits)


def test_int8_quantises_the_same_products_with_a_map_and_without(folder: Path, attended: Path) -> None:
    (_, plain), (_, both) = (_input_and_weighted_nodes(place / ONNX) for place in (folder, attended))
    assert len(plain) > 20
    assert len(both) == len(plain)  # and not those that lay keys out over tokens


def test_int8_has_the_map_too(model: nn.Layer, attended: Path) -> None:
    engine = choose_engine("auto", "int8", device="cpu", given=None, onednn=True)
    forward = start_engine(engine, load_bundle(attended).program(engine.programs), device="cpu", threads=1, onednn=True)
    given = images(24, seed=2)
    _, maps = forward.outputs(given)
    expected = class_attention(watch(model, paddle.to_tensor(given))).mean(1)
    error = np.abs(maps - expected).mean() / expected.std()
    assert 1e-5 < error < 0.1
    assert read_manifest(attended).int8["agreement"] > 0.9


def test_int8_gives_nearly_the_models_logits_and_the_agreement_is_noted(model: nn.Layer, folder: Path) -> None:
    engine = choose_engine("auto", "int8", device="cpu", given=None, onednn=True)
    program = load_bundle(folder).program(engine.programs)
    assert program.path.name == INT8
    given = images(24, seed=2)
    found = start_engine(engine, program, device="cpu", threads=1, onednn=True)(given)
    expected = model(paddle.to_tensor(given)).numpy()
    error = np.abs(found - expected).mean() / expected.std()
    assert 1e-4 < error < 0.1  # quantised, and still the model; with attention in int8, too, it would be 0.7
    noted = read_manifest(folder).int8
    assert (noted["calibration_images"], noted["held_out_images"]) == (24, 24)
    assert noted["agreement"] == pytest.approx((found.argmax(1) == expected.argmax(1)).mean())
    assert noted["agreement"] > 0.9


def test_all_engines_agree_with_the_model_on_photographs(model: nn.Layer, folder: Path) -> None:
    transform = read_manifest(folder).preprocessing().transform()
    whole = [decode_image(str(ROOT / "demo" / name)) for name in ("chelsea.jpg", "coffee.jpg")]
    parts = [
        image.crop((image.width * x // 4, image.height * y // 4, image.width * (x + side) // 4,
                    image.height * (y + side) // 4))
        for image in whole for x, y, side in ((0, 0, 4), (0, 0, 2), (2, 0, 2), (0, 2, 2), (2, 2, 2))
    ]  # fmt: skip
    given = np.stack([transform(part) for part in parts])
    expected = model(paddle.to_tensor(given)).numpy()
    assert len(set(expected.argmax(1))) > 1  # an engine that always names one class would be found out
    for name, program in (
        ("paddle", "model.json"), ("paddle", "model.pdmodel"), ("paddle-openvino", "model.pdmodel"),
        ("openvino", "model.pdmodel"), ("openvino", ONNX), ("onnxruntime", ONNX),
    ):  # fmt: skip
        engine = Engine(name=name, precision="fp32", programs=(program,))  # type: ignore[arg-type]
        bundle = load_bundle(folder).program((program,))
        found = start_engine(engine, bundle, device="cpu", threads=1, onednn=True)(given)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max(), (name, program)
        assert (found.argmax(1) == expected.argmax(1)).all(), (name, program)


def test_paddles_openvino_leaves_nothing_in_the_working_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(folder).program(("model.pdmodel",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    paddle_openvino_engine(bundle, threads=1, precision="fp32")(images(2))
    assert list(tmp_path.iterdir()) == []  # neither its cache nor ours


def test_the_contents_of_an_export(folder: Path, tmp_path: Path) -> None:
    assert load_bundle(folder).contents == Contents() == load_bundle(folder / ONNX).contents
    assert (load_bundle(folder).given, load_bundle(folder / ONNX).given) == (None, ONNX)
    for name in (ONNX, "export.json"):
        shutil.copy(folder / name, tmp_path)
    assert load_bundle(tmp_path).contents == Contents(names=frozenset({ONNX}))


@pytest.mark.parametrize("name", ["convit_tiny", "vit_ti_16_224"])
@pytest.mark.parametrize("act", ["gelu", "gelu_tanh"])
def test_openvino_reads_the_programs_of_the_other_families(name: str, act: str, folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"local_up_to_layer": 1} if name == "convit_tiny" else {}
    paddle.seed(0)
    model = create_model(name, img_size=32, embed_dim=16, num_heads=4, depth=2, num_classes=4, **options)
    model.set_numerics(act=act, norm_eps=1e-6)
    model.eval()
    manifest = replace(read_manifest(folder), sha256={}, int8={})
    export(model, manifest, tmp_path, threads=1, sizes=[(32, 32)], form=deployed(model))
    bundle = load_bundle(tmp_path).program(("model.pdmodel",))
    given = 4 * images(3)
    expected = model(paddle.to_tensor(given)).numpy()
    for engine in (openvino_engine, paddle_openvino_engine):
        found = engine(bundle, threads=1, precision="fp32")(given)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("name", "program"),
    [("paddle", "model.json"), ("openvino", "model.pdmodel"), ("onnxruntime", ONNX)],
)
def test_images_that_do_not_fit_the_program_are_one_line(name: str, program: str, folder: Path) -> None:
    """As when the manifest leaves a size open that the program does not."""
    engine = Engine(name=name, precision="fp32", programs=(program,))  # type: ignore[arg-type]
    bundle = load_bundle(folder).program((program,))
    forward = start_engine(engine, bundle, device="cpu", threads=1, onednn=True)
    with pytest.raises(WeightsError, match=rf"{program}: .* fails on images \(1, 1, 32, 32\): ") as caught:
        forward(images(1)[:, :1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_program_that_cannot_be_loaded_is_bad_data(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / ONNX).write_bytes(b"no program")
    bundle = Program(path=tmp_path / ONNX, params=tmp_path / ONNX, manifest=read_manifest(folder))
    with pytest.raises(WeightsError, match=r"model\.onnx: .* cannot load it"):
        start_engine(
            Engine(name=name, precision="fp32", programs=(ONNX,)),  # type: ignore[arg-type]
            bundle, device="cpu", threads=1, onednn=True,
        )  # fmt: skip
