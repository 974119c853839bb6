"""Attention's two ways, the fused operator and the plain products, and the activations' two forms."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from models import convit, create_model, layers
from models.layers import (
    Mlp,
    MultiHeadProduct,
    ScaledDotProduct,
    can_fuse,
    gelu,
    gelu_tanh,
    merge_heads,
    quick_gelu,
    swap_heads,
)
from tests.reference import images


def qkv(heads: int = 3, tokens: int = 10, keys: int = 7, dim: int = 8) -> list[paddle.Tensor]:
    rng = np.random.default_rng(0)
    shapes = [(2, heads, tokens, dim), (2, heads, keys, dim), (2, heads, keys, dim)]
    return [paddle.to_tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


@pytest.mark.parametrize("scale", [8**-0.5, 24**-0.5])  # a head's own, and CvT's, of all heads together
def test_the_fused_operator_gives_the_plain_products(scale: float) -> None:
    q, k, v = qkv()
    layer = ScaledDotProduct(scale=scale, drop_rate=0.0)
    plain = layer(q, k, v)
    expected = F.softmax(scale * q @ k.transpose([0, 1, 3, 2]), axis=-1) @ v
    np.testing.assert_allclose(plain.numpy(), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(layer.fused_by_head(q, k, v).numpy(), plain.numpy(), atol=1e-6)
    heads_third = [swap_heads(t).astype("float64") for t in (q, k, v)]  # not float32: scaled before the operator
    np.testing.assert_allclose(swap_heads(layer.fused(*heads_third)).numpy(), plain.numpy(), atol=1e-6)


def test_heads_in_a_row_are_split_and_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv()
    expected = merge_heads(ScaledDotProduct(scale=0.3, drop_rate=0.0)(q, k, v)).numpy()
    layer = MultiHeadProduct(3, scale=0.3, drop_rate=0.0)
    rows = [merge_heads(t) for t in (q, k, v)]
    np.testing.assert_array_equal(layer(*rows).numpy(), expected)
    monkeypatch.setattr(layers, "can_fuse", lambda x: True)
    np.testing.assert_allclose(layer(*rows).numpy(), expected, atol=1e-6)


def test_positions_for_all_images_at_once_are_the_product_with_each() -> None:
    attn, v = F.softmax(paddle.rand([1, 3, 10, 10]), axis=-1), paddle.rand([4, 3, 10, 8])
    np.testing.assert_allclose(convit._attend_all(attn, v).numpy(), (attn @ v).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["cvt_nano_32x32", "convit_tiny", "vit_s_16_224"])
def test_a_model_gives_the_same_numbers_fused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {} if name.startswith("cvt") else {"patch_size": 8, "depth": 3, "img_size": 32}
    sizes |= {"local_up_to_layer": 2} if name.startswith("convit") else {}
    paddle.seed(0)
    model = create_model(name, num_classes=7, **sizes)
    model.eval()
    batch = paddle.to_tensor(images(2, 32, 32))
    plain = model(batch)
    calls = []
    fused = layers.AttentionProduct.fused

    def count(self: layers.AttentionProduct, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.shape)
        return fused(self, q, k, v)

    monkeypatch.setattr(layers.AttentionProduct, "fused", count)
    for module in (layers, convit):
        monkeypatch.setattr(module, "can_fuse", lambda x: True)
    np.testing.assert_allclose(model(batch).numpy(), plain.numpy(), atol=2e-6)
    assert len(calls) == sum(isinstance(layer, layers.AttentionProduct) for layer in model.sublayers())


def test_dropout_of_gated_attention_is_on_the_sum_of_both_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convit, "can_fuse", lambda x: True)
    q, _, _ = qkv(keys=10)
    layer = convit.GatedProduct(scale=8**-0.5, drop_rate=0.5)
    positions = F.softmax(paddle.rand([1, 3, 10, 10]), axis=-1)
    gates = paddle.full([2, 1, 3, 1, 1], 0.5)
    paddle.seed(0)
    dropped = layer(q, q, paddle.ones_like(q), positions, gates)
    paddle.seed(0)
    attn = F.dropout(0.5 * layer.scores(q, q) + 0.5 * positions, 0.5)
    np.testing.assert_allclose(dropped.numpy(), (attn @ paddle.ones_like(q)).numpy(), atol=1e-6)


def test_a_map_is_copied_once_where_paddle_makes_views() -> None:
    flag = "FLAGS_use_stride_kernel"  # as on a GPU
    before = paddle.get_flags(flag)
    paddle.set_flags({flag: True})
    try:
        tokens = paddle.rand([2, 6, 5])
        tokens.stop_gradient = False
        image = layers.tokens_to_map(tokens, 2, 3)
        assert not tokens.transpose([0, 2, 1]).is_contiguous()
        assert image.is_contiguous()
        (image * paddle.arange(60, dtype="float32").reshape([2, 5, 2, 3])).sum().backward()
        expected = np.arange(60, dtype=np.float32).reshape(2, 5, 6).swapaxes(1, 2)
        np.testing.assert_array_equal(tokens.grad.numpy(), expected)
    finally:
        paddle.set_flags(before)


def test_fusing_is_for_gpus_and_never_for_programs() -> None:
    assert not can_fuse(paddle.zeros([1]))  # on this CPU

    class OnGpu:
        class place:  # noqa: N801
            @staticmethod
            def is_gpu_place() -> bool:
                return True

    assert can_fuse(OnGpu())
    paddle.enable_static()
    try:
        assert not can_fuse(OnGpu())
    finally:
        paddle.disable_static()


def test_gates_and_positions_of_convit_stay_out_of_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU auto_cast would make them half; here it is seen which operators run while it is off."""
    from paddle.amp import auto_cast

    enabled, seen = [True], []

    class Recorded:
        def __init__(self, enable: bool = True) -> None:
            self.enable = enable

        def __enter__(self) -> None:
            enabled.append(self.enable)

        def __exit__(self, *_: object) -> None:
            enabled.pop()

    assert auto_cast is paddle.amp.auto_cast
    monkeypatch.setattr(paddle.amp, "auto_cast", Recorded)
    for owner, name in ((paddle, "einsum"), (paddle, "concat"), (F, "softmax")):
        real = getattr(owner, name)

        def record(*args: Any, _real: Any = real, _name: str = name, **options: Any) -> Tensor:
            seen.append((_name, enabled[-1]))
            return _real(*args, **options)

        monkeypatch.setattr(owner, name, record)
    model = create_model("convit_tiny", img_size=32, patch_size=8, depth=3, local_up_to_layer=1)
    model(paddle.zeros([1, 3, 32, 32]))
    assert seen[:3] == [("einsum", False), ("softmax", False), ("concat", False)]  # positions, their map, gates
    assert seen[3:5] == [("softmax", False), ("softmax", True)]  # the gates, then the scores, which lists keep float32
    assert ("concat", True) in seen  # the class token


def test_activations() -> None:
    x = np.linspace(-6, 6, 401, dtype=np.float32)
    exact = x.astype(np.float64) * 0.5 * (1 + np.vectorize(math.erf)(x.astype(np.float64) / math.sqrt(2)))
    np.testing.assert_allclose(gelu(paddle.to_tensor(x)).numpy(), exact, atol=1e-6)
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.astype(np.float64) ** 3)))
    np.testing.assert_allclose(gelu_tanh(paddle.to_tensor(x)).numpy(), tanh, atol=1e-6)
    np.testing.assert_allclose(quick_gelu(paddle.to_tensor(x)).numpy(), x / (1 + np.exp(-1.702 * x)), atol=1e-6)


@pytest.mark.parametrize("activation", [gelu, gelu_tanh, quick_gelu])
def test_an_activation_of_programs_is_the_same_function(activation: Callable[[Tensor], Tensor]) -> None:
    paddle.enable_static()
    try:
        main = paddle.static.Program()
        with paddle.static.program_guard(main):
            x = paddle.static.data("x", [401], "float32")
            y = activation(x)
        values = np.linspace(-6, 6, 401, dtype=np.float32)
        (out,) = paddle.static.Executor(paddle.CPUPlace()).run(main, feed={"x": values}, fetch_list=[y])
    finally:
        paddle.disable_static()
    np.testing.assert_allclose(out, activation(paddle.to_tensor(values)).numpy(), atol=1e-6)


def test_an_mlp_in_training_has_the_values_and_gradients_of_quick_gelu() -> None:
    mlp = Mlp(6, 10, 0.0, quick_gelu)
    for parameter in mlp.parameters():
        parameter.set_value(np.random.default_rng(1).standard_normal(parameter.shape).astype(np.float32))
    x = paddle.to_tensor(np.random.default_rng(2).standard_normal((2, 5, 6)).astype(np.float32))
    outputs = [mlp(x), mlp.fc2(quick_gelu(mlp.fc1(x)))]
    found, expected = ([y, *paddle.grad((y * y).sum(), mlp.parameters())] for y in outputs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)
    assert not np.allclose(mlp(x).numpy(), mlp.fc2(paddle.nn.functional.gelu(mlp.fc1(x))).numpy(), atol=1e-4)
