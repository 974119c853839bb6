"""The attention of a block as a layer computes it and throws it away: recomputed from what the layer reads.

Nothing here changes a model, and everything but `class_path` can be traced into a program. `class_path` is the one
place that says which blocks lead to the class token; the last of them holds the class attention of the model.

CvT's keys and values are fewer than its tokens: key i stands for the tokens 2i - 1, 2i, 2i + 1 in each direction, which
its projection reads. `spread_keys` gives the attention to keys back to tokens: a token in the middle of a key's window
gets what the key gets, one between two windows the mean of both, and all of it is scaled to the sum that the keys have.
So nothing is lost, nothing moves, and attention that is even over keys is even over tokens.

Legend: B batch, h heads, H W a grid of tokens, N = H W (+ 1 with the class token), T query tokens, S key tokens, P Q
the grid of keys, C embed_dim, d = C / h.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from models.convit import GatedPositionalAttention
from models.cvt import CvT
from models.cvt_layers import Attention
from models.layers import full_precision, map_to_tokens, split_heads, tokens_to_map
from models.transformer import PlainTransformer, SelfAttention, split_parts

Grid = tuple[int, int]
TINY = 1e-12  # instead of a division by 0, where the class token attends to itself alone


@dataclass(frozen=True)
class ClassPath:
    """The blocks of one width and grid that end with the class token's: what maps of a model are about."""

    blocks: tuple[nn.Layer, ...]
    token_block: int  # index of the first of them that has the class token; those before have patches alone

    @property
    def last(self) -> nn.Layer:
        """Returns the block whose class token the classifier reads: its attention is the class attention."""
        return self.blocks[-1]


def class_path(model: nn.Layer) -> ClassPath:
    """Returns a model's blocks on the way to the class token: all of ViT and ConViT, the last stage of CvT.

    CvT's earlier stages have no class token, and other grids. A model without a class token, or of a family that this
    module does not know, is a ValueError.
    """
    if isinstance(model, PlainTransformer):
        return ClassPath(tuple(model.blocks), model.token_block)
    if isinstance(model, CvT) and model.class_token:
        return ClassPath(tuple(getattr(model, f"stage{model.num_stages - 1}").blocks), 0)
    raise ValueError(f"{type(model).__name__} has no class token here, and so no attention of one")


def attention_probabilities(attn: nn.Layer, x: Tensor, grid: Grid) -> Tensor:
    """Returns the weights with which an attention layer sums its values, (B, h, T, S); each row sums to 1.

    attn: the attention of a block of any family. x: what it reads, the block's first norm of its input, (B, N, C).
    grid: H and W of its tokens. The class token, if there is one, is the first query and the first key.
    ConViT's gated layers (arXiv 2103.10697, eq. 7): (1 - sigmoid(lambda)) content + sigmoid(lambda) position.
    """
    if isinstance(attn, SelfAttention):
        q, k, _ = split_parts(attn.qkv(x), 3, attn.num_heads)  # each (B, h, N, d)
        return attn.attend.scores(q, k)
    if isinstance(attn, GatedPositionalAttention):
        q, k = split_parts(attn.qk(x), 2, attn.num_heads)
        with full_precision():
            content_gate, position_gate = attn.gates().unbind(0)
            by_position = position_gate * attn.position_attention()  # (1, h, N, N)
        return content_gate * attn.attend.scores(q, k) + by_position
    if isinstance(attn, Attention):
        q, k = (
            split_heads(_convolved(attn, conv, proj, x, grid), attn.num_heads)
            for conv, proj in ((attn.conv_proj_q, attn.proj_q), (attn.conv_proj_k, attn.proj_k))
        )
        return attn.attend.scores(q, k)  # (B, h, T, d) and (B, h, S, d)
    raise ValueError(f"the attention of {type(attn).__name__} is not known; add it to models/attention_maps.py")


def _convolved(attn: Attention, conv: nn.Layer | None, proj: nn.Layer, x: Tensor, grid: Grid) -> Tensor:
    """CvT's convolutional projection (arXiv 2103.15808, eq. 2): (B, N, C) -> (B, T, C) or (B, S, C)."""
    tokens = x[:, 1:] if attn.cls_token else x
    y = tokens if conv is None else map_to_tokens(conv(tokens_to_map(tokens, *grid)))
    return proj(paddle.concat([x[:, :1], y], axis=1) if attn.cls_token else y)


def key_grid(num_keys: int, grid: Grid) -> Grid:
    """Returns P and Q of the keys of a layer (without the class token) whose tokens have a grid H, W.

    Keys are as many as the tokens, or every second each way: (H + 1) // 2, or one more of even sides with the
    projection `avg`, which hangs over. Another number is a ValueError.
    """
    height, width = grid
    for rows, columns in (grid, ((height + 1) // 2, (width + 1) // 2), (height // 2 + 1, width // 2 + 1)):
        if rows * columns == num_keys:
            return rows, columns
    raise ValueError(f"{num_keys} keys are not those of {height} x {width} tokens")


def key_weights(num_keys: int, num_tokens: int) -> np.ndarray:
    """Returns the part of each key in what a token gets, in one direction, float32 (keys, tokens); columns sum to 1.

    Key i is at token 2i, and a token between two keys has half of each. As many keys as tokens: the identity.
    """
    if num_keys == num_tokens:
        return np.eye(num_tokens, dtype=np.float32)
    distance = np.abs(np.arange(num_tokens)[None, :] / 2 - np.arange(num_keys)[:, None])  # in keys
    weights = np.clip(1.0 - distance, 0.0, None)
    return (weights / weights.sum(0, keepdims=True)).astype(np.float32)  # the last token may be between one and none


def spread_keys(attention: Tensor, grid: Grid) -> Tensor:
    """Attention to keys -> to tokens, whose sum is the same: (..., P Q) without the class token -> (..., H W)."""
    rows, columns = key_grid(attention.shape[-1], grid)
    if (rows, columns) == grid:
        return attention
    leading = list(attention.shape[:-1])
    leading[0] = -1  # the batch may be open
    by_row = paddle.to_tensor(key_weights(rows, grid[0]).T.copy())  # (H, P)
    by_column = paddle.to_tensor(key_weights(columns, grid[1]))  # (Q, W)
    maps = attention.reshape([*leading, rows, columns])  # (..., P Q) -> (..., P, Q)
    spread = (by_row @ maps @ by_column).reshape([*leading, grid[0] * grid[1]])  # (..., H, W) -> (..., H W)
    return spread * (_total(attention) / (_total(spread) + TINY))


def _total(x: Tensor) -> Tensor:
    """(..., S) -> (..., 1). As a product, because `paddle.sum` cannot be exported to the `.pdmodel` format."""
    return x @ paddle.ones([x.shape[-1], 1])


def class_token_maps(probabilities: Tensor, grid: Grid) -> Tensor:
    """Returns the class token's attention to the tokens, by head: (B, h, T, S) -> (B, h, H, W).

    T may be 1, of the class token alone. The rest to 1 of each map's sum is the class token's attention to itself.
    """
    num_heads = probabilities.shape[1]
    to_keys = probabilities[:, :, 0, 1:]  # (B, h, T, S) -> (B, h, S - 1)
    return spread_keys(to_keys, grid).reshape([-1, num_heads, grid[0], grid[1]])


def mean_class_map(probabilities: Tensor, grid: Grid) -> Tensor:
    """Returns the mean of `class_token_maps` over the heads: (B, h, T, S) -> (B, H, W).

    As a product: for a mean, Paddle Inference 3.3.1 prints a word to standard output.
    """
    maps = class_token_maps(probabilities, grid)
    num_heads = maps.shape[1]
    mean = paddle.full([1, num_heads], 1.0 / num_heads)
    return (mean @ maps.flatten(2)).reshape([-1, grid[0], grid[1]])  # (1, h) @ (B, h, H W) -> (B, 1, H W) -> (B, H, W)


class Attended(nn.Layer):
    """A model with a second output: images (B, in_chans, H_in, W_in) -> logits (B, K), class attention (B, H, W).

    The map is `mean_class_map` of the last block; the model and its logits are as they were. Without a class token it
    is a ValueError.
    """

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model
        self.last_attn = (class_path(model).last.attn,)  # in a tuple: a layer's own would have its weights twice

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attn = self.last_attn[0]
        called: list[tuple[Any, ...]] = []

        def keep(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
            called.append(inputs)

        hook = attn.register_forward_pre_hook(keep)
        try:
            logits = self.model(x)
        finally:
            hook.remove()
        inputs = called[0]  # tokens (B, N, C), and of CvT the grid
        grid = self.model.patch_embed.grid_size if len(inputs) == 1 else (inputs[1], inputs[2])
        return logits, mean_class_map(attention_probabilities(attn, inputs[0], grid), grid)
