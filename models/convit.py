"""ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases (d'Ascoli et al., arXiv 2103.10697).

Written from the paper, with timm's parameter names and outputs. What is not in the paper: keys, queries and values have
no bias, and the heads of a square number k^2 stand on a k x k grid of offsets whose middle is k // 2 for odd k and
(k - 1) / 2 for even k.

Legend: B batch, C embed_dim, H W the grid of patches, N = H W patches, h heads, d = C / h.
"""

import math
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models.layers import AttentionProduct, Linear, can_fuse, full_precision, merge_heads, split_heads
from models.registry import ModelInfo, register_model
from models.transformer import Block, InputSizeError, PatchEmbed, PlainTransformer, SelfAttention, head_dim, split_parts

MAX_PATCHES = 4096  # of images of 1024 x 1024; relative positions and maps grow with the square


def relative_positions(height: int, width: int) -> np.ndarray:
    """Returns r (1, N, N, 3): for each query and key, the x and y from one to the other, and their square distance."""
    y, x = np.divmod(np.arange(height * width), width)
    delta_x, delta_y = x[None, :] - x[:, None], y[None, :] - y[:, None]  # (query, key)
    return np.stack([delta_x, delta_y, delta_x**2 + delta_y**2], axis=-1)[None].astype(np.float32)


class GatedProduct(AttentionProduct):
    """((1 - g) softmax(scale q k^T) + g P) v: q, k, v (B, h, N, d), P (1, h, N, N), g (1, h, 1, 1) -> (B, h, N, d).

    Each row of both maps sums to 1, and so does each row of their weighted sum, which needs no normalisation.
    gates: 1 - g and g, stacked (2, 1, h, 1, 1).
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, position_attn: Tensor, gates: Tensor) -> Tensor:
        content_gate, position_gate = gates.unbind(0)
        if can_fuse(q) and not (self.training and self.drop.p):  # dropout is on the weighted sum of both maps
            return content_gate * self.fused_by_head(q, k, v) + _attend_all(position_gate * position_attn, v)
        attn = content_gate * self.scores(q, k) + position_gate * position_attn  # (B, h, N, N)
        return self.drop(attn) @ v


def _attend_all(attn: Tensor, v: Tensor) -> Tensor:
    """One map for all images: attn (1, h, N, N), v (B, h, N, d) -> (B, h, N, d).

    With the images beside the channels it is one product a head, whose backward pass makes no map for each image.
    """
    batch, num_heads, tokens, dim = v.shape
    v = v.transpose([1, 2, 0, 3]).reshape([num_heads, tokens, batch * dim])  # (B, h, N, d) -> (h, N, B d)
    x = attn.squeeze(0) @ v  # (h, N, N) @ (h, N, B d)
    return x.reshape([num_heads, tokens, batch, dim]).transpose([2, 0, 1, 3])  # (h, N, B d) -> (B, h, N, d)


class PositionProjection(nn.Linear):
    """Scores of the relative positions r (1, N, N, 3): each head's v_pos r, as maps (1, h, N, N).

    As einsum: Paddle Inference ends in a segmentation fault (repeated_fc_relu_fuse_pass, 3.3.1) when the input of a
    plain linear layer is a constant.
    """

    def forward(self, positions: Tensor) -> Tensor:
        return paddle.einsum("bqkc,ch->bhqk", positions, self.weight) + self.bias.reshape([1, -1, 1, 1])


class GatedPositionalAttention(nn.Layer):
    """Gated positional self-attention: a gate weighs each head's attention by content against that by position.

    (B, N, C) -> (B, N, C), over patches alone. positions: `relative_positions` of their grid, (1, N, N, 3).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        positions: Tensor,
        locality_strength: float,
        drop_rate: float,
        attn_drop_rate: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.locality_strength = locality_strength
        self.qk = nn.Linear(dim, 2 * dim, bias_attr=False)
        self.v = nn.Linear(dim, dim, bias_attr=False)
        self.pos_proj = PositionProjection(3, num_heads)  # its bias is cancelled by softmax
        self.gating_param = self.create_parameter([num_heads], default_initializer=nn.initializer.Constant(1.0))
        self.attend = GatedProduct(scale=head_dim(dim, num_heads) ** -0.5, drop_rate=attn_drop_rate)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)
        self.register_buffer("positions", positions, persistable=False)  # follows from the grid, not from training

    def init_as_convolution(self) -> None:
        """Starts as a convolution: v the identity, each head centred on its own offset."""
        nn.initializer.Assign(np.eye(self.v.weight.shape[0], dtype=np.float32))(self.v.weight)
        x, y = head_offsets(self.num_heads)
        alpha = self.locality_strength  # v_pos = -alpha (1, -2 offset) peaks at the offset
        weight = alpha * np.stack([2 * x, 2 * y, -np.ones_like(x)]).astype(np.float32)  # (3, h)
        nn.initializer.Assign(weight)(self.pos_proj.weight)

    def position_attention(self) -> Tensor:
        """Returns the attention by position alone (1, h, N, N); it is the same for every image."""
        return F.softmax(self.pos_proj(self.positions), axis=-1)

    def gates(self) -> Tensor:
        """Returns 1 - sigmoid(lambda) and sigmoid(lambda), stacked: (2, 1, h, 1, 1).

        As a two-way softmax, because `F.sigmoid` cannot be exported to the `.pdmodel` format.
        """
        half = 0.5 * self.gating_param.reshape([1, 1, self.num_heads, 1, 1])
        return F.softmax(paddle.concat([-half, half]), axis=0)

    def forward(self, x: Tensor) -> Tensor:
        q, k = split_parts(self.qk(x), 2, self.num_heads)
        v = split_heads(self.v(x), self.num_heads)
        with full_precision():  # half precision holds neither large square distances nor small updates of a gate
            position_attn, gates = self.position_attention(), self.gates()
        x = self.attend(q, k, v, position_attn.astype(v.dtype), gates.astype(v.dtype))
        return self.proj_drop(self.proj(merge_heads(x)))


def head_offsets(num_heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the x and y, in patches, on which each head is centred: h = k^2 of them, in rows of k along y.

    For even k they lie between patches. A number of heads that is no square is a ValueError.
    """
    k = math.isqrt(num_heads)
    if k * k != num_heads:
        raise ValueError(f"num_heads {num_heads} is not a square: the heads stand on a square grid of offsets")
    centre = k // 2 if k % 2 else (k - 1) / 2
    x, y = np.divmod(np.arange(num_heads), k)
    return x - centre, y - centre


class ConViT(PlainTransformer):
    """Convolutional vision transformer with gates: images (B, in_chans, *img_size) -> logits (B, num_classes).

    local_up_to_layer: number of GPSA layers; the class token joins the patches after them.
    locality_strength: alpha; larger is more like a convolution.
    drop_rate: dropout after the positions, each projection and within the MLPs.
    drop_path_rate: largest rate of stochastic depth, which rises linearly over the blocks.
    num_classes, features_only: see PlainTransformer.
    """

    def __init__(
        self,
        *,
        img_size: tuple[int, int],
        embed_dim: int,
        num_heads: int,
        patch_size: int = 16,
        depth: int = 12,
        local_up_to_layer: int = 10,
        locality_strength: float = 1.0,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        features_only: bool = False,
    ) -> None:
        if not 0 < local_up_to_layer < depth:
            raise ValueError(f"local_up_to_layer is at least 1 and below the depth {depth}; got {local_up_to_layer}")
        patch_embed = PatchEmbed(img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
        num_patches = math.prod(patch_embed.grid_size)
        if num_patches > MAX_PATCHES:
            raise InputSizeError(
                f"img_size {img_size[0]} x {img_size[1]} makes {num_patches} patches, each compared with each; ConViT "
                f"takes up to {MAX_PATCHES}"
            )
        positions = paddle.to_tensor(relative_positions(*patch_embed.grid_size))  # one for all layers

        def attention(i: int) -> nn.Layer:
            if i < local_up_to_layer:
                return GatedPositionalAttention(
                    embed_dim,
                    num_heads,
                    positions=positions,
                    locality_strength=locality_strength,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                )
            return SelfAttention(
                embed_dim, num_heads, qkv_bias=False, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate
            )

        blocks = [Block(embed_dim, attention(i), mlp_ratio=mlp_ratio, drop_rate=drop_rate) for i in range(depth)]
        super().__init__(
            patch_embed,
            blocks,
            token_block=local_up_to_layer,
            num_classes=num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            features_only=features_only,
        )
        for block in blocks[:local_up_to_layer]:
            block.attn.init_as_convolution()


INPUT = ModelInfo()


@register_model(ConViT, INPUT)
def convit_tiny() -> dict[str, Any]:
    return {"embed_dim": 192, "num_heads": 4}


@register_model(ConViT, INPUT)
def convit_tiny_plus() -> dict[str, Any]:
    return {"embed_dim": 256, "num_heads": 4}


@register_model(ConViT, INPUT)
def convit_small() -> dict[str, Any]:
    return {"embed_dim": 432, "num_heads": 9}


@register_model(ConViT, INPUT)
def convit_small_plus() -> dict[str, Any]:
    return {"embed_dim": 576, "num_heads": 9}


@register_model(ConViT, INPUT)
def convit_base() -> dict[str, Any]:
    return {"embed_dim": 768, "num_heads": 16}


@register_model(ConViT, INPUT)
def convit_base_plus() -> dict[str, Any]:
    return {"embed_dim": 1024, "num_heads": 16}
