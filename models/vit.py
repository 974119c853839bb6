"""ViT: An Image is Worth 16x16 Words (Dosovitskiy et al. 2020, arXiv 2010.11929).

Written from the paper; parameter names and figures follow timm's vision_transformer, so that its weights load
unchanged. The head is one linear map on the class token: the hidden "representation" layer that the paper trains on
ImageNet-21k is not there. Weights start as in timm and DeiT, N(0, 0.02), not as in the paper's code (Xavier, head 0).
"""

from typing import Any

from models.layers import normal_
from models.registry import ModelInfo, register_model
from models.transformer import Block, PatchEmbed, PlainTransformer, SelfAttention


class VisionTransformer(PlainTransformer):
    """Vision transformer: images (B, in_chans, *img_size) -> logits (B, num_classes).

    drop_rate: dropout after the positions, each projection and within the MLPs.
    drop_path_rate: largest rate of stochastic depth, which rises linearly over the blocks.
    num_classes, features_only: see PlainTransformer.
    """

    def __init__(
        self,
        *,
        img_size: tuple[int, int],
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        features_only: bool = False,
    ) -> None:
        patch_embed = PatchEmbed(img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim)
        blocks = [
            Block(
                embed_dim,
                SelfAttention(
                    embed_dim, num_heads, qkv_bias=qkv_bias, drop_rate=drop_rate, attn_drop_rate=attn_drop_rate
                ),
                mlp_ratio=mlp_ratio,
                drop_rate=drop_rate,
            )
            for _ in range(depth)
        ]
        super().__init__(
            patch_embed,
            blocks,
            token_block=0,
            num_classes=num_classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            features_only=features_only,
        )
        normal_(self.cls_token, std=1e-6)


HALF = (0.5, 0.5, 0.5)
# as the weights of Google and timm were trained: pixels from -1 to 1
INPUT_224 = ModelInfo(crop_pct=0.9, mean=HALF, std=HALF)
INPUT_384 = ModelInfo(input_size=(3, 384, 384), crop_pct=1.0, mean=HALF, std=HALF)


@register_model(VisionTransformer, INPUT_224, spellings=("vit_ti16_224",))
def vit_ti_16_224() -> dict[str, Any]:
    """Not from the paper: "Ti" of DeiT (arXiv 2012.12877)."""
    return {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}


@register_model(VisionTransformer, INPUT_224, spellings=("vit_s16_224",))
def vit_s_16_224() -> dict[str, Any]:
    """Not from the paper: "S" of DeiT (arXiv 2012.12877)."""
    return {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}


@register_model(VisionTransformer, INPUT_224, spellings=("vit_b16_224",))
def vit_b_16_224() -> dict[str, Any]:
    return {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}


@register_model(VisionTransformer, INPUT_384, spellings=("vit_b16_384",))
def vit_b_16_384() -> dict[str, Any]:
    return vit_b_16_224()


@register_model(VisionTransformer, INPUT_224, spellings=("vit_b32_224",))
def vit_b_32_224() -> dict[str, Any]:
    return vit_b_16_224() | {"patch_size": 32}


@register_model(VisionTransformer, INPUT_384, spellings=("vit_b32_384",))
def vit_b_32_384() -> dict[str, Any]:
    return vit_b_32_224()


@register_model(VisionTransformer, INPUT_224, spellings=("vit_l16_224",))
def vit_l_16_224() -> dict[str, Any]:
    return {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}


@register_model(VisionTransformer, INPUT_384, spellings=("vit_l16_384",))
def vit_l_16_384() -> dict[str, Any]:
    return vit_l_16_224()


@register_model(VisionTransformer, INPUT_224, spellings=("vit_l32_224",))
def vit_l_32_224() -> dict[str, Any]:
    return vit_l_16_224() | {"patch_size": 32}
