"""CvT's parts (arXiv 2103.15808): token embedding, convolutional projections, attention, block; `cvt.py` joins them.

Legend: B batch, C embed_dim, H W the stage's token grid, N = H W tokens (+ 1 with the class token), T query tokens,
S key and value tokens (fewer than T: their projection has stride 2).
"""

from dataclasses import dataclass
from typing import Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models.layers import (
    Conv2D,
    DepthwiseConv2D,
    Keep,
    LayerNorm,
    Linear,
    Mlp,
    MultiHeadProduct,
    add_branch,
    map_to_tokens,
    quick_gelu,
    tokens_to_map,
    uniform_fan_in_,
)

ProjectionMethod = Literal["dw_bn", "avg", "linear"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of CvT's stages: a convolutional token embedding and `depth` transformer blocks."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 3
    patch_stride: int = 2
    patch_padding: int = 1
    mlp_ratio: float = 4.0
    cls_token: bool = False


class ConvEmbed(nn.Layer):
    """Convolutional token embedding, section 3.1: (B, C_in, H_in, W_in) -> normalised tokens (B, H W, C), H, W."""

    def __init__(self, in_chans: int, stage: Stage) -> None:
        super().__init__()
        self.proj = Conv2D(
            in_chans, stage.embed_dim, stage.patch_size, stride=stage.patch_stride, padding=stage.patch_padding
        )
        self.norm = LayerNorm(stage.embed_dim)
        fan_in = in_chans * stage.patch_size**2
        uniform_fan_in_(self.proj.weight, fan_in)
        uniform_fan_in_(self.proj.bias, fan_in)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        height, width = x.shape[2], x.shape[3]
        return self.norm(map_to_tokens(x)), height, width


class DepthwiseProjection(nn.Layer):
    """Depth-wise 3x3 convolution and BatchNorm, section 3.2: (B, C, H, W) -> (B, C, H / stride, W / stride)."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = DepthwiseConv2D(dim, stride)
        self.bn = nn.BatchNorm2D(dim)
        uniform_fan_in_(self.conv.weight, fan_in=9)  # one input channel a group

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class AvgProjection(nn.Layer):
    """3x3 average pooling instead of the convolution: (B, C, H, W) -> (B, C, ceil((H - 1) / 2) + 1, ...) at stride 2.

    The reference rounds the size up and counts the zero padding, but not what hangs over it. oneDNN divides such a
    window by 9 all the same; so both the image and its extent are padded and pooled here, and the 9 cancels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        extent = paddle.ones([1, 1, x.shape[2] + 2, x.shape[3] + 2], dtype=x.dtype)
        total = F.avg_pool2d(F.pad(x, [1, 2, 1, 2]), 3, stride=self.stride)
        return total / F.avg_pool2d(F.pad(extent, [0, 1, 0, 1]), 3, stride=self.stride)


def _projection(method: ProjectionMethod, dim: int, stride: int) -> nn.Layer | None:
    if method == "dw_bn":
        return DepthwiseProjection(dim, stride)
    if method == "avg":
        return AvgProjection(stride)
    if method == "linear":
        return None
    raise ValueError(f"qkv_proj_method is one of dw_bn, avg, linear; got {method!r}")


class Attention(nn.Layer):
    """Multi-head attention with convolutional projections, section 3.2: (B, N, C) -> (B, N, C)."""

    def __init__(self, stage: Stage, *, method: ProjectionMethod, drop_rate: float, attn_drop_rate: float) -> None:
        super().__init__()
        dim = stage.embed_dim
        if dim % stage.num_heads:
            raise ValueError(f"embed_dim {dim} is not a multiple of num_heads {stage.num_heads}")
        self.num_heads = stage.num_heads
        self.cls_token = stage.cls_token
        # the queries are never pooled: with "avg" the reference takes the tokens as they are
        self.conv_proj_q = _projection("linear" if method == "avg" else method, dim, stride=1)
        self.conv_proj_k = _projection(method, dim, stride=2)
        self.conv_proj_v = _projection(method, dim, stride=2)
        self.proj_q = Linear(dim, dim)
        self.proj_k = Linear(dim, dim)
        self.proj_v = Linear(dim, dim)
        self.attend = MultiHeadProduct(stage.num_heads, scale=dim**-0.5, drop_rate=attn_drop_rate)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        cls_token, tokens = x.split([1, height * width], axis=1) if self.cls_token else (None, x)
        image = tokens_to_map(tokens, height, width)

        def project(conv_proj: nn.Layer | None, proj: nn.Linear) -> Tensor:
            y = tokens if conv_proj is None else map_to_tokens(conv_proj(image))
            return proj(y if cls_token is None else paddle.concat([cls_token, y], axis=1))

        q = project(self.conv_proj_q, self.proj_q)  # (B, T, C)
        k = project(self.conv_proj_k, self.proj_k)  # (B, S, C)
        v = project(self.conv_proj_v, self.proj_v)  # (B, S, C)
        return self.proj_drop(self.proj(self.attend(q, k, v)))


class Block(nn.Layer):
    """Pre-norm transformer block on tokens, (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        stage: Stage,
        *,
        method: ProjectionMethod,
        drop_rate: float,
        attn_drop_rate: float,
    ) -> None:
        super().__init__()
        dim = stage.embed_dim
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(stage, method=method, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * stage.mlp_ratio), drop_rate, quick_gelu)

    def forward(self, x: Tensor, height: int, width: int, keep: Keep = (None, None)) -> Tensor:
        x = add_branch(x, self.attn(self.norm1(x), height, width), keep[0])
        return add_branch(x, self.mlp(self.norm2(x)), keep[1])
