"""Attention that was recomputed: it is the one the layers use, and its way from keys to tokens loses nothing."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from models import create_model
from models.attention_maps import (
    attention_probabilities,
    class_path,
    class_token_maps,
    key_grid,
    key_weights,
    spread_keys,
)
from models.convit import ConViT, GatedPositionalAttention
from models.cvt import CvT
from models.cvt_layers import Attention, ProjectionMethod, Stage
from models.layers import map_to_tokens, merge_heads, split_heads, tokens_to_map
from models.transformer import SelfAttention, split_parts
from models.vit import VisionTransformer

GRIDS = {"vit": (4, 6), "convit": (4, 6), "cvt": (5, 4)}


def perturb(model: nn.Layer) -> nn.Layer:
    """Gives every parameter and statistic a value that it does not start with, so that no map is even."""
    rng = np.random.default_rng(0)
    for name, value in model.state_dict().items():
        noise = rng.uniform(0.5, 1.5, value.shape) if "variance" in name else rng.normal(0, 0.3, value.shape)
        value.set_value((value.numpy() * (0 if "variance" in name else 1) + noise).astype(np.float32))
    model.eval()
    return model


def make(family: str, *, method: ProjectionMethod = "dw_bn", num_classes: int = 3) -> nn.Layer:
    """A small model of a family, for images of 16 x 24 (ViT, ConViT) or 40 x 32 pixels (CvT)."""
    paddle.seed(0)
    if family == "cvt":
        stages = (
            Stage(embed_dim=8, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
            Stage(embed_dim=12, depth=3, num_heads=3, cls_token=True),
        )
        return perturb(CvT(stages=stages, num_classes=num_classes, qkv_proj_method=method))
    if family == "vit":
        return perturb(
            VisionTransformer(img_size=(16, 24), patch_size=4, embed_dim=12, depth=3, num_heads=3,
                              num_classes=num_classes)
        )  # fmt: skip
    return perturb(
        ConViT(img_size=(16, 24), patch_size=4, embed_dim=12, depth=4, num_heads=4, local_up_to_layer=2,
               num_classes=num_classes)
    )  # fmt: skip


def make_images(family: str, batch: int = 2) -> Tensor:
    height, width = (40, 32) if family == "cvt" else (16, 24)
    rng = np.random.default_rng(1)
    return paddle.to_tensor(rng.normal(0, 1, (batch, 3, height, width)).astype(np.float32))


def values_of(attn: nn.Layer, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """What the layer sums, (B, h, S, d)."""
    if isinstance(attn, SelfAttention):
        return split_parts(attn.qkv(x), 3, attn.num_heads)[2]
    if isinstance(attn, GatedPositionalAttention):
        return split_heads(attn.v(x), attn.num_heads)
    tokens = x[:, 1:] if attn.cls_token else x
    if attn.conv_proj_v is not None:
        tokens = map_to_tokens(attn.conv_proj_v(tokens_to_map(tokens, *grid)))
    if attn.cls_token:
        tokens = paddle.concat([x[:, :1], tokens], axis=1)
    return split_heads(attn.proj_v(tokens), attn.num_heads)


def attention_calls(model: nn.Layer, images: Tensor) -> list[tuple[nn.Layer, Tensor, tuple[int, int], Tensor]]:
    """Each attention layer with what it read, its grid, and what it answered, of one forward pass."""
    calls: list[tuple[nn.Layer, Tensor, tuple[int, int], Tensor]] = []

    def keep(layer: nn.Layer, inputs: tuple, output: Tensor) -> None:
        grid = inputs[1:3] if isinstance(layer, Attention) else model.patch_embed.grid_size
        calls.append((layer, inputs[0], grid, output))

    kinds = (SelfAttention, GatedPositionalAttention, Attention)
    hooks = [x.register_forward_post_hook(keep) for x in model.sublayers() if isinstance(x, kinds)]
    model(images)
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize(
    ("family", "method", "layers"),
    [("vit", "dw_bn", 3), ("convit", "dw_bn", 4), ("cvt", "dw_bn", 4), ("cvt", "avg", 4), ("cvt", "linear", 4)],
)
@paddle.no_grad()
def test_the_values_summed_with_it_are_what_each_layer_answers(
    family: str, method: ProjectionMethod, layers: int
) -> None:
    calls = attention_calls(make(family, method=method), make_images(family))
    assert len(calls) == layers
    for attn, x, grid, output in calls:
        attention = attention_probabilities(attn, x, grid)
        np.testing.assert_allclose(attention.sum(-1).numpy(), 1.0, atol=1e-5)
        again = attn.proj(merge_heads(attention @ values_of(attn, x, grid)))
        assert float(output.abs().max()) > 0.1
        np.testing.assert_allclose(again.numpy(), output.numpy(), atol=1e-5)
        even = paddle.full_like(attention, 1.0 / attention.shape[-1])  # what would pass if the weights did not matter
        other = attn.proj(merge_heads(even @ values_of(attn, x, grid)))
        assert float((other - output).abs().max()) > 1e-2


def test_the_class_token_is_in_all_blocks_of_vit_in_convits_last_and_in_cvts_last_stage() -> None:
    vit, convit, cvt = (create_model(n, num_classes=2) for n in ("vit_ti_16_224", "convit_tiny", "cvt_nano_32x32"))
    assert (len(class_path(vit).blocks), class_path(vit).token_block) == (12, 0)
    assert (len(class_path(convit).blocks), class_path(convit).token_block) == (12, 10)
    assert (len(class_path(cvt).blocks), class_path(cvt).token_block) == (2, 0)
    assert class_path(convit).last is convit.blocks[11]
    assert class_path(cvt).last is cvt.stage2.blocks[1]


def test_a_model_without_a_class_token_has_no_class_path() -> None:
    model = CvT(stages=(Stage(embed_dim=8, depth=1, num_heads=1),), num_classes=2)
    with pytest.raises(ValueError, match="CvT has no class token"):
        class_path(model)
    with pytest.raises(ValueError, match="Linear has no class token"):
        class_path(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="attention of Linear is not known"):
        attention_probabilities(nn.Linear(2, 2), paddle.zeros([1, 5, 2]), (2, 2))


@pytest.mark.parametrize(
    ("keys", "tokens", "expected"),
    [
        (2, 4, [[1, 1 / 2, 0, 0], [0, 1 / 2, 1, 1]]),
        (2, 3, [[1, 1 / 2, 0], [0, 1 / 2, 1]]),
        (3, 4, [[1, 1 / 2, 0, 0], [0, 1 / 2, 1, 1 / 2], [0, 0, 0, 1 / 2]]),  # of `avg`, which hangs over
        (3, 3, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_key_weights(keys: int, tokens: int, expected: list[list[float]]) -> None:
    np.testing.assert_allclose(key_weights(keys, tokens), expected, rtol=1e-6)


def test_spread_keys_go_to_the_tokens_that_their_projection_reads() -> None:
    maps = np.zeros((1, 49), np.float32)
    maps[0, 2 * 7 + 5] = 1.0  # key (2, 5) of 7 x 7, in the middle of tokens (4, 10) of 14 x 14
    spread = spread_keys(paddle.to_tensor(maps), (14, 14)).numpy().reshape(14, 14)
    expected = np.zeros((14, 14))
    expected[3:6, 9:12] = np.outer([1, 2, 1], [1, 2, 1]) / 16
    np.testing.assert_allclose(spread, expected, atol=1e-7)

    maps[0] = np.random.default_rng(0).random(49) / 100
    spread = spread_keys(paddle.to_tensor(maps), (14, 14)).numpy()
    np.testing.assert_allclose(spread.sum(), maps.sum(), rtol=1e-5)
    assert spread.reshape(14, 14)[::2, ::2].argmax() == maps.argmax()
    for grid, keys in (((5, 8), 12), ((14, 14), 49), ((14, 14), 64), ((6, 6), 36)):
        even = spread_keys(paddle.full([2, 3, keys], 0.8 / keys), grid).numpy()
        assert even.shape == (2, 3, grid[0] * grid[1])
        np.testing.assert_allclose(even, 0.8 / (grid[0] * grid[1]), rtol=1e-5)
    np.testing.assert_array_equal(spread_keys(paddle.zeros([1, 4]), (4, 4)).numpy(), 0.0)


def test_grids_of_keys() -> None:
    assert key_grid(49, (14, 14)) == (7, 7)
    assert key_grid(64, (14, 14)) == (8, 8)
    assert key_grid(196, (14, 14)) == (14, 14)
    assert key_grid(6, (5, 3)) == (3, 2)
    with pytest.raises(ValueError, match="50 keys are not those of 14 x 14 tokens"):
        key_grid(50, (14, 14))


def test_class_token_maps_leave_out_what_it_pays_itself() -> None:
    probabilities = paddle.to_tensor(np.array([[[[0.4, 0.1, 0.2, 0.3, 0.0]], [[0.0, 0.0, 0.0, 0.0, 1.0]]]], np.float32))
    maps = class_token_maps(probabilities, (2, 2)).numpy()
    np.testing.assert_allclose(maps, [[[[0.1, 0.2], [0.3, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]])


class ClassMaps(nn.Layer):
    """What an export may add to its program: the class attention from what the last block reads."""

    def __init__(self, attn: nn.Layer, grid: tuple[int, int]) -> None:
        super().__init__()
        self.attn, self.grid = attn, grid

    def forward(self, x: Tensor) -> Tensor:
        return class_token_maps(attention_probabilities(self.attn, x, self.grid), self.grid).mean(1)


@pytest.mark.parametrize("family", ["vit", "convit", "cvt"])
def test_class_attention_can_be_written_to_a_program(family: str, tmp_path: Path) -> None:
    attn, x, grid, _ = attention_calls(make(family), make_images(family))[-1]
    layer = ClassMaps(attn, grid)
    layer.eval()
    expected = layer(x).numpy()
    spec = paddle.static.InputSpec([None, *x.shape[1:]], "float32")
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=[spec], full_graph=True), str(tmp_path / "maps"))
    written = paddle.jit.load(str(tmp_path / "maps"))
    np.testing.assert_allclose(written(x).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(written(x[:1]).numpy(), expected[:1], atol=1e-6)  # the batch is open
