"""CvT: Introducing Convolutions to Vision Transformers (Wu et al. 2021, arXiv 2103.15808).

Written from the paper; behaviour and parameter names follow microsoft/CvT so that its weights load unchanged. What the
reference does and the paper does not say: the attention scale is embed_dim ** -0.5 (not the head's), the activation is
QuickGELU, the class token bypasses the convolutional projections, and stochastic depth acts in the last stage only.

Legend: B batch, C embed_dim, H W the stage's token grid, N = H W tokens (+ 1 with the class token).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from models.cvt_layers import Block, ConvEmbed, ProjectionMethod, Stage
from models.layers import (
    LayerNorm,
    Linear,
    StochasticDepth,
    normal_,
    recompute_block,
    tokens_to_map,
    uniform_fan_in_,
)
from models.registry import ModelInfo, register_model


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
            Block(stage, method=method, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate) for _ in range(stage.depth)
        )
        self.stochastic_depth = StochasticDepth(np.linspace(0.0, drop_path_rate, stage.depth).tolist())

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x, height, width = self.patch_embed(x)
        if self.cls_token is not None:
            x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)  # (B, H W, C) -> (B, N, C)
        x = self.pos_drop(x)
        recomputed = self.grad_checkpointing and self.training
        keeps = self.stochastic_depth(x.shape[0])
        for i, block in enumerate(self.blocks):  # what writes programs knows no zip(strict=True)
            others = (height, width, keeps[i])
            x = recompute_block(block, x, others) if recomputed else block(x, *others)
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
