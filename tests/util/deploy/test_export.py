"""Every model in both static formats, and its weights back out of an export."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import convit, create_model, cvt, list_models, model_info, vit
from models.attention_maps import Attended
from models.deploy import deployed
from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import PARAMS, PROGRAMS
from util.deploy.export import export
from util.deploy.manifest import MANIFEST, Manifest, read_manifest
from util.errors import MismatchError, MissingInputError, NonFiniteLossError, OutputError, WeightsError
from util.options import PreprocessOptions
from util.weights import load_weights, read_weights, recognise
from util.weights.exported import read_parameters

CLASSES = 4


def thin(name: str, **options: Any) -> nn.Layer:
    """Returns a model with all the kinds of layers that `name` has, but few channels, blocks and pixels."""
    if name.startswith("cvt"):
        stages = [replace(stage, embed_dim=8, num_heads=1, depth=1) for stage in getattr(cvt, name)()["stages"]]
        return create_model(name, stages=stages, num_classes=CLASSES, **options)
    heads = getattr(convit if name.startswith("convit") else vit, name)()["num_heads"]
    sizes: dict[str, Any] = {"img_size": 64, "embed_dim": 4 * heads, "num_heads": heads, "depth": 2}
    if name.startswith("convit"):
        sizes["local_up_to_layer"] = 1
    return create_model(name, **sizes, num_classes=CLASSES, **options)


def describe(name: str, model: nn.Layer, size: tuple[int, int] = (64, 64)) -> Manifest:
    info = {"input_size": (3, *size), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic",
            "mean": model_info(name).mean, "std": model_info(name).std}  # fmt: skip
    return Manifest(
        model=name, input_shape=(None, 3, *size), input_dtype="float32", num_classes=CLASSES,
        class_names=tuple("abcd"), preprocess=resolve_preprocessing(PreprocessOptions(), info).to_plain(), sha256={},
        versions={}, numerics=model.numerics(),
    )  # fmt: skip


def scramble(model: nn.Layer) -> None:
    """Gives every parameter values that show: norms, gates and biases are constants at the start."""
    rng = np.random.default_rng(0)
    for value in model.state_dict().values():
        array = value.numpy()
        noise = 0.1 * rng.standard_normal(array.shape)
        value.set_value((array + (np.abs(noise) if (array >= 0).all() else noise)).astype(np.float32))
    model.eval()


@pytest.mark.parametrize("name", list_models())
def test_every_model_exports_and_infers_equal_to_the_model(name: str, tmp_path: Path) -> None:
    model = thin(name)
    scramble(model)
    differences = export(model, describe(name, model), tmp_path, threads=1, sizes=[(64, 64)])
    assert set(differences) == {"model.json", "model.pdmodel"}  # each within 1e-5 of the largest logit, or an error
    tensors = read_weights(tmp_path).tensors
    own = {key: value.numpy() for key, value in model.state_dict().items()}
    assert tensors.keys() == own.keys()
    for key, value in own.items():
        np.testing.assert_array_equal(tensors[key], value)


def test_folded_weights_are_no_checkpoints_and_say_so(tmp_path: Path) -> None:
    model = thin("cvt_13_224x224")
    scramble(model)
    manifest = describe("cvt_13_224x224", model)
    differences = export(model, manifest, tmp_path, threads=1, sizes=[(64, 64)], form=deployed(model))
    assert max(differences.values()) > 0  # other operations, equal within 1e-5
    assert read_manifest(tmp_path).parameters == ()
    with pytest.raises(WeightsError, match=r"folded for deployment .*; name the checkpoint, or export with --no_fold"):
        read_weights(tmp_path)


def test_a_form_that_is_not_the_model_is_refused(tmp_path: Path) -> None:
    model, other = thin("vit_s_16_224"), thin("vit_s_16_224")
    scramble(model)
    with pytest.raises(MismatchError, match=r"model\.json differs from the model"):
        export(
            model, describe("vit_s_16_224", model), tmp_path, threads=1, sizes=[(64, 64)], form=deployed(other.eval())
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fold"),
    [("cvt_13_224x224", True), ("convit_tiny", True), ("cvt_13_224x224", False), ("vit_s_16_224", False)],
)
def test_every_family_exports_with_its_attention(name: str, fold: bool, tmp_path: Path) -> None:
    model = thin(name)
    scramble(model)
    size = (64, 96) if name.startswith("cvt") else (64, 64)
    differences = export(
        model, describe(name, model, size), tmp_path, threads=1, sizes=[size],
        form=deployed(model, attention=True) if fold else None, attended=Attended(model),
    )  # fmt: skip
    assert set(differences) == set(PROGRAMS)  # with their maps, within 1e-5
    assert read_manifest(tmp_path).attention == (size[0] // 16, size[1] // 16)
    if not fold:  # still weights
        tensors = read_weights(tmp_path).tensors
        assert tensors.keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            np.testing.assert_array_equal(tensors[key], value.numpy())


def test_a_model_can_be_exported_again(tmp_path: Path) -> None:
    """Paddle counts names from 0 after a program in the old format, and then gives names twice."""
    model = thin("vit_s_16_224")
    scramble(model)
    for folder in ("first", "second"):
        form = deployed(model)
        names = [parameter.name for parameter in form.parameters()]
        assert len(set(names)) == len(names)
        export(model, describe("vit_s_16_224", model), tmp_path / folder, threads=1, sizes=[(64, 64)], form=form)


class Changed(nn.Layer):
    """A form with attention, one output of which is not the model's."""

    def __init__(self, form: nn.Layer, fault: str) -> None:
        super().__init__()
        self.form, self.fault = form, fault

    def forward(self, x: paddle.Tensor) -> Any:
        logits, maps = self.form(x)
        if self.fault == "map":
            maps = 1.01 * maps
        return (maps, logits) if self.fault == "order" else (logits, maps)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("map", r"model\.json's attention map differs from the model by "),
        ("order", r"model\.json differs from the model by inf"),
    ],
)
def test_an_output_that_is_not_the_models_is_refused(fault: str, message: str, tmp_path: Path) -> None:
    model = thin("vit_s_16_224")
    scramble(model)
    form = Changed(deployed(model, attention=True), fault)
    form.eval()
    with pytest.raises(MismatchError, match=message):
        export(
            model, describe("vit_s_16_224", model), tmp_path, threads=1, sizes=[(64, 64)], form=form,
            attended=Attended(model),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_numerics_are_in_the_programs_and_come_back(tmp_path: Path) -> None:
    model = thin("vit_s_16_224")
    scramble(model)
    exact = model(paddle.ones([1, 3, 64, 64])).numpy()
    model.set_numerics(act="gelu_tanh", norm_eps=1e-3)
    assert np.abs(model(paddle.ones([1, 3, 64, 64])).numpy() - exact).max() > 1e-3
    export(model, describe("vit_s_16_224", model), tmp_path, threads=1, sizes=[(64, 64)])
    again = thin("vit_s_16_224")
    load_weights(again, tmp_path / PARAMS)
    again.eval()
    batch = paddle.ones([1, 3, 64, 64])
    np.testing.assert_array_equal(again(batch).numpy(), model(batch).numpy())


def test_a_rectangular_table_is_resampled_from_its_own_grid(tmp_path: Path) -> None:
    model = create_model("vit_s_16_224", img_size=(32, 64), embed_dim=12, num_heads=2, depth=1, num_classes=CLASSES)
    model.eval()
    export(model, describe("vit_s_16_224", model, (32, 64)), tmp_path, threads=1, sizes=[(32, 64)])
    other = create_model("vit_s_16_224", img_size=(64, 64), embed_dim=12, num_heads=2, depth=1, num_classes=CLASSES)
    assert load_weights(other, tmp_path) == ["pos_embed resampled from 2 x 4 to 4 x 4"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    model = thin("vit_s_16_224")
    model.eval()
    export(model, describe("vit_s_16_224", model), folder, threads=1, sizes=[(64, 64)])
    return folder


@pytest.fixture
def exported(example: Path, tmp_path: Path) -> Path:
    """An export to spoil."""
    return Path(shutil.copytree(example, tmp_path / "export"))


def test_a_changed_export_is_refused(exported: Path) -> None:
    data = bytearray((exported / PARAMS).read_bytes())
    data[-1] ^= 1
    (exported / PARAMS).write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.pdiparams is damaged, or of another export"):
        read_weights(exported)


def test_two_names_of_one_shape_swapped_are_refused_by_the_manifests_hash_alone(exported: Path) -> None:
    manifest, tensors = read_manifest(exported), read_weights(exported).tensors
    first, second = "blocks.0.norm1.weight", "blocks.1.norm1.weight"
    other = {first: second, second: first}
    swapped = replace(manifest, parameters=tuple(other.get(str(name), name) for name in manifest.parameters))
    text = (exported / MANIFEST).read_text()
    edited = text.replace(first, "x").replace(second, first).replace('"x"', f'"{second}"')
    (exported / MANIFEST).write_text(edited)
    with pytest.raises(WeightsError, match=r"export\.json: damaged or edited"):
        read_weights(exported)
    swapped.write(exported)  # a forger's hash: nothing else tells the two apart
    assert read_weights(exported).tensors[first] is not None
    np.testing.assert_array_equal(read_weights(exported).tensors[first], tensors[second])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_first_and_leave_nothing(value: float, tmp_path: Path) -> None:
    model = thin("vit_s_16_224")
    model.eval()
    model.head.bias.set_value(np.array([0, value, 0, 0], np.float32))
    (tmp_path / "old").mkdir()
    for folder in (tmp_path / "new" / "deeper", tmp_path / "old"):
        with pytest.raises(NonFiniteLossError, match=r"head\.bias has NaN or infinite values; nothing was written"):
            export(model, describe("vit_s_16_224", model), folder, threads=1, sizes=[(64, 64)])
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_an_export_that_fails_leaves_nothing_and_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = thin("vit_s_16_224")
    model.eval()
    manifest = describe("vit_s_16_224", model)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "note").touch()
    with monkeypatch.context() as patch:
        patch.setattr("util.deploy.export.TOLERANCE", -1.0)
        for folder in (tmp_path / "new" / "deeper", tmp_path / "kept"):
            with pytest.raises(MismatchError, match="nothing was written"):
                export(model, manifest, folder, threads=1, sizes=[(64, 64)])
    with pytest.raises(OutputError, match="File name too long"):
        export(model, manifest, tmp_path / "new" / ("a" * 300), threads=1, sizes=[(64, 64)])
    assert {path.name for path in tmp_path.rglob("*")} == {"kept", "note"}


def test_parameters_that_memory_does_not_hold_are_one_line(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, read = (exported / PARAMS).stat().st_size, Path.read_bytes

    def run_out(path: Path) -> bytes:
        if path.name == PARAMS:
            raise MemoryError
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", run_out)
    with pytest.raises(WeightsError, match=rf"model\.pdiparams: memory ran out while it was read; it needs {size} "):
        read_weights(exported)


def test_paths_that_cannot_be_asked_are_missing_inputs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingInputError, match="cannot be read: File name too long"):
        recognise(exported / ("a" * 300))
    assert recognise(exported) == recognise(exported / PARAMS) == recognise(exported / MANIFEST) == "export"
    ask = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{exported}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return ask(path, **options)

    monkeypatch.setattr(os, "stat", refuse)  # as a folder of mode 000 does, to all but root
    for path in (exported, exported / "x.pdparams", exported / PARAMS):
        with pytest.raises(MissingInputError, match="cannot be read: Permission denied"):
            recognise(path)


@pytest.mark.parametrize(
    "fault",
    ["cut", "longer", "fewer names", "more names", "garbage", "huge shape", "another type", "another field"],
)
def test_parameters_that_are_not_what_the_names_say_are_refused(fault: str, exported: Path) -> None:
    path, names = exported / PARAMS, read_manifest(exported).parameters
    data = path.read_bytes()
    shape = data[:16] + b"\x0d\0\0\0" + b"\x08\x05\x10" + b"\xff" * 9 + b"\x01"  # one side of 2^63 and more
    end = 20 + data[16]  # of what is said about the first tensor
    faults = {
        "cut": data[:-2], "longer": data + b"\0", "garbage": b"\x07" * len(data), "huge shape": shape + data[33:],
        "another type": data[:20] + b"\x08\x06" + data[22:],
        "another field": data[:16] + bytes([data[16] + 2]) + data[17:end] + b"\x18\1" + data[end:],
    }  # fmt: skip
    data = faults.get(fault, data)
    path.write_bytes(data)
    names = {"fewer names": names[:-1], "more names": (*names, "x")}.get(fault, names)
    with pytest.raises(WeightsError, match="damaged, or not of this export"):
        read_parameters(path, names)
