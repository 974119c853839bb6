"""What ViT and ConViT share: one width from the first block to the last, over patches that do not overlap.

Legend: B batch, C embed_dim, H W the grid of patches, N = H W tokens (+ 1 with the class token), h heads, d = C / h.
"""

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from models.layers import (
    ACTIVATIONS,
    Keep,
    LayerNorm,
    Linear,
    Mlp,
    ScaledDotProduct,
    StochasticDepth,
    add_branch,
    gelu,
    map_to_tokens,
    merge_heads,
    normal_,
    recompute_block,
    tokens_to_map,
    uniform_fan_in_,
)

NORM_EPS = 1e-6  # of timm and of the papers' own code; Paddle's is 1e-5
NUM_FEATURE_MAPS = 4


class PatchEmbed(nn.Layer):
    """Linear map of each patch: images (B, in_chans, patch_size H, patch_size W) -> tokens (B, H W, C)."""

    def __init__(self, *, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        if any(side < patch_size or side % patch_size for side in img_size):
            raise InputSizeError(
                f"img_size {img_size[0]} x {img_size[1]} is not made of patches of {patch_size} x {patch_size}; "
                f"use multiples of {patch_size}"
            )
        self.img_size = img_size
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.proj = nn.Conv2D(in_chans, embed_dim, patch_size, stride=patch_size)
        fan_in = in_chans * patch_size**2
        uniform_fan_in_(self.proj.weight, fan_in)
        uniform_fan_in_(self.proj.bias, fan_in)

    def forward(self, x: Tensor) -> Tensor:
        if (x.shape[2], x.shape[3]) != self.img_size:
            raise InputSizeError(
                f"this model is built for images of {self.img_size[0]} x {self.img_size[1]}, got {x.shape[2]} x "
                f"{x.shape[3]}; build it with img_size=({x.shape[2]}, {x.shape[3]})"
            )
        return map_to_tokens(self.proj(x))


class InputSizeError(ValueError):
    """Images of this size do not fit the model."""

    exit_code = 2  # of a script that was asked for it


class SelfAttention(nn.Layer):
    """Multi-head self-attention (arXiv 1706.03762), (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool, drop_rate: float, attn_drop_rate: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.attend = ScaledDotProduct(scale=head_dim(dim, num_heads) ** -0.5, drop_rate=attn_drop_rate)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_parts(self.qkv(x), 3, self.num_heads)  # each (B, h, N, d)
        return self.proj_drop(self.proj(merge_heads(self.attend(q, k, v))))


def head_dim(dim: int, num_heads: int) -> int:
    """Returns the width of a head. A dim that the heads cannot share is a ValueError."""
    if dim % num_heads:
        raise ValueError(f"embed_dim {dim} is not a multiple of num_heads {num_heads}")
    return dim // num_heads


def split_parts(x: Tensor, parts: int, num_heads: int) -> list[Tensor]:
    """Fused projections (B, N, parts C) -> `parts` tensors (B, h, N, d)."""
    dim = x.shape[2] // parts
    x = x.reshape([0, 0, parts, num_heads, dim // num_heads])  # (B, N, parts C) -> (B, N, parts, h, d)
    return x.transpose([2, 0, 3, 1, 4]).unbind(0)  # -> parts x (B, h, N, d)


class Block(nn.Layer):
    """Pre-norm transformer block around any attention layer, (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, attn: nn.Layer, *, mlp_ratio: float, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = attn
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop_rate, gelu)

    def forward(self, x: Tensor, keep: Keep = (None, None)) -> Tensor:
        x = add_branch(x, self.attn(self.norm1(x)), keep[0])
        return add_branch(x, self.mlp(self.norm2(x)), keep[1])


class PlainTransformer(nn.Layer):
    """Patches, a table of positions, blocks, and the class token's logits: (B, in_chans, H, W) -> (B, num_classes).

    patch_embed, blocks: as the family builds them.
    token_block: index of the block before which the class token joins. At 0 it joins before the positions are added,
        and has a position of its own.
    num_classes: 0 leaves the head out: the output is the class token's features (B, C).
    drop_path_rate: stochastic depth of the last block; it rises linearly from 0 at the first.
    features_only: return four maps (B, C, H, W) instead, after each quarter of the blocks, without the class token.

    The table of positions belongs to one image size: build the model with the size that it is to see.
    """

    def __init__(
        self,
        patch_embed: PatchEmbed,
        blocks: Sequence[Block],
        *,
        token_block: int,
        num_classes: int,
        drop_rate: float,
        drop_path_rate: float,
        features_only: bool,
    ) -> None:
        super().__init__()
        height, width = patch_embed.grid_size
        self.num_classes = num_classes
        self.num_features = int(patch_embed.proj.weight.shape[0])
        self.token_block = token_block
        self.features_only = features_only
        self.grad_checkpointing = False
        self.patch_embed = patch_embed
        self.cls_token = self.create_parameter([1, 1, self.num_features])
        self.pos_embed = self.create_parameter([1, height * width + (token_block == 0), self.num_features])
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList(blocks)
        self.stochastic_depth = StochasticDepth(np.linspace(0.0, drop_path_rate, len(blocks)).tolist())
        self.norm = nn.Identity() if features_only else LayerNorm(self.num_features)
        has_head = num_classes > 0 and not features_only
        self.head = Linear(self.num_features, num_classes) if has_head else None
        self.set_numerics(act="gelu", norm_eps=NORM_EPS)
        self._init_weights()

    def _init_weights(self) -> None:
        normal_(self.cls_token)
        normal_(self.pos_embed)
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight)
                if layer.bias is not None:
                    nn.initializer.Constant(0.0)(layer.bias)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters that weight decay must leave alone besides biases and norms."""
        return {"cls_token", "pos_embed"}

    def layer_order(self) -> list[tuple[str, ...]]:
        """Returns the layers from the input to the head, each as beginnings of parameter names.

        The patches with class token and positions are the first; each block is one; the last norm and the head are one.
        """
        blocks = [(f"blocks.{i}",) for i in range(len(self.blocks))]
        return [("patch_embed", "cls_token", "pos_embed"), *blocks, ("norm", "head")]

    def position_tables(self) -> dict[str, tuple[int, tuple[int, int]]]:
        """Returns, by parameter name, the number of extra tokens that come first, and the grid (height, width)."""
        return {"pos_embed": (int(self.token_block == 0), self.patch_embed.grid_size)}

    def numerics(self) -> dict[str, str | float]:
        """Returns what `set_numerics` takes, as it is."""
        return {"act": self.act, "norm_eps": self.norm_eps}

    def set_numerics(self, *, act: str, norm_eps: float) -> None:
        """Sets in what implementations of one architecture differ, and what weights are therefore bound to.

        act: `gelu`, exact, or `gelu_tanh`, its approximation. norm_eps: the epsilon of the layer norms. With another
        choice than they were trained with, logits move by about 1e-3. An unknown act is a ValueError.
        """
        if act not in ACTIVATIONS:
            raise ValueError(f"act is one of {', '.join(ACTIVATIONS)}; got {act!r}")
        self.act, self.norm_eps = act, norm_eps
        for layer in self.sublayers():
            if isinstance(layer, Mlp):
                layer.activation = ACTIVATIONS[act]
            elif isinstance(layer, nn.LayerNorm):
                layer._epsilon = norm_eps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations; only in training."""
        self.grad_checkpointing = enable

    def _join_class_token(self, x: Tensor) -> Tensor:
        return paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)  # (B, H W, C) -> (B, N, C)

    def _run_blocks(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> the tokens after each block, (B, N, C), or (B, H W, C) before the token."""
        x = self.patch_embed(x)
        if self.token_block == 0:
            x = self._join_class_token(x)
        x = self.pos_drop(x + self.pos_embed)
        recomputed = self.grad_checkpointing and self.training
        outputs = []
        keeps = self.stochastic_depth(x.shape[0])
        for i, block in enumerate(self.blocks):  # what writes programs knows no zip(strict=True)
            if i == self.token_block > 0:
                x = self._join_class_token(x)
            x = recompute_block(block, x, (keeps[i],)) if recomputed else block(x, keeps[i])
            outputs.append(x)
        return outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> normalised tokens (B, N, C), the class token first."""
        return self.norm(self._run_blocks(x)[-1])

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> logits (B, num_classes), or the class token's features (B, C) without a head."""
        x = tokens[:, 0]
        return x if self.head is None else self.head(x)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> the map (B, C, H, W) after each quarter of the blocks."""
        depth = len(self.blocks)
        outputs = self._run_blocks(x)
        last = sorted({(i + 1) * depth // NUM_FEATURE_MAPS - 1 for i in range(NUM_FEATURE_MAPS)} - {-1})
        return [
            tokens_to_map(outputs[i][:, 1:] if i >= self.token_block else outputs[i], *self.patch_embed.grid_size)
            for i in last
        ]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if self.features_only:
            return self.forward_maps(x)
        return self.forward_head(self.forward_features(x))
