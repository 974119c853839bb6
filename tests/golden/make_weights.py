"""Makes weights.npz with the reference implementations, small enough for tests: see `main`.

    python -m tests.golden.make_weights timm           PyTorch 2.15, timm 1.0.31, transformers 5
    python -m tests.golden.make_weights mindcv         MindSpore 2.10, MindCV 0.3.0
    python -m tests.golden.make_weights cvt FOLDER     PyTorch 2.15, a checkout of microsoft/CvT

Weights follow from the official names, also where a project has other names (`tensor` of tests/reference.py); images
are `images(2, 32, 32)` unless said. The tests read the sizes from here; only `main` needs the references.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.reference import images, tensor

VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 10}
CONVIT: dict[str, Any] = {
    "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "local_up_to_layer": 3, "num_classes": 10,
}  # fmt: skip
CVT_DIMS, CVT_HEADS, CVT_DEPTHS, CVT_CLASSES = (16, 32, 48), (1, 2, 3), (1, 2, 3), 10
TABLES = [  # extra rows, old grid, new grid
    (1, (14, 14), (24, 24)), (0, (14, 14), (18, 18)), (1, (24, 24), (14, 14)), (1, (14, 14), (20, 10)),
    (1, (4, 4), (6, 6)), (1, (16, 12), (14, 14)), (1, (7, 7), (12, 12)),
]  # fmt: skip
OUTPUT = Path(__file__).with_name("weights.npz")


def table(extra: int, grid: tuple[int, int]) -> np.ndarray:
    """Returns a table of positions (1, extra + H W, 8)."""
    return tensor("pos_embed", (1, extra + grid[0] * grid[1], 8))


def names_of(state: dict[str, Any]) -> np.ndarray:
    """Returns a state dict's names with shapes, one text each."""
    return np.array([f"{name} {list(value.shape)}" for name, value in state.items()])


def make_timm(arrays: dict[str, np.ndarray]) -> None:
    import timm  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]
    from timm.layers import resample_abs_pos_embed  # type: ignore[import-not-found]

    def fill(model: Any) -> Any:
        state = {k: torch.from_numpy(tensor(k, tuple(v.shape))) for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        return model.eval()

    def logits(model: Any, batch: int, side: int, seed: int = 0) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images(batch, side, side, seed))).numpy()

    def resample(model: Any, small: Any, extra: int) -> Any:
        state = small.state_dict()
        side = int((model.pos_embed.shape[1] - extra) ** 0.5)
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [side, side], num_prefix_tokens=extra)
        model.load_state_dict(state)
        return model.eval()

    vit = fill(timm.create_model("vit_small_patch16_224", img_size=32, **VIT))
    sizes = CONVIT | {"embed_dim": CONVIT["embed_dim"] // CONVIT["num_heads"]}  # timm multiplies it by the heads
    convit = fill(timm.create_model("convit_tiny", img_size=32, **sizes))
    arrays |= {"vit": logits(vit, 2, 32), "convit": logits(convit, 2, 32)}
    loss = torch.nn.functional.cross_entropy(vit(torch.from_numpy(images(2, 32, 32))), torch.tensor([3, 7]))
    loss.backward()
    arrays["vit_loss"] = loss.detach().numpy()
    arrays["vit_grad_names"] = np.array([name for name, _ in vit.named_parameters()])
    arrays["vit_grad_norms"] = np.array([float(p.grad.double().norm()) for p in vit.parameters()])
    arrays |= {"vit_names": names_of(vit.state_dict()), "convit_names": names_of(convit.state_dict())}
    arrays["vit_48"] = logits(resample(timm.create_model("vit_small_patch16_224", img_size=48, **VIT), vit, 1), 2, 48)
    arrays["convit_48"] = logits(resample(timm.create_model("convit_tiny", img_size=48, **sizes), convit, 0), 2, 48)
    big = fill(timm.create_model("vit_base_patch16_224"))
    arrays["vit_b_16_at_384"] = logits(resample(timm.create_model("vit_base_patch16_384"), big, 1), 1, 384)
    tiny = fill(timm.create_model("convit_tiny"))
    arrays["convit_tiny_at_288"] = logits(resample(timm.create_model("convit_tiny", img_size=288), tiny, 0), 1, 288)
    for i, (extra, old, new) in enumerate(TABLES):
        resampled = resample_abs_pos_embed(
            torch.from_numpy(table(extra, old)), new_size=list(new), old_size=list(old), num_prefix_tokens=extra
        )
        arrays[f"table_{i}"] = resampled.numpy()
    make_transformers(arrays, vit)


def make_transformers(arrays: dict[str, np.ndarray], vit: Any) -> None:
    """Hugging Face's names of the same models; its ViT with the same weights, and its own default of epsilon."""
    import torch
    from transformers import (  # type: ignore[import-not-found]
        CvtConfig,
        CvtForImageClassification,
        ViTConfig,
        ViTForImageClassification,
        ViTModel,
    )

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=96, image_size=32, patch_size=8,
        num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    arrays["hf_vit_names"] = _names_in_file(model)  # in files as ever; in memory, other ones since version 5
    arrays["hf_vit_5_names"] = names_of(model.state_dict())
    arrays["hf_vit_backbone_names"] = _names_in_file(ViTModel(config))
    official = vit.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        state[name] = official_tensor(name, official)
        assert state[name].shape == value.shape, name
    model.load_state_dict(state)
    with torch.no_grad():
        arrays["hf_vit"] = model.eval()(torch.from_numpy(images(2, 32, 32))).logits.numpy()
    cvt = CvtConfig(embed_dim=list(CVT_DIMS), num_heads=list(CVT_HEADS), depth=list(CVT_DEPTHS), num_labels=CVT_CLASSES)
    arrays["hf_cvt_names"] = _names_in_file(CvtForImageClassification(cvt))


def _names_in_file(model: Any) -> np.ndarray:
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return names_of(load_file(Path(folder, "model.safetensors")))


def official_tensor(name: str, official: dict[str, Any]) -> Any:
    """One of Hugging Face's tensors, written out by hand here and not by the code under test."""
    name = name if name.startswith(("vit.", "classifier.")) else f"vit.{name}"
    fixed = {
        "vit.embeddings.cls_token": "cls_token",
        "vit.embeddings.position_embeddings": "pos_embed",
        "vit.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "vit.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "vit.layernorm.weight": "norm.weight",
        "vit.layernorm.bias": "norm.bias",
        "classifier.weight": "head.weight",
        "classifier.bias": "head.bias",
    }
    if name in fixed:
        return official[fixed[name]]
    parts = name.split(".")
    block, kind = parts[parts.index("layer") + 1 if "layer" in parts else parts.index("layers") + 1], parts[-1]
    path = f"blocks.{block}"
    for i, part in enumerate(("query", "key", "value")):
        if part in parts or f"{part[0]}_proj" in parts:
            fused = official[f"{path}.attn.qkv.{kind}"]
            return fused[i * (len(fused) // 3) : (i + 1) * (len(fused) // 3)]
    if "attention" in parts and ("output" in parts or "o_proj" in parts):
        return official[f"{path}.attn.proj.{kind}"]
    for mine, theirs in (("intermediate", "mlp.fc1"), ("fc1", "mlp.fc1"), ("output", "mlp.fc2"), ("fc2", "mlp.fc2"),
                         ("layernorm_before", "norm1"), ("layernorm_after", "norm2")):  # fmt: skip
        if mine in parts:
            return official[f"{path}.{theirs}.{kind}"]
    raise KeyError(name)


def make_mindcv(arrays: dict[str, np.ndarray]) -> None:
    import mindspore as ms  # type: ignore[import-not-found]
    from mindcv.models.vit import VisionTransformer  # type: ignore[import-not-found]

    net = VisionTransformer(image_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=10)
    for parameter in net.get_parameters():
        name = parameter.name.replace(".gamma", ".weight").replace(".beta", ".bias")
        parameter.set_data(ms.Tensor(tensor(name, tuple(parameter.shape))))
    net.set_train(False)
    arrays["mindcv_vit"] = net(ms.Tensor(images(2, 32, 32))).asnumpy()
    arrays["mindcv_vit_names"] = np.array([f"{p.name} {list(p.shape)}" for p in net.get_parameters()])


def make_cvt(arrays: dict[str, np.ndarray], folder: str) -> None:
    sys.path.insert(0, folder)
    import torch
    from lib.models.cls_cvt import get_cls_model  # type: ignore[import-not-found]
    from yacs.config import CfgNode  # type: ignore[import-not-found]

    spec = CfgNode({
        "INIT": "trunc_norm", "NUM_STAGES": 3, "PATCH_SIZE": [7, 3, 3], "PATCH_STRIDE": [4, 2, 2],
        "PATCH_PADDING": [2, 1, 1], "DIM_EMBED": list(CVT_DIMS), "NUM_HEADS": list(CVT_HEADS),
        "DEPTH": list(CVT_DEPTHS), "MLP_RATIO": [4.0] * 3, "ATTN_DROP_RATE": [0.0] * 3, "DROP_RATE": [0.0] * 3,
        "DROP_PATH_RATE": [0.0] * 3, "QKV_BIAS": [True] * 3, "CLS_TOKEN": [False, False, True],
        "POS_EMBED": [False] * 3, "QKV_PROJ_METHOD": ["dw_bn"] * 3, "KERNEL_QKV": [3] * 3, "PADDING_KV": [1] * 3,
        "STRIDE_KV": [2] * 3, "PADDING_Q": [1] * 3, "STRIDE_Q": [1] * 3,
    })  # fmt: skip
    config = CfgNode({"MODEL": CfgNode({"NUM_CLASSES": CVT_CLASSES, "SPEC": spec, "INIT_WEIGHTS": False})})
    model = get_cls_model(config)
    state = model.state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = torch.from_numpy(tensor(name, tuple(value.shape)))
    model.load_state_dict(state)
    with torch.no_grad():
        arrays["cvt"] = model.eval()(torch.from_numpy(images(2, 32, 32))).numpy()
    arrays["cvt_names"] = names_of(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("timm", "mindcv", "cvt"))
    parser.add_argument("folder", nargs="?")
    options = parser.parse_args()
    arrays: dict[str, np.ndarray] = dict(np.load(OUTPUT)) if OUTPUT.exists() else {}
    if options.what == "cvt":
        make_cvt(arrays, options.folder)
    else:
        {"timm": make_timm, "mindcv": make_mindcv}[options.what](arrays)
    np.savez_compressed(OUTPUT, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
