"""CvT: Introducing Convolutions to Vision Transformers (Wu et al. 2021, arXiv 2103.15808).

Written from the paper; behaviour and parameter names follow microsoft/CvT so that its weights load unchanged. What the
reference does and the paper does not say: the attention scale is embed_dim ** -0.5 (not the head's), the activation is
QuickGELU, the class token bypasses the convolutional projections, and stochastic depth acts in the last stage only.

Legend: B batch, C embed_dim, H W the stage's token grid, N = H W tokens (+ 1 with the class token), h heads, d = C / h.
T query tokens, S key and value tokens (fewer than T: their projection has stride 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models.layers import (
    Conv2D,
    DepthwiseConv2D,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    ScaledDotProduct,
    map_to_tokens,
    merge_heads,
    normal_,
    quick_gelu,
    recompute_block,
    split_heads,
    tokens_to_map,
    uniform_fan_in_,
)
from models.registry import ModelInfo, register_model

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
        self.attend = ScaledDotProduct(scale=dim**-0.5, drop_rate=attn_drop_rate)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        cls_token = x[:, :1] if self.cls_token else None
        tokens = x[:, 1:] if self.cls_token else x
        image = tokens_to_map(tokens, height, width)

        def project(conv_proj: nn.Layer | None, proj: nn.Linear) -> Tensor:
            y = tokens if conv_proj is None else map_to_tokens(conv_proj(image))
            if cls_token is not None:
                y = paddle.concat([cls_token, y], axis=1)
            return split_heads(proj(y), self.num_heads)

        q = project(self.conv_proj_q, self.proj_q)  # (B, h, T, d)
        k = project(self.conv_proj_k, self.proj_k)  # (B, h, S, d)
        v = project(self.conv_proj_v, self.proj_v)  # (B, h, S, d)
        x = merge_heads(self.attend(q, k, v))  # (B, h, T, d) -> (B, T, C)
        return self.proj_drop(self.proj(x))


class Block(nn.Layer):
    """Pre-norm transformer block on tokens, (B, N, C) -> (B, N, C)."""

    def __init__(
        self,
        stage: Stage,
        *,
        method: ProjectionMethod,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        dim = stage.embed_dim
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(stage, method=method, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * stage.mlp_ratio), drop_rate, quick_gelu)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class CvTStage(nn.Layer):
    """Token embedding and blocks: (B, C_in, H_in, W_in) -> tokens (B, N, C), H, W; the class token comes first."""

    def __init__(
        self,
        in_chans: int,
        stage: Stage,
        *,
        method: ProjectionMethod,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.patch_embed = ConvEmbed(in_chans, stage)
        if stage.cls_token:
            self.cls_token = self.create_parameter([1, 1, stage.embed_dim])
            normal_(self.cls_token)
        else:
            self.cls_token = None
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList(
            Block(stage, method=method, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=float(rate))
            for rate in np.linspace(0.0, drop_path_rate, stage.depth)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x, height, width = self.patch_embed(x)
        if self.cls_token is not None:
            x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)  # (B, H W, C) -> (B, N, C)
        x = self.pos_drop(x)
        recomputed = self.grad_checkpointing and self.training
        for block in self.blocks:
            x = recompute_block(block, x, (height, width)) if recomputed else block(x, height, width)
        return x, height, width


class CvT(nn.Layer):
    """Convolutional vision transformer: images (B, in_chans, H, W) of any height and width -> logits (B, num_classes).

    num_classes: 0 leaves the head out: the output is the pooled features (B, C).
    img_size: kept for the one signature of all families; CvT has no position embedding and ignores it.
    drop_path_rate: largest rate of stochastic depth; it rises linearly over the last stage, the others have none.
    qkv_proj_method: depth-wise convolution (`dw_bn`, the paper's), average pooling (`avg`) or none (`linear`).
    features_only: return a list with each stage's map (B, C, H, W), strides 4, 8, 16 of the paper's models.
    """

    def __init__(
        self,
        *,
        stages: Sequence[Stage],
        num_classes: int = 1000,
        img_size: tuple[int, int] | None = None,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        qkv_proj_method: ProjectionMethod = "dw_bn",
        features_only: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_stages = len(stages)
        self.num_features = stages[-1].embed_dim
        self.class_token = stages[-1].cls_token
        self.features_only = features_only
        for i, stage in enumerate(stages):
            last = i == len(stages) - 1
            self.add_sublayer(
                f"stage{i}",
                CvTStage(
                    in_chans,
                    stage,
                    method=qkv_proj_method,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=drop_path_rate if last else 0.0,
                ),
            )
            in_chans = stage.embed_dim
        self.norm = nn.Identity() if features_only else LayerNorm(self.num_features)
        has_head = num_classes > 0 and not features_only
        self.head = Linear(self.num_features, num_classes) if has_head else None
        self._init_linear()

    def _init_linear(self) -> None:
        for layer in self.sublayers():
            if isinstance(layer, nn.Linear):
                normal_(layer.weight)
                nn.initializer.Constant(0.0)(layer.bias)
        if self.head is not None:  # the reference leaves the head's bias at PyTorch's default
            uniform_fan_in_(self.head.bias, self.num_features)

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters that weight decay must leave alone besides biases and norms."""
        return {name for name, _ in self.named_parameters() if name.endswith("cls_token")}

    def layer_order(self) -> list[tuple[str, ...]]:
        """Returns the layers from the input to the head, each as beginnings of parameter names.

        Each token embedding (with its class token) and each block is a layer; the last norm and the head are one.
        """
        layers: list[tuple[str, ...]] = []
        for i in range(self.num_stages):
            layers.append((f"stage{i}.patch_embed", f"stage{i}.cls_token"))
            layers += [(f"stage{i}.blocks.{j}",) for j in range(len(getattr(self, f"stage{i}").blocks))]
        return [*layers, ("norm", "head")]

    def position_tables(self) -> dict[str, tuple[int, tuple[int, int]]]:
        """Returns no tables of positions: CvT has none, and takes images of any size."""
        return {}

    def numerics(self) -> dict[str, str | float]:
        """Returns nothing: every implementation whose weights are known here computes CvT alike."""
        return {}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in the backward pass instead of keeping its activations; only in training."""
        for i in range(self.num_stages):
            getattr(self, f"stage{i}").grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> normalised tokens of the last stage (B, N, C), the class token first."""
        for i in range(self.num_stages - 1):
            tokens, height, width = getattr(self, f"stage{i}")(x)
            x = tokens_to_map(tokens, height, width)
        tokens, _, _ = getattr(self, f"stage{self.num_stages - 1}")(x)
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, C) -> logits (B, num_classes), or the pooled features (B, C) without a head."""
        x = tokens[:, 0] if self.class_token else tokens.mean(1)
        return x if self.head is None else self.head(x)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> the map (B, C, H, W) of each stage, without the class token."""
        maps = []
        for i in range(self.num_stages):
            stage = getattr(self, f"stage{i}")
            tokens, height, width = stage(x)
            x = tokens_to_map(tokens if stage.cls_token is None else tokens[:, 1:], height, width)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if self.features_only:
            return self.forward_maps(x)
        return self.forward_head(self.forward_features(x))


def _stages(depths: tuple[int, int, int]) -> tuple[Stage, Stage, Stage]:
    """The paper's table 2: strides 4, 2, 2; heads of 64 channels; the class token in the last stage."""
    return (
        Stage(embed_dim=64, depth=depths[0], num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
        Stage(embed_dim=192, depth=depths[1], num_heads=3),
        Stage(embed_dim=384, depth=depths[2], num_heads=6, cls_token=True),
    )


INPUT_224 = ModelInfo()
# the reference evaluates its 384 models on the whole picture: resized to 384 x 384, nothing cropped
INPUT_384 = ModelInfo(input_size=(3, 384, 384), crop_pct=1.0, crop_mode="squash")


@register_model(CvT, INPUT_224)
def cvt_13_224x224() -> dict[str, Any]:
    return {"stages": _stages((1, 2, 10)), "drop_path_rate": 0.1}


@register_model(CvT, INPUT_384)
def cvt_13_384x384() -> dict[str, Any]:
    return cvt_13_224x224()


@register_model(CvT, INPUT_224)
def cvt_21_224x224() -> dict[str, Any]:
    return {"stages": _stages((1, 4, 16)), "drop_path_rate": 0.1}


@register_model(CvT, INPUT_384)
def cvt_21_384x384() -> dict[str, Any]:
    return cvt_21_224x224()


@register_model(CvT, INPUT_384)
def cvt_w24_384x384() -> dict[str, Any]:
    stem, middle, last = _stages((2, 2, 20))
    return {
        "stages": (
            replace(stem, embed_dim=192, num_heads=3),
            replace(middle, embed_dim=768, num_heads=12),
            replace(last, embed_dim=1024, num_heads=16),
        ),
        "drop_path_rate": 0.3,
    }


@register_model(CvT, ModelInfo(input_size=(3, 32, 32), crop_pct=1.0))
def cvt_nano_32x32() -> dict[str, Any]:
    """Not from the paper: small enough for a laptop, for the demo and the tests."""
    return {
        "stages": (
            Stage(embed_dim=32, depth=1, num_heads=1, patch_size=5, patch_stride=4, patch_padding=2),
            Stage(embed_dim=48, depth=1, num_heads=2),
            Stage(embed_dim=64, depth=2, num_heads=4, patch_stride=1, cls_token=True),
        ),
        "drop_path_rate": 0.0,
    }
