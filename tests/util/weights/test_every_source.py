"""Every project whose weights are understood: a file in its own format gives the logits of its own model."""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model
from models.cvt_layers import Stage
from tests.golden.make_weights import (
    CONVIT,
    CVT_CLASSES,
    CVT_DEPTHS,
    CVT_DIMS,
    CVT_HEADS,
    TABLES,
    VIT,
    official_tensor,
    table,
)
from tests.models.golden import GOLDEN, fill, load
from tests.reference import images, tensor
from tests.weights_files import write_mindspore, write_paddle, write_safetensors, write_torch
from util.errors import WeightsError
from util.weights import load_weights, read_weights, set_weights, torch_file
from util.weights.positions import fit_positions, resample_positions

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def golden() -> Tensors:
    return load("weights")


def build(family: str, *, side: int = 32) -> nn.Layer:
    """Returns the small model of which `golden` holds the outputs, freshly initialised."""
    if family == "cvt":
        sizes = zip(CVT_DIMS, CVT_DEPTHS, CVT_HEADS, (7, 3, 3), (4, 2, 2), (2, 1, 1), strict=True)
        stages = [
            Stage(embed_dim=dim, depth=depth, num_heads=heads, patch_size=patch, patch_stride=stride,
                  patch_padding=padding, cls_token=dim == CVT_DIMS[-1])
            for dim, depth, heads, patch, stride, padding in sizes
        ]  # fmt: skip
        return create_model("cvt_13_224x224", stages=stages, num_classes=CVT_CLASSES)
    return create_model({"vit": "vit_s_16_224", "convit": "convit_tiny"}[family], img_size=side,
                        **{"vit": VIT, "convit": CONVIT}[family])  # fmt: skip


@paddle.no_grad()
def logits(model: nn.Layer, side: int = 32, batch: int = 2) -> np.ndarray:
    model.eval()
    return model(paddle.to_tensor(images(batch, side, side))).numpy()


def shapes(names: np.ndarray) -> dict[str, tuple[int, ...]]:
    """`name [1, 2]` of a golden list as a name and its shape."""
    found = (re.fullmatch(r"(\S+) \[(.*)\]", str(name)) for name in names)
    return {m[1]: tuple(int(n) for n in m[2].split(",") if n.strip()) for m in found if m is not None}


def official(golden: Tensors, family: str) -> Tensors:
    """The reference's own state dict: official names, PyTorch's layout, counters of batches."""
    return {
        name: np.array(7) if name.endswith("num_batches_tracked") else tensor(name, shape)
        for name, shape in shapes(golden[f"{family}_names"]).items()
    }


def paddle_layout(tensors: Tensors) -> Tensors:
    """The same as a Paddle project keeps it."""
    names = {"running_mean": "_mean", "running_var": "_variance"}
    result = {}
    for name, value in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            matrix = leaf == "weight" and value.ndim == 2
            result[f"{stem}.{names.get(leaf, leaf)}".lstrip(".")] = np.ascontiguousarray(value.T) if matrix else value
    return result


def hf_cvt(golden: Tensors) -> Tensors:
    """Hugging Face's names of CvT, spelt out from the official ones; the golden list says that they are right."""

    def name_of(name: str) -> str:
        stage, _, rest = name.partition(".")
        if not stage.startswith("stage"):
            return {"norm": "layernorm", "head": "classifier"}[stage] + f".{rest}"
        start, embedding = f"cvt.encoder.stages.{stage[5:]}.", "embedding.convolution_embeddings."
        if not rest.startswith("blocks."):
            return start + rest.replace("patch_embed.proj", f"{embedding}projection").replace(
                "patch_embed.norm", f"{embedding}normalization"
            )
        _, block, rest = rest.split(".", 2)
        start += f"layers.{block}."
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            convolution = f"attention.attention.convolution_projection_{word}.convolution_projection."
            rest = rest.replace(f"attn.conv_proj_{letter}.conv.", f"{convolution}convolution.")
            rest = rest.replace(f"attn.conv_proj_{letter}.bn.", f"{convolution}normalization.")
            rest = rest.replace(f"attn.proj_{letter}.", f"attention.attention.projection_{word}.")
        for mine, theirs in (("attn.proj.", "attention.output.dense."), ("mlp.fc1.", "intermediate.dense."),
                             ("mlp.fc2.", "output.dense."), ("norm1.", "layernorm_before."),
                             ("norm2.", "layernorm_after.")):  # fmt: skip
            rest = rest.replace(mine, theirs)
        return start + rest

    tensors = {name_of(name): value for name, value in official(golden, "cvt").items()}
    assert {n: v.shape for n, v in tensors.items()} == shapes(golden["hf_cvt_names"])
    return tensors


def hf_vit(golden: Tensors, names: str = "hf_vit_names") -> Tensors:
    """Hugging Face's tensors of ViT, its own list of names filled with timm's values."""
    ours = official(golden, "vit")
    tensors = {name: official_tensor(name, ours) for name in shapes(golden[names]) if "pooler" not in name}
    assert all(v.shape == shapes(golden[names])[n] for n, v in tensors.items())
    return tensors


def mindcv_vit(golden: Tensors) -> Tensors:
    return {
        name: tensor(name.replace(".gamma", ".weight").replace(".beta", ".bias"), shape)
        for name, shape in shapes(golden["mindcv_vit_names"]).items()
    }


def beside_cvt_paddle(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What CvT-paddle saves beside the model."""
    return {
        "optimizer": {"linear_0.w_0_moment1_0": np.zeros((2, 3), np.float32), "LR_Scheduler": {"last_epoch": 3}},
        "epoch": 17,
        "args": argparse.Namespace(model="cvt_13_224x224", mean=(0.485, 0.456, 0.406), lr=2e-3, resume=None),
        "scaler": {"scale": np.array([65536.0], np.float32), "incr_count": 3},
        "model_ema": {name: value + np.float32(0.01) for name, value in tensors.items()},
    }


def as_paddle(family: str) -> Callable[[Tensors, Path], None]:
    return lambda golden, path: write_paddle(path, paddle_layout(official(golden, family)))


def as_torch(family: str, **options: Any) -> Callable[[Tensors, Path], None]:
    return lambda golden, path: write_torch(path, official(golden, family), **options)


def cvt_paddle(golden: Tensors, path: Path) -> None:
    tensors = paddle_layout(official(golden, "cvt"))
    write_paddle(path, tensors, wrap="model", beside=beside_cvt_paddle(tensors))


def paddlevit_cvt(golden: Tensors, path: Path) -> None:
    """Its projections are unnamed layers in a row."""
    numbers = ((".conv.", ".0."), (".bn.", ".1."))
    tensors = paddle_layout(official(golden, "cvt"))
    for name, number in numbers:
        tensors = {k.replace(name, number): v for k, v in tensors.items()}
    write_paddle(path, tensors)


def prefixed(prefix: str) -> Callable[[Tensors, Path], None]:
    return lambda golden, path: write_torch(path, {prefix + k: v for k, v in official(golden, "cvt").items()})


# what: (file name, how it is written, model, golden logits)
SOURCES: dict[str, tuple[str, Callable[[Tensors, Path], None], str, str]] = {
    "CvT-paddle": ("checkpoint-best.pd", cvt_paddle, "cvt", "cvt"),
    "PaddleClas CvT": ("CvT_13_224_pretrained.pdparams", as_paddle("cvt"), "cvt", "cvt"),
    "PaddleViT CvT": ("cvt_13_224_224.pdparams", paddlevit_cvt, "cvt", "cvt"),
    "microsoft/CvT": ("CvT-13-224x224-IN-1k.pth", as_torch("cvt"), "cvt", "cvt"),
    "microsoft/CvT, of several GPUs": ("model_best.pth", prefixed("module."), "cvt", "cvt"),
    "microsoft/CvT, compiled, of several GPUs": ("x.pth", prefixed("module._orig_mod."), "cvt", "cvt"),
    "microsoft/CvT checkpoint": (
        "checkpoint.pth", as_torch("cvt", wrap="state_dict", beside={"epoch": 3, "model": "cls_cvt", "perf": 81.6}),
        "cvt", "cvt",
    ),
    "Hugging Face CvT": ("pytorch_model.bin", lambda g, p: write_torch(p, hf_cvt(g)), "cvt", "cvt"),
    "Hugging Face CvT safetensors": (
        "model.safetensors", lambda g, p: write_safetensors(p, hf_cvt(g), metadata={"format": "pt"}), "cvt", "cvt",
    ),
    "Hugging Face ViT": ("model.safetensors", lambda g, p: write_safetensors(p, hf_vit(g)), "vit", "hf_vit"),
    "Hugging Face ViT .bin": ("pytorch_model.bin", lambda g, p: write_torch(p, hf_vit(g)), "vit", "hf_vit"),
    "transformers 5 in memory": ("vit.pth", lambda g, p: write_torch(p, hf_vit(g, "hf_vit_5_names")), "vit", "hf_vit"),
    "timm ViT": ("model.safetensors", lambda g, p: write_safetensors(p, official(g, "vit")), "vit", "vit"),
    "timm ViT .pth": ("model_best.pth.tar", as_torch("vit", wrap="state_dict", beside={"epoch": 9}), "vit", "vit"),
    "timm ConViT": ("model.safetensors", lambda g, p: write_safetensors(p, official(g, "convit")), "convit", "convit"),
    "timm ConViT .pth": ("convit_tiny.pth", as_torch("convit"), "convit", "convit"),
    "PaddleClas ViT": ("ViT_base_patch16_224_pretrained.pdparams", as_paddle("vit"), "vit", "vit"),
    "MindCV ViT": ("vit_b_32_224.ckpt", lambda g, p: write_mindspore(p, mindcv_vit(g)), "vit", "mindcv_vit"),
    "Paddle's layout in safetensors": (
        "weights.safetensors", lambda g, p: write_safetensors(p, paddle_layout(official(g, "convit"))), "convit",
        "convit",
    ),
    "official names under a misleading name": ("weights.ckpt", as_torch("vit"), "vit", "vit"),
}  # fmt: skip


@pytest.mark.parametrize("what", SOURCES)
def test_a_file_of_each_source_gives_the_golden_logits(what: str, golden: Tensors, tmp_path: Path) -> None:
    name, write, family, expected = SOURCES[what]
    path = tmp_path / name
    write(golden, path)
    assert path.stat().st_size < 2e6
    model = build(family)
    assert np.abs(logits(model) - golden[expected]).max() > 0.1
    assert load_weights(model, path) == []
    np.testing.assert_allclose(logits(model), golden[expected], rtol=0, atol=1e-4)


def test_a_real_checkpoint_of_mindcv_gives_its_logits() -> None:
    model = create_model("convit_tiny", embed_dim=48, num_heads=4, num_classes=10)
    load_weights(model, GOLDEN / "mindcv_convit_d48.ckpt")
    assert model.numerics() == {"act": "gelu_tanh", "norm_eps": 1e-7}
    expected = load("mindcv_convit_d48")["logits"]
    np.testing.assert_allclose(logits(model, 224), expected, rtol=0, atol=1e-4)


def test_mindcvs_logits_need_its_numerics(golden: Tensors, tmp_path: Path) -> None:
    write_mindspore(tmp_path / "vit.ckpt", mindcv_vit(golden))
    model = build("vit")
    load_weights(model, tmp_path / "vit.ckpt")
    model.set_numerics(act="gelu", norm_eps=1e-6)
    assert np.abs(logits(model) - golden["mindcv_vit"]).max() > 1e-4


def test_what_mindcvs_files_imply(golden: Tensors, tmp_path: Path) -> None:
    write_mindspore(tmp_path / "vit.ckpt", mindcv_vit(golden))
    assert read_weights(tmp_path / "vit.ckpt").preprocess["mean"] == [0.485, 0.456, 0.406]
    assert read_weights(GOLDEN / "mindcv_convit_d48.ckpt").preprocess == {}


def test_cvt_paddles_average_is_read_when_asked_for(golden: Tensors, tmp_path: Path) -> None:
    cvt_paddle(golden, tmp_path / "x.pd")
    plain, averaged = read_weights(tmp_path / "x.pd"), read_weights(tmp_path / "x.pd", use_ema=True)
    assert plain.tensors.keys() == averaged.tensors.keys()
    for name, value in plain.tensors.items():
        np.testing.assert_allclose(averaged.tensors[name] - value, 0.01, atol=1e-6)
    write_paddle(tmp_path / "y.pd", paddle_layout(official(golden, "cvt")), wrap="model", beside={"epoch": 1})
    with pytest.raises(WeightsError, match=r"y\.pd: has no averaged weights; leave out --use_ema"):
        read_weights(tmp_path / "y.pd", use_ema=True)


def test_a_backbone_of_hugging_face_has_no_pooler_and_no_head(golden: Tensors, tmp_path: Path) -> None:
    ours = official(golden, "vit")
    tensors = {
        name: np.zeros(shape, np.float32) if "pooler" in name else official_tensor(name, ours)
        for name, shape in shapes(golden["hf_vit_backbone_names"]).items()
    }
    write_safetensors(tmp_path / "x.safetensors", tensors)
    found = set(read_weights(tmp_path / "x.safetensors").tensors)
    assert found == set(build("vit").state_dict()) - {"head.weight", "head.bias"}


def test_weights_of_another_model_name_what_differs(golden: Tensors, tmp_path: Path) -> None:
    write_torch(tmp_path / "vit.pth", official(golden, "vit"))
    model = build("convit")
    before = logits(model)
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "vit.pth")
    text = str(caught.value)
    assert re.search(r"missing \(\d+\): .*blocks\.0\.attn\.gating_param", text)
    assert re.search(r"unexpected \(\d+\): .*blocks\.0\.attn\.qkv\.weight", text)
    assert "cls_token [1, 1, 24] instead of [1, 1, 32]" in text
    np.testing.assert_array_equal(logits(model), before)


@pytest.mark.parametrize("model", [{}, None, "cvt", {"backbone": {"x": np.zeros(2, np.float32)}}])
def test_an_average_is_not_taken_for_a_model_that_cannot_be_read(model: Any, golden: Tensors, tmp_path: Path) -> None:
    tensors = paddle_layout(official(golden, "cvt"))
    write_paddle(tmp_path / "x.pd", tensors, wrap="model_ema", beside={"model": model})
    with pytest.raises(WeightsError, match="'model_ema' holds weights, but 'model' does not"):
        read_weights(tmp_path / "x.pd")
    write_paddle(tmp_path / "y.pd", tensors, wrap="model_ema", beside={"epoch": 3})
    assert not read_weights(tmp_path / "y.pd").average_left
    cvt_paddle(golden, tmp_path / "z.pd")
    assert read_weights(tmp_path / "z.pd").average_left
    assert not read_weights(tmp_path / "z.pd", use_ema=True).average_left


def test_a_tensor_that_is_a_negative_view_is_refused() -> None:
    """PyTorch notes that its values are to be negated, which a reader of plain values would miss."""
    storage = torch_file.Storage(torch_file.Entry("x", memoryview(bytes(4)), 0), "F32")
    assert torch_file._rebuild_tensor((storage, 0, (1,), (1,), False, {}, {})).shape == (1,)
    with pytest.raises(WeightsError, match="a tensor with a note"):
        torch_file._rebuild_tensor((storage, 0, (1,), (1,), False, {}, {"neg": True}))


# --- other input sizes


@pytest.mark.parametrize("case", range(len(TABLES)))
def test_tables_are_resampled_as_timm_does(case: int, golden: Tensors) -> None:
    extra, old, new = TABLES[case]
    ours = resample_positions(table(extra, old), extra=extra, old=old, new=new)
    np.testing.assert_allclose(ours, golden[f"table_{case}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "convit"])
def test_weights_of_one_size_load_into_a_model_of_another(family: str, golden: Tensors, tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", official(golden, family))
    model = build(family, side=48)
    assert load_weights(model, tmp_path / "x.pth") == ["pos_embed resampled from 4 x 4 to 6 x 6"]
    np.testing.assert_allclose(logits(model, 48), golden[f"{family}_48"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "side", "key"),
    [
        pytest.param("vit_b_16_384", 384, "vit_b_16_at_384", marks=pytest.mark.slow),
        ("convit_tiny", 288, "convit_tiny_at_288"),
    ],
)
def test_real_models_at_another_size_equal_timm(name: str, side: int, key: str, golden: Tensors) -> None:
    small = create_model(name, img_size=224)
    fill(small)
    tensors = {k: v.numpy() for k, v in small.state_dict().items()}
    del small
    model = create_model(name, img_size=side)
    fitted, notes = fit_positions(model, tensors, image_size=None)
    set_weights(model, fitted, source="x")
    assert notes == [f"pos_embed resampled from 14 x 14 to {side // 16} x {side // 16}"]
    np.testing.assert_allclose(logits(model, side, batch=1), golden[key], rtol=0, atol=1e-4)


def test_cvt_takes_any_size_with_the_same_weights(golden: Tensors, tmp_path: Path) -> None:
    write_torch(tmp_path / "x.pth", official(golden, "cvt"))
    model = build("cvt")
    assert load_weights(model, tmp_path / "x.pth") == []
    model.eval()
    out = model(paddle.to_tensor(images(2, 320, 256))).numpy()
    assert out.shape == (2, CVT_CLASSES)
    assert np.isfinite(out).all()


def test_a_table_that_fits_an_oblong_model_is_kept() -> None:
    """9 x 16 places are as many as 12 x 12; a file that does not say its grid is taken for one of the model's."""
    model = create_model("vit_s_16_224", **(VIT | {"img_size": (72, 128)}))
    tensors = {"pos_embed": tensor("pos_embed", (1, 145, 24))}
    fitted, notes = fit_positions(model, tensors, image_size=None)
    assert notes == []
    np.testing.assert_array_equal(fitted["pos_embed"], tensors["pos_embed"])
    assert fit_positions(model, tensors, image_size=(96, 96))[1] == ["pos_embed resampled from 12 x 12 to 9 x 16"]


def test_a_grid_that_is_no_square_needs_to_be_known() -> None:
    model = build("vit", side=48)
    tensors = {"pos_embed": np.zeros((1, 13, 24), np.float32)}
    fitted, notes = fit_positions(model, tensors, image_size=(24, 32))
    assert notes == ["pos_embed resampled from 3 x 4 to 6 x 6"]
    assert fitted["pos_embed"].shape == (1, 37, 24)
    for image_size in (None, (32, 32)):  # left for set_weights, which names all that does not fit
        fitted, notes = fit_positions(model, tensors, image_size=image_size)
        assert notes == []
        with pytest.raises(WeightsError, match=r"wrong shape \(1\): pos_embed \[1, 13, 24\] instead of \[1, 37, 24\]"):
            set_weights(model, fitted, source="x")
