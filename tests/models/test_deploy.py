"""The deployed form of every family: the model's logits, from folded weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model, cvt, cvt_layers
from models.attention_maps import Attended, class_path
from models.deploy import DeployedConvAttention, deployed, fold_batch_norm
from models.saliency import class_attention, watch
from models.transformer import InputSizeError

STAGES = tuple(
    replace(stage, embed_dim=12, num_heads=heads, depth=2)
    for stage, heads in zip(cvt.cvt_13_224x224()["stages"], (1, 2, 3), strict=True)
)


def scramble(model: nn.Layer, seed: int = 0) -> nn.Layer:
    """Gives every parameter and statistic values that show; variances stay positive."""
    rng = np.random.default_rng(seed)
    for value in model.state_dict().values():
        array = value.numpy()
        noise = 0.2 * rng.standard_normal(array.shape)
        value.set_value((array + (np.abs(noise) if (array >= 0).all() else noise)).astype(np.float32))
    model.eval()
    return model


def small(kind: str) -> nn.Layer:
    if kind.startswith("cvt"):
        method = kind.partition(" ")[2] or "dw_bn"
        model = create_model("cvt_13_224x224", stages=STAGES, num_classes=5, qkv_proj_method=method)
    else:
        name = "convit_tiny" if kind.startswith("convit") else "vit_ti_16_224"
        sizes: dict[str, Any] = {"img_size": (48, 32), "embed_dim": 16, "num_heads": 4, "depth": 4, "num_classes": 5}
        if name == "convit_tiny":
            sizes["local_up_to_layer"] = 2
        model = create_model(name, **sizes)
        if kind.endswith("tanh"):
            model.set_numerics(act="gelu_tanh", norm_eps=1e-4)
    return scramble(model)


KINDS = ("cvt", "cvt avg", "cvt linear", "convit", "convit tanh", "vit", "vit tanh")


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_models(kind: str) -> None:
    model = small(kind)
    images = paddle.to_tensor(np.random.default_rng(1).standard_normal((3, 3, 48, 32)).astype(np.float32))
    with paddle.no_grad():
        expected, found = model(images).numpy(), deployed(model)(images).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("kind", ["cvt", "cvt avg", "cvt linear", "convit", "vit"])
def test_the_second_output_is_the_class_attention(kind: str) -> None:
    model = small(kind)
    images = paddle.to_tensor(np.random.default_rng(1).standard_normal((3, 3, 48, 32)).astype(np.float32))
    expected = class_attention(watch(model, images)).mean(1)  # (B, h, H, W) -> (B, H, W)
    assert expected.std() > 0.02 * expected.mean()
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    with paddle.no_grad():
        plain = model(images).numpy()
        for both in (Attended(model), deployed(model, attention=True)):
            logits, maps = both(images)
            np.testing.assert_allclose(maps.numpy(), expected, rtol=0, atol=1e-6)
            np.testing.assert_allclose(logits.numpy(), plain, rtol=0, atol=1e-5 * max(1, np.abs(plain).max()))
        assert (logits.numpy() == deployed(model)(images).numpy()).all()
        assert (Attended(model)(images)[0].numpy() == plain).all()
    assert not class_path(model).last.attn._forward_pre_hooks  # the model is left as it was


def test_a_failing_forward_leaves_the_model_as_it_was() -> None:
    model = small("vit")
    with pytest.raises(InputSizeError):
        Attended(model)(paddle.ones([1, 3, 64, 64]))
    assert not class_path(model).last.attn._forward_pre_hooks


def test_without_a_class_token_there_is_no_attention_of_it() -> None:
    model = create_model("cvt_13_224x224", stages=STAGES[:2], num_classes=5).eval()
    for make in (Attended, lambda model: deployed(model, attention=True)):
        with pytest.raises(ValueError, match="has no class token here"):
            make(model)


def test_large_maps_of_positions_are_computed_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("convit")
    images = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 48, 32)).astype(np.float32))
    constant = deployed(model)
    monkeypatch.setattr("models.deploy.MAX_CONSTANT", 100)
    computed = deployed(model)
    with paddle.no_grad():
        np.testing.assert_allclose(computed(images).numpy(), constant(images).numpy(), atol=1e-5)
    names = {name.rpartition(".")[2] for name in computed.state_dict()}
    assert "gated_positions" not in names
    assert "gated_positions" in {name.rpartition(".")[2] for name in constant.state_dict()}


def test_without_a_class_token_all_tokens_are_computed() -> None:
    model = scramble(create_model("cvt_13_224x224", stages=STAGES[:2], num_classes=0))
    images = paddle.ones([1, 3, 64, 48])
    np.testing.assert_allclose(deployed(model)(images).numpy(), model(images).numpy(), atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model = small("cvt")
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    deployed(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name].numpy(), value)


def test_batch_norm_is_in_the_convolution_also_at_the_padded_edge() -> None:
    projection = scramble(cvt_layers.DepthwiseProjection(4, stride=2))
    images = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 4, 5, 7)).astype(np.float32))
    expected, found = projection(images).numpy(), fold_batch_norm(projection)(images).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(projection.conv(images).numpy() - expected).max() > 0.1  # BatchNorm does something here


def test_the_last_block_computes_the_class_token_alone() -> None:
    form = deployed(small("cvt"))
    alone = [x.class_token_alone for x in form.sublayers() if isinstance(x, DeployedConvAttention)]
    assert alone == [False] * 5 + [True]
    shapes = []
    form.stages[-1][-1].mlp.register_forward_post_hook(lambda layer, inputs, output: shapes.append(output.shape))
    form(paddle.ones([2, 3, 64, 64]))
    assert shapes == [[2, 1, 12]]


def test_maps_and_unknown_families_have_no_deployed_form() -> None:
    with pytest.raises(ValueError, match="build the model without features_only"):
        deployed(create_model("cvt_nano_32x32", features_only=True).eval())
    with pytest.raises(ValueError, match="no deployed form is known for Linear"):
        deployed(nn.Linear(2, 2).eval())
    with pytest.raises(ValueError, match="call eval"):
        deployed(create_model("cvt_nano_32x32"))
