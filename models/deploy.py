"""The deployed form of a trained model: the same logits from fewer and cheaper operations, by exact algebra alone.

- The head of a model with a class token reads that token alone, so the last block computes no other: queries,
  attention, projection and MLP of one token instead of all.
- BatchNorm is a scale and a shift for each channel in inference; they go into the depth-wise convolution before it,
  which pads its input with zeros, not its output.
- The attention scale goes into the projection of the queries, and a fused projection is cut into one a part.
- QuickGELU is silu(1.702 x) / 1.702: one factor goes into fc1, the other into fc2.
- ConViT's attention by position and its gates depend on weights alone: constants.
- Between tokens and maps the axes go as (B, H, W, C) <-> (B, C, H, W), which engines turn into a layout of memory
  instead of a copy; the trained model's (B, N, C) <-> (B, C, N) they copy.

Weights are folded in float64 and rounded once. They are no longer the checkpoint's, and cannot be trained.

Legend: B batch, N tokens, C embed_dim, H W token grid, h heads, d = C / h, T query tokens, S key and value tokens.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models import cvt, cvt_layers
from models.attention_maps import class_path, mean_class_map
from models.convit import GatedPositionalAttention
from models.layers import QUICK_GELU_SLOPE, Mlp, gelu, merge_heads, quick_gelu, split_heads
from models.transformer import Block, PlainTransformer, SelfAttention

MAX_CONSTANT = 64 << 20  # bytes of one layer's attention by position; larger ones are computed with each batch


def deployed(model: nn.Layer, *, attention: bool = False) -> nn.Layer:
    """Returns a layer with the forward of `model` in evaluation: images (B, in_chans, H, W) -> logits (B, K).

    attention: with the forward of `attention_maps.Attended`, which has the class attention as a second output.
    Layers that nothing is folded into are shared with the model, which stays as it is. A model that trains, returns
    feature maps, has no class token for its attention, or is of a family that this module does not know, is a
    ValueError.
    """
    if getattr(model, "features_only", False):
        raise ValueError("feature maps have no deployed form; build the model without features_only")
    if model.training:
        raise ValueError("a model in training has no deployed form; call eval() first")
    if isinstance(model, cvt.CvT):
        form: nn.Layer = DeployedCvT(model, attention=attention)
    elif isinstance(model, PlainTransformer):
        form = DeployedTransformer(model, attention=attention)
    else:
        raise ValueError(f"no deployed form is known for {type(model).__name__}; write one in models/deploy.py")
    if attention:
        class_path(model)  # raises where there is no class token
    form.eval()
    return form


def _float64(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    """Returns x @ weight + bias, weight (in, out), rounded to float32."""
    layer = nn.Linear(*weight.shape, bias_attr=None if bias is not None else False)
    layer.weight.set_value(weight.astype(np.float32))
    if bias is not None:
        layer.bias.set_value(bias.astype(np.float32))
    return layer


def _scaled(layer: nn.Linear, scale: float) -> nn.Linear:
    """Returns scale * layer(x)."""
    return _linear(_float64(layer.weight) * scale, None if layer.bias is None else _float64(layer.bias) * scale)


def fold_batch_norm(projection: cvt_layers.DepthwiseProjection) -> nn.Conv2D:
    """Returns one convolution for a convolution and the BatchNorm after it, as they are in evaluation."""
    conv, norm = projection.conv, projection.bn
    gain = _float64(norm.weight) / np.sqrt(_float64(norm._variance) + norm._epsilon)  # (C,)
    channels = gain.size
    folded = nn.Conv2D(channels, channels, 3, stride=conv._stride, padding=1, groups=channels)
    folded.weight.set_value((_float64(conv.weight) * gain[:, None, None, None]).astype(np.float32))
    folded.bias.set_value((_float64(norm.bias) - _float64(norm._mean) * gain).astype(np.float32))
    return folded


class Gelu(nn.Layer):
    """x * Phi(x), the exact GELU, as one operator in both formats of programs; any shape.

    `models.layers.gelu` writes it out in programs, with `erf`, which OpenVINO does not read from a `.pdmodel`. Paddle's
    own function cannot write a `.pdmodel`, so the operator is added to that program by its name.
    """

    def forward(self, x: Tensor) -> Tensor:
        if paddle.in_dynamic_mode() or paddle.framework.in_pir_mode():
            return F.gelu(x)
        helper = paddle.base.layer_helper.LayerHelper("gelu")
        y = helper.create_variable_for_type_inference(x.dtype)
        helper.append_op(type="gelu", inputs={"X": x}, outputs={"Out": y}, attrs={"approximate": False})
        return y


def fold_mlp(mlp: Mlp) -> nn.Layer:
    """Returns the MLP in evaluation: for QuickGELU without its factors, for the exact GELU with one operator."""
    fc1, fc2 = mlp.fc1, mlp.fc2
    if mlp.activation is gelu:
        return nn.Sequential(fc1, Gelu(), fc2)
    if mlp.activation is not quick_gelu:
        return mlp
    second = _linear(_float64(fc2.weight) / QUICK_GELU_SLOPE, _float64(fc2.bias))
    return nn.Sequential(_scaled(fc1, QUICK_GELU_SLOPE), nn.Silu(), second)


def tokens_to_nchw(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H W, C) -> (B, C, H, W)."""
    return x.reshape([0, height, width, x.shape[2]]).transpose([0, 3, 1, 2])


def nchw_to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.transpose([0, 2, 3, 1]).flatten(1, 2)


class DeployedConvAttention(nn.Layer):
    """CvT's attention: (B, N, C) -> (B, N, C), or (B, 1, C) of the class token alone; and its map (B, h, T, S)."""

    def __init__(self, attn: cvt_layers.Attention, *, class_token_alone: bool) -> None:
        super().__init__()
        self.num_heads = attn.num_heads
        self.cls_token = attn.cls_token
        self.class_token_alone = class_token_alone
        self.conv_q, self.conv_k, self.conv_v = (
            fold_batch_norm(layer) if isinstance(layer, cvt_layers.DepthwiseProjection) else layer
            for layer in (None if class_token_alone else attn.conv_proj_q, attn.conv_proj_k, attn.conv_proj_v)
        )
        self.proj_q = _scaled(attn.proj_q, attn.attend.scale)
        self.proj_k, self.proj_v, self.proj = attn.proj_k, attn.proj_v, attn.proj

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        cls_token = x[:, :1] if self.cls_token else None
        tokens = x[:, 1:] if self.cls_token else x
        image = tokens_to_nchw(tokens, height, width)

        def project(conv: nn.Layer | None, proj: nn.Linear) -> Tensor:
            y = tokens if conv is None else nchw_to_tokens(conv(image))
            if cls_token is not None:
                y = paddle.concat([cls_token, y], axis=1)
            return split_heads(proj(y), self.num_heads)

        if self.class_token_alone:
            q = split_heads(self.proj_q(cls_token), self.num_heads)  # (B, h, 1, d)
        else:
            q = project(self.conv_q, self.proj_q)  # (B, h, T, d)
        k = project(self.conv_k, self.proj_k)  # (B, h, S, d)
        v = project(self.conv_v, self.proj_v)  # (B, h, S, d)
        scores = F.softmax(q @ k.transpose([0, 1, 3, 2]), axis=-1)
        return self.proj(merge_heads(scores @ v)), scores


class DeployedConvBlock(nn.Layer):
    """CvT's block on tokens: (B, N, C) -> (B, N, C), or (B, 1, C) of the class token; and its map (B, h, T, S)."""

    def __init__(self, block: cvt_layers.Block, *, class_token_alone: bool) -> None:
        super().__init__()
        self.class_token_alone = class_token_alone
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn = DeployedConvAttention(block.attn, class_token_alone=class_token_alone)
        self.mlp = fold_mlp(block.mlp)

    def forward(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        branch, scores = self.attn(self.norm1(x), height, width)
        x = (x[:, :1] if self.class_token_alone else x) + branch
        return x + self.mlp(self.norm2(x)), scores


class DeployedCvT(nn.Layer):
    """CvT: images (B, in_chans, H, W) -> logits (B, num_classes), or the pooled features (B, C) without a head.

    attention: also the last block's class attention, as `Attended` returns it.
    """

    def __init__(self, model: cvt.CvT, *, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.class_token = model.class_token
        stages = [getattr(model, f"stage{i}") for i in range(model.num_stages)]
        self.embeds = nn.LayerList(stage.patch_embed for stage in stages)
        self.cls_token = stages[-1].cls_token
        last = stages[-1].blocks[-1]
        self.stages = nn.LayerList(
            nn.LayerList(
                DeployedConvBlock(block, class_token_alone=model.class_token and block is last)
                for block in stage.blocks
            )
            for stage in stages
        )
        self.norm, self.head = model.norm, model.head

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        for i, embed in enumerate(self.embeds):
            x = embed.proj(x)
            height, width = x.shape[2], x.shape[3]
            x = embed.norm(nchw_to_tokens(x))
            if self.class_token and i == len(self.stages) - 1:
                x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)  # (B, H W, C) -> (B, N, C)
            for block in self.stages[i]:
                x, scores = block(x, height, width)
            if i < len(self.stages) - 1:
                x = tokens_to_nchw(x, height, width)
        x = self.norm(x)
        x = x[:, 0] if self.class_token else x.mean(1)
        logits = x if self.head is None else self.head(x)
        return (logits, mean_class_map(scores, (height, width))) if self.attention else logits


class DeployedAttention(nn.Layer):
    """Attention of ViT and ConViT: (B, N, C) -> (B, N, C), or (B, 1, C) of the class token; its map (B, h, T, N)."""

    def __init__(self, attn: SelfAttention | GatedPositionalAttention, *, class_token_alone: bool) -> None:
        super().__init__()
        self.num_heads = attn.num_heads
        self.class_token_alone = class_token_alone
        fused = [attn.qkv] if isinstance(attn, SelfAttention) else [attn.qk, attn.v]
        weight = np.concatenate([_float64(layer.weight) for layer in fused], axis=1)  # (C, 3 C)
        biases = [_float64(layer.bias) for layer in fused if layer.bias is not None]
        parts = np.split(weight, 3, axis=1)
        part_biases = np.split(np.concatenate(biases), 3) if biases else [None] * 3
        q, self.proj_k, self.proj_v = (_linear(w, b) for w, b in zip(parts, part_biases, strict=True))
        self.proj_q = _scaled(q, attn.attend.scale)
        self.proj = attn.proj
        self.positions = None if isinstance(attn, SelfAttention) else DeployedPositions(attn)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q = split_heads(self.proj_q(x[:, :1] if self.class_token_alone else x), self.num_heads)  # (B, h, T, d)
        k = split_heads(self.proj_k(x), self.num_heads)  # (B, h, N, d)
        v = split_heads(self.proj_v(x), self.num_heads)  # (B, h, N, d)
        scores = F.softmax(q @ k.transpose([0, 1, 3, 2]), axis=-1)
        if self.positions is not None:
            scores = self.positions(scores)
        return self.proj(merge_heads(scores @ v)), scores


class DeployedPositions(nn.Layer):
    """ConViT's mixture of both maps, (1 - g) S + g P: attention by content S (B, h, N, N) -> the same shape."""

    def __init__(self, attn: GatedPositionalAttention) -> None:
        super().__init__()
        gate = 1.0 / (1.0 + np.exp(-_float64(attn.gating_param))).reshape([1, -1, 1, 1])
        self.register_buffer("content_gate", paddle.to_tensor((1.0 - gate).astype(np.float32)))
        num_heads, num_patches = gate.size, attn.positions.shape[1]
        self.is_constant = 4 * num_heads * num_patches**2 <= MAX_CONSTANT
        if self.is_constant:
            scores = np.einsum("bqkc,ch->bhqk", _float64(attn.positions), _float64(attn.pos_proj.weight))
            scores = np.exp(scores - scores.max(-1, keepdims=True))  # the projection's bias is cancelled
            gated = gate * scores / scores.sum(-1, keepdims=True)
            self.register_buffer("gated_positions", paddle.to_tensor(gated.astype(np.float32)))
        else:
            self.pos_proj = attn.pos_proj
            self.register_buffer("position_gate", paddle.to_tensor(gate.astype(np.float32)))
            self.register_buffer("positions", attn.positions)

    def forward(self, scores: Tensor) -> Tensor:
        if self.is_constant:
            return self.content_gate * scores + self.gated_positions
        positions = F.softmax(self.pos_proj(self.positions), axis=-1)
        return self.content_gate * scores + self.position_gate * positions


class DeployedBlock(nn.Layer):
    """Block of ViT and ConViT: (B, N, C) -> (B, N, C), or (B, 1, C) of the class token; and its map (B, h, T, N)."""

    def __init__(self, block: Block, *, class_token_alone: bool) -> None:
        super().__init__()
        self.class_token_alone = class_token_alone
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, fold_mlp(block.mlp)
        self.attn = DeployedAttention(block.attn, class_token_alone=class_token_alone)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        branch, scores = self.attn(self.norm1(x))
        x = (x[:, :1] if self.class_token_alone else x) + branch
        return x + self.mlp(self.norm2(x)), scores


class DeployedTransformer(nn.Layer):
    """ViT and ConViT: images (B, in_chans, H, W) -> logits (B, num_classes), or the class token's features (B, C).

    attention: also the last block's class attention, as `Attended` returns it.
    """

    def __init__(self, model: PlainTransformer, *, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.token_block = model.token_block
        self.patch_embed, self.cls_token, self.pos_embed = model.patch_embed, model.cls_token, model.pos_embed
        last = model.blocks[-1]
        self.blocks = nn.LayerList(DeployedBlock(block, class_token_alone=block is last) for block in model.blocks)
        self.norm, self.head = model.norm, model.head

    def _join_class_token(self, x: Tensor) -> Tensor:
        return paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)  # (B, H W, C) -> (B, N, C)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = nchw_to_tokens(self.patch_embed.proj(x))
        if self.token_block == 0:
            x = self._join_class_token(x)
        x = x + self.pos_embed
        for i, block in enumerate(self.blocks):
            if i == self.token_block > 0:
                x = self._join_class_token(x)
            x, scores = block(x)
        x = self.norm(x)[:, 0]
        logits = x if self.head is None else self.head(x)
        return (logits, mean_class_map(scores, self.patch_embed.grid_size)) if self.attention else logits
