"""From other projects' parameter names and layouts to the official names in Paddle's layout. Imports no paddle.

Official names: microsoft/CvT's for CvT, timm's for ConViT and ViT. PyTorch and MindSpore keep the weights of linear
layers as (out, in), Paddle as (in, out).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from util.errors import WeightsError

# (pattern, replacement), tried in order on each name
Rules = tuple[tuple[str, str], ...]
_HF: Rules = (  # what both of its models have
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_HF_CVT: Rules = (
    (r"^cvt\.encoder\.stages\.(\d+)\.", r"stage\1."),
    (r"\.embedding\.convolution_embeddings\.projection\.", ".patch_embed.proj."),
    (r"\.embedding\.convolution_embeddings\.normalization\.", ".patch_embed.norm."),
    (r"\.layers\.(\d+)\.", r".blocks.\1."),
    (
        r"\.attention\.attention\.convolution_projection_([qkv])[a-z]+\.convolution_projection\.convolution\.",
        r".attn.conv_proj_\1.conv.",
    ),
    (
        r"\.attention\.attention\.convolution_projection_([qkv])[a-z]+\.convolution_projection\.normalization\.",
        r".attn.conv_proj_\1.bn.",
    ),
    (r"\.attention\.attention\.projection_([qkv])[a-z]+\.", r".attn.proj_\1."),
    *_HF,
)
_HF_VIT: Rules = (
    (r"^vit\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),  # the second in memory, since transformers 5
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    *_HF,
)
_PADDLEVIT_CVT: Rules = (
    (r"\.conv_proj_([qkv])\.0\.", r".conv_proj_\1.conv."),
    (r"\.conv_proj_([qkv])\.1\.", r".conv_proj_\1.bn."),
)
_MINDCV: Rules = (
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"^classifier\.", "head."),
    (r"\.attn\.q\.", ".attn.query."),
    (r"\.attn\.k\.", ".attn.key."),
)
_MINDSPORE_PROGRESS = ("epoch_num", "step_num", "global_step", "learning_rate", "loss_scale")
MINDCV_NUMERICS: dict[str, str | float] = {"act": "gelu_tanh", "norm_eps": 1e-7}  # MindSpore's defaults
TIMM_NUMERICS: dict[str, str | float] = {"act": "gelu", "norm_eps": 1e-6}  # Google's own code, too
HF_NUMERICS: dict[str, str | float] = {"act": "gelu", "norm_eps": 1e-12}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@dataclass(frozen=True)
class OfficialWeights:
    """Tensors with official names in Paddle's layout, whose they were, and what follows from that.

    preprocess: the part of the preprocessing that they need. numerics: what the model must be told by `set_numerics`.
    """

    tensors: dict[str, np.ndarray]
    origin: str
    preprocess: dict[str, list[float]]
    numerics: dict[str, str | float]


def to_official(tensors: Mapping[str, np.ndarray], *, source: str) -> OfficialWeights:
    """Returns a file's tensors as the models here have them; which project wrote it is told from the names.

    `module.` and `_orig_mod.`, which PyTorch's data parallel training and its compiler put before every name, are taken
    off. PyTorch's counters of batches, the
    pooler of Hugging Face's backbones and the numbers that MindSpore appends are left out. Names that remain unknown
    are kept, for `set_weights` to refuse. Two tensors of one name, or linear weights in two layouts, are a
    WeightsError.
    """
    for prefix in ("module.", "_orig_mod.", "module."):  # either may be outside
        tensors = _without_prefix(tensors, prefix)
    tensors = {k: v for k, v in tensors.items() if not k.endswith(".num_batches_tracked")}
    origin, preprocess = "official names", {}
    numerics = TIMM_NUMERICS if _has_positions(tensors) else {}
    if any(name.startswith("cvt.encoder.") for name in tensors):
        origin, tensors = "Hugging Face CvT", _renamed(tensors, _HF_CVT, source)
    elif "vit.embeddings.cls_token" in tensors or "embeddings.cls_token" in tensors:
        tensors = {k: v for k, v in tensors.items() if not k.startswith(("vit.pooler.", "pooler."))}
        origin, tensors = "Hugging Face ViT", _fused(_renamed(tensors, _HF_VIT, source), source)
        numerics = HF_NUMERICS
    elif any(name.endswith((".gamma", ".beta")) for name in tensors):
        tensors = {k: v for k, v in tensors.items() if k not in _MINDSPORE_PROGRESS}
        is_convit = any(name.endswith(".gating_param") for name in tensors)
        origin, tensors = "MindCV", _fused(_renamed(tensors, _MINDCV, source), source)
        numerics = MINDCV_NUMERICS
        preprocess = {} if is_convit else IMAGENET  # its ViT, unlike all others, is trained with ImageNet's mean
    else:
        tensors = _renamed(tensors, _PADDLEVIT_CVT, source)
    statistics = ((r"\.running_mean$", "._mean"), (r"\.running_var$", "._variance"))
    official = _paddle_layout(_renamed(tensors, statistics, source), source)
    return OfficialWeights(official, origin, preprocess, numerics)


def _has_positions(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether they are ViT's or ConViT's, of which implementations differ in numerics."""
    return any(name.rpartition(".")[2] in ("pos_embed", "position_embeddings") for name in tensors)


def _without_prefix(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    if not all(name.startswith(prefix) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _renamed(tensors: Mapping[str, np.ndarray], rules: Rules, source: str) -> dict[str, np.ndarray]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    result: dict[str, np.ndarray] = {}
    for old, tensor in tensors.items():
        name = old
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        if name in result:
            raise WeightsError(f"{source}: {name} stands twice, once as {old}")
        result[name] = tensor
    return result


def _fused(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Joins separate projections (out, in) of an attention layer: query, key and value to qkv, query and key to qk.

    A GPSA layer keeps its values apart. What is incomplete stays as it is, to be reported as unexpected.
    """
    result = dict(tensors)
    for query in [name for name in tensors if re.search(r"\.attn\.query\.(weight|bias)$", name)]:
        layer, _, kind = query.rpartition("query.")
        gated = f"{layer}gating_param" in tensors
        value = next((v for v in (f"{layer}value.{kind}", f"{layer}v.{kind}") if v in tensors), None)
        parts = [query, f"{layer}key.{kind}", *([] if gated or value is None else [value])]
        if (value is None and not gated) or any(part not in tensors for part in parts):
            continue
        try:
            fused = np.concatenate([tensors[part] for part in parts], axis=0)
        except ValueError as error:
            raise WeightsError(f"{source}: {', '.join(parts)} do not fit together: {error}") from None
        for part in parts:
            del result[part]
        result[f"{layer}{'qk' if gated else 'qkv'}.{kind}"] = fused
    return result


def _paddle_layout(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Transposes the weights of linear layers if they are (out, in).

    The shapes tell, and not the format: names and values are often converted from PyTorch to Paddle or safetensors. In
    (out, in), a weight's first axis is as long as its bias; square weights fit both and follow the others.
    """
    matrices = {k: v for k, v in tensors.items() if k.endswith(".weight") and v.ndim == 2}
    out_first, in_first = [], []
    for name, weight in matrices.items():
        bias = tensors.get(name.removesuffix("weight") + "bias")
        if bias is None or bias.ndim != 1 or weight.shape[0] == weight.shape[1]:
            continue
        if weight.shape[0] == len(bias):
            out_first.append(name)
        elif weight.shape[1] == len(bias):
            in_first.append(name)
    if out_first and in_first:
        raise WeightsError(
            f"{source}: {out_first[0]} is stored as (out, in) and {in_first[0]} as (in, out); expected one layout"
        )
    if not out_first:
        return dict(tensors)
    return {name: tensor.T if name in matrices else tensor for name, tensor in tensors.items()}
