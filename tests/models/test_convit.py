"""ConViT against timm and MindCV, and the convolution that it starts as (arXiv 2103.10697)."""

from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from models import create_model
from models.convit import GatedPositionalAttention, head_offsets, relative_positions
from models.transformer import InputSizeError
from tests.models.golden import fill, load, logits, official_name
from tests.reference import images
from util.train.optim import decay_groups

SMALL: dict[str, Any] = {
    "patch_size": 8, "embed_dim": 36, "depth": 3, "num_heads": 4, "local_up_to_layer": 2, "img_size": 32,
    "num_classes": 5,
}  # fmt: skip


@pytest.mark.parametrize("name", ["convit_tiny", "convit_small"])
def test_logits_equal_timm(name: str) -> None:
    model = create_model(name)
    fill(model)
    expected = load(name)["logits_224"]
    np.testing.assert_allclose(logits(model, len(expected), 224, 224), expected, rtol=0, atol=1e-4)


def test_gradients_equal_timm() -> None:
    golden = load("convit_tiny_backward")
    model = create_model("convit_tiny")
    fill(model)
    model.train()
    loss = F.cross_entropy(model(paddle.to_tensor(images(2, 224, 224))), paddle.to_tensor([3, 500]))
    loss.backward()
    assert abs(float(loss) - float(golden["loss"])) < 1e-5
    parameters = {official_name(name): p for name, p in model.named_parameters()}
    assert set(parameters) == set(map(str, golden["names"]))
    for name, expected in zip(golden["names"], golden["grad_norms"], strict=True):
        norm = float(np.linalg.norm(parameters[str(name)].grad.numpy().astype(np.float64)))
        if expected < 1e-6:  # zero in theory: a constant added to the scores of all keys
            assert norm < 1e-6, name
        else:
            assert abs(norm - expected) <= 1e-3 * expected, name


def gpsa_layers(model: paddle.nn.Layer) -> list[GatedPositionalAttention]:
    return [layer for layer in model.sublayers() if isinstance(layer, GatedPositionalAttention)]


@pytest.mark.parametrize("num_heads", [4, 9, 16])
def test_at_the_start_each_head_attends_where_the_paper_says(num_heads: int) -> None:
    """Head p of k^2 looks at the patch (p mod k) - c down and (p div k) - c to the right of its own."""
    size, k = 7, int(num_heads**0.5)
    centre = k // 2 if k % 2 else (k - 1) / 2
    model = create_model("convit_tiny", img_size=16 * size, embed_dim=6 * num_heads, num_heads=num_heads)
    layers = gpsa_layers(model)
    assert len(layers) == 10
    for layer in layers:
        attention = layer.position_attention().numpy()[0]  # (h, N, N)
        np.testing.assert_allclose(attention.sum(-1), 1.0, atol=1e-5)
        row, column = 3, 3  # the middle of the grid, from where every offset lies within
        for head in range(num_heads):
            y, x = row + (head % k) - centre, column + (head // k) - centre
            found = attention[head, row * size + column].reshape(size, size)
            peak = np.argwhere(found > found.max() * (1 - 1e-4))
            nearest = [[i, j] for i in range(size) for j in range(size) if max(abs(i - y), abs(j - x)) <= 0.5]
            assert peak.tolist() == nearest, (head, y, x)  # four patches when the offset lies between them
            expected = np.exp(-((np.arange(size)[:, None] - y) ** 2) - (np.arange(size)[None, :] - x) ** 2)
            np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-5)


def test_a_stronger_locality_is_closer_to_a_convolution() -> None:
    weights = []
    for strength in (0.5, 1.0, 4.0):
        layer = gpsa_layers(create_model("convit_small", **(SMALL | {"num_heads": 9}), locality_strength=strength))[0]
        weights.append(float(layer.position_attention().numpy()[0, 4, 5, 5]))  # head 4 of 9 looks at its own patch
    assert weights[0] < weights[1] < 0.5 < 0.9 < weights[2]


def test_at_the_start_gates_are_sigmoid_of_one_and_values_the_identity() -> None:
    model = create_model("convit_tiny", img_size=32)
    for layer in gpsa_layers(model):
        assert layer.gating_param.numpy().tolist() == [1.0] * 4
        content, position = layer.gates().numpy().reshape(2, 4)
        np.testing.assert_allclose(position, 1 / (1 + np.exp(-1.0)), rtol=1e-6)
        np.testing.assert_allclose(content + position, 1.0, rtol=1e-6)
        np.testing.assert_array_equal(layer.v.weight.numpy(), np.eye(192, dtype=np.float32))
        assert not layer.pos_proj.bias.numpy().any()
        assert layer.v.bias is None
        assert layer.qk.bias is None
        assert abs(layer.qk.weight.numpy().std() - 0.02) < 3e-4


def test_ten_gated_layers_then_the_class_token_and_two_plain_ones() -> None:
    model = create_model("convit_small", img_size=32, embed_dim=36)
    gated = [isinstance(block.attn, GatedPositionalAttention) for block in model.blocks]
    assert gated == [True] * 10 + [False] * 2
    tokens = [t.shape[1] for t in model._run_blocks(paddle.zeros([1, 3, 32, 32]))]
    assert tokens == [4] * 10 + [5] * 2
    with pytest.raises(ValueError, match="local_up_to_layer is at least 1 and below the depth 12; got 12"):
        create_model("convit_small", img_size=32, embed_dim=36, local_up_to_layer=12)


def test_relative_positions_follow_the_grid() -> None:
    r = relative_positions(2, 3)
    assert r.shape == (1, 6, 6, 3)
    for query in range(6):
        for key in range(6):
            y, x = key // 3 - query // 3, key % 3 - query % 3
            assert r[0, query, key].tolist() == [x, y, x * x + y * y]


def test_head_offsets_form_a_square() -> None:
    x, y = head_offsets(4)
    assert sorted(zip(x.tolist(), y.tolist(), strict=True)) == [(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)]
    assert sorted(set(head_offsets(9)[0].tolist())) == [-1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="num_heads 6 is not a square"):
        create_model("convit_tiny", **(SMALL | {"num_heads": 6}))


def test_other_sizes_than_square() -> None:
    model = create_model("convit_tiny", **(SMALL | {"img_size": (32, 48)}))
    out = logits(model, 2, 32, 48)
    assert out.shape == (2, 5)
    assert np.isfinite(out).all()


def test_more_patches_than_can_be_compared_are_refused() -> None:
    with pytest.raises(InputSizeError, match=r"img_size 9984 x 9984 makes 389376 patches, .* takes up to 4096"):
        create_model("convit_tiny", img_size=9984)


def test_every_parameter_gets_a_gradient() -> None:
    paddle.seed(1)
    model = create_model("convit_tiny", **SMALL)
    model(paddle.to_tensor(images(2, 32, 32))).square().mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert [n for n, gradient in gradients.items() if gradient is None] == []
    # a constant added to the scores of all keys changes nothing
    largest = {n: float(np.abs(g.numpy()).max()) for n, g in gradients.items() if not n.endswith("pos_proj.bias")}
    assert [n for n, value in largest.items() if not value > 1e-7] == []


def test_the_table_of_relative_positions_is_shared_and_not_saved() -> None:
    model = create_model("convit_tiny", **SMALL)
    first, second = gpsa_layers(model)
    assert first.positions is second.positions
    assert [name for name in model.state_dict() if "positions" in name] == []


def test_gates_and_tables_do_not_decay_and_position_weights_do() -> None:
    groups = decay_groups(create_model("convit_tiny", **SMALL), filter_bias_and_bn=True)
    spared = {name.rpartition(".")[2] for name in groups.no_decay}
    assert spared == {"bias", "weight", "gating_param", "cls_token", "pos_embed"}
    assert all(".norm" in f".{name}" for name in groups.no_decay if name.endswith("weight"))
    assert "blocks.0.attn.pos_proj.weight" in groups.decay
    assert "blocks.0.attn.gating_param" in groups.no_decay


def test_features_only_leaves_the_class_token_out() -> None:
    model = create_model("convit_tiny", **(SMALL | {"depth": 4, "local_up_to_layer": 3}), features_only=True)
    maps = model(paddle.to_tensor(images(1, 32, 32)))
    assert [m.shape for m in maps] == [[1, 36, 4, 4]] * 4


def test_gradient_checkpointing_changes_nothing() -> None:
    paddle.seed(3)
    model = create_model("convit_tiny", **SMALL, drop_rate=0.1, drop_path_rate=0.2)
    batch = paddle.to_tensor(images(2, 32, 32))
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        paddle.seed(4)
        model(batch).square().mean().backward()
        found.append({name: p.grad.numpy() for name, p in model.named_parameters()})
        model.clear_gradients()
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)
