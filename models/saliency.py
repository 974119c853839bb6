"""What a model looks at, on its grid of tokens: class attention, attention rollout, Grad-CAM, ConViT's positions.

All are about a model in evaluation mode and in float32, and leave it as it is: `watch` runs it once and keeps what the
attention layers on the way to the class token read; everything else is computed from that.

Legend: B batch, h heads, H W the grid of tokens, N = H W + 1 tokens, the class token first, C embed_dim, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models.attention_maps import (
    ClassPath,
    Grid,
    attention_probabilities,
    class_path,
    class_token_maps,
    spread_keys,
)
from models.convit import ConViT, GatedPositionalAttention


@dataclass(frozen=True)
class Watched:
    """One forward pass: the logits (B, K), and what the blocks on the way to the class token have read."""

    model: nn.Layer
    path: ClassPath
    grid: Grid
    logits: Tensor
    read: tuple[Tensor, ...]  # by each block's attention: its first norm of its input, (B, N, C) or (B, H W, C)
    last_input: tuple[Any, ...]  # what the last block was called with: tokens (B, N, C), and what else it takes


@paddle.no_grad()
def watch(model: nn.Layer, images: Tensor) -> Watched:
    """Runs a model on images (B, in_chans, H, W) and keeps what maps are computed from.

    A model in training, without a class token or without a head is a ValueError.
    """
    path = class_path(model)
    if model.training:
        raise ValueError("maps are of a model in evaluation mode; call eval() first")
    if model.head is None:
        raise ValueError("this model has no head, and so no classes; build it with num_classes and no features_only")
    read: list[Tensor] = []
    called: list[tuple[Any, ...]] = []

    def keep(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0])

    def keep_call(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
        called.append(inputs)

    hooks = [block.attn.register_forward_pre_hook(keep) for block in path.blocks]
    hooks.append(path.last.register_forward_pre_hook(keep_call))
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return Watched(model, path, _grid(model, called[0]), logits, tuple(read), called[0])


def _grid(model: nn.Layer, call: Sequence[Any]) -> Grid:
    """Returns H and W: CvT's blocks are called with them, those of ConViT and ViT have one grid for all images."""
    if isinstance(call[1], int):
        return call[1], call[2]
    return model.patch_embed.grid_size


@paddle.no_grad()
def class_attention(watched: Watched) -> np.ndarray:
    """Returns the class token's attention in the last block, by head: float32 (B, h, H, W).

    The rest to 1 of a map's sum is the class token's attention to itself. CvT's is spread from keys to tokens.
    """
    last = watched.path.last.attn
    return class_token_maps(attention_probabilities(last, watched.read[-1], watched.grid), watched.grid).numpy()


@paddle.no_grad()
def rollout(watched: Watched) -> np.ndarray:
    """Returns attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928, eq. 1), float32 (B, H, W).

    With A the mean of a block's heads, and I for the residual branch: the product over the blocks of (A + I) / 2, whose
    rows sum to 1, the last block's on the left; of it the class token's row over the patches. In blocks before the
    class token joins (ConViT's gated ones) it attends to itself. CvT's keys are spread to tokens; its earlier stages
    are not in it: they have no class token, and other grids.
    """
    height, width = watched.grid
    identity = paddle.eye(height * width + 1)
    row = identity[:1].unsqueeze(0)  # (1, 1, N): of the class token; from the left, no product of matrices is needed
    for i in reversed(range(len(watched.path.blocks))):
        attn, read = watched.path.blocks[i].attn, watched.read[i]
        attention = attention_probabilities(attn, read, watched.grid).mean(1)  # (B, h, T, S) -> (B, T, S)
        if i < watched.path.token_block:
            attention = F.pad(attention, [0, 0, 1, 0, 1, 0])  # (B, H W, H W) -> (B, N, N)
            attention[:, 0, 0] = 1.0
        else:
            patches = spread_keys(attention[:, :, 1:], watched.grid)  # (B, N, S - 1) -> (B, N, H W)
            attention = paddle.concat([attention[:, :, :1], patches], axis=2)
        row = row @ (0.5 * (attention + identity))
    return row[:, 0, 1:].reshape([-1, height, width]).numpy()  # (B, 1, N) -> (B, H, W)


def grad_cam(watched: Watched, class_ids: Sequence[int]) -> np.ndarray:
    """Returns Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 and 2) for a class an image, float32 (B, H, W).

    The activations are what the last block's attention reads, its first norm of the patches: behind it, only the class
    token has a gradient. With g the gradient of the class's logit there, each channel weighs its mean of g over the
    patches; what is negative of the weighted sum is cut to 0, so a map may be 0 everywhere. No parameter gets a
    gradient. A class that the model does not have is a ValueError.
    """
    num_classes = watched.logits.shape[1]
    if len(class_ids) != watched.logits.shape[0] or not all(0 <= i < num_classes for i in class_ids):
        raise ValueError(f"a class in [0, {num_classes}) an image; got {list(class_ids)}")
    tokens = watched.read[-1].detach()  # (B, N, C)
    tokens.stop_gradient = False
    model, last = watched.model, watched.path.last

    def put_tokens(layer: nn.Layer, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return tokens

    hook = last.norm1.register_forward_post_hook(put_tokens)
    try:
        with paddle.enable_grad():
            logits = model.forward_head(model.norm(last(*watched.last_input)))
    finally:
        hook.remove()
    chosen = logits.take_along_axis(paddle.to_tensor(np.array(class_ids, np.int64)[:, None]), 1).sum()
    # Paddle 3.3.1's LayerNorm on a CPU leaves its weight out of the gradient of its input unless both are asked for
    gradient, *_ = paddle.grad(chosen, [tokens, *last.norm2.parameters(), *model.norm.parameters()])
    patches, weights = tokens.detach()[:, 1:], gradient[:, 1:].mean(1, keepdim=True)  # (B, H W, C), (B, 1, C)
    maps = F.relu((patches * weights).sum(-1))  # (B, H W)
    return maps.reshape([-1, *watched.grid]).numpy()


def compute_map(kind: str, watched: Watched, class_ids: Sequence[int]) -> np.ndarray:
    """Returns the maps of a kind: `class_attention` by head (B, h, H, W), `rollout` and `grad_cam` (B, H, W).

    class_ids: what Grad-CAM explains, a class an image. Another kind is a ValueError.
    """
    if kind == "class_attention":
        return class_attention(watched)
    if kind == "rollout":
        return rollout(watched)
    if kind == "grad_cam":
        return grad_cam(watched, class_ids)
    raise ValueError(f"a kind of map is class_attention, rollout or grad_cam; got {kind!r}")


def gated_layers(model: nn.Layer) -> list[GatedPositionalAttention]:
    """Returns the gated attention layers of a ConViT in order; of another model, none."""
    if not isinstance(model, ConViT):
        return []
    return [block.attn for block in model.blocks if isinstance(block.attn, GatedPositionalAttention)]


@paddle.no_grad()
def gates(model: nn.Layer) -> np.ndarray:
    """Returns sigmoid(lambda) of each gated layer and head, float32 (L, h): 1 attends by position alone, 0 by content.

    ConViT (arXiv 2103.10697), eq. 7. Without a gated layer this is a ValueError.
    """
    return np.stack([layer.gates()[1].flatten().numpy() for layer in _require_gated(model)])


@paddle.no_grad()
def position_maps(model: nn.Layer) -> np.ndarray:
    """Returns the attention by position of the patch at (H // 2, W // 2), by layer and head, float32 (L, h, H, W).

    ConViT (arXiv 2103.10697), eq. 6: softmax of v_pos r; the same for every image. Each map sums to 1. Without a gated
    layer this is a ValueError.
    """
    layers = _require_gated(model)
    height, width = model.patch_embed.grid_size
    query = (height // 2) * width + width // 2
    maps = [layer.position_attention()[0, :, query].numpy() for layer in layers]  # (1, h, N, N) -> (h, N)
    return np.stack(maps).reshape(len(layers), -1, height, width)


def _require_gated(model: nn.Layer) -> list[GatedPositionalAttention]:
    layers = gated_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no gates: only ConViT has")
    return layers
