"""Checkpoints made without training, whose models tell pictures apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from models import create_model
from util.weights.container import write_container

PREPROCESS = {
    "input_size": [3, 32, 32],
    "crop_pct": 1.0,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


class AnyModel(nn.Sequential):
    """Layers that are no model of the registry, with what loading weights asks of one."""

    def position_tables(self) -> dict[str, tuple[int, tuple[int, int]]]:
        return {}

    def numerics(self) -> dict[str, str | float]:
        return {}


def make_model(num_classes: int, *, seed: int) -> nn.Layer:
    """Returns a cvt_nano_32x32 in evaluation mode, its head so large that scores are not about the same."""
    paddle.seed(seed)
    model = create_model("cvt_nano_32x32", num_classes=num_classes)
    rng = np.random.default_rng(seed)
    model.head.weight.set_value(rng.normal(0, 0.3, model.head.weight.shape).astype(np.float32))
    model.eval()
    return model


def write_checkpoint(
    path: Path,
    *,
    num_classes: int = 3,
    seed: int = 0,
    folders: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    ema_seed: int | None = None,
    update: int = 7,
    preprocess: dict[str, Any] = PREPROCESS,
) -> nn.Layer:
    """Writes what a run would have saved, and returns the model.

    ema_seed: of the averaged weights, if there are some.
    """
    model = make_model(num_classes, seed=seed)
    tensors = {f"model/{name}": value.numpy() for name, value in model.state_dict().items()}
    if ema_seed is not None:
        averaged = make_model(num_classes, seed=ema_seed)
        tensors |= {f"ema/{name}": value.numpy() for name, value in averaged.state_dict().items()}
    tensors["optim/moment1/head.weight"] = np.ones_like(tensors["model/head.weight"])
    state = {
        "model": {"name": "cvt_nano_32x32", "num_classes": num_classes},
        "preprocess": preprocess,
        "classes": {
            "folders": None if folders is None else list(folders),
            "names": list(names or folders or map(str, range(num_classes))),
        },
        "settings": {"seed": seed},
        "progress": {"epoch": 3, "update": update, "best_acc1": 41.5, "best_update": 7, "best_acc1_ema": 43.25,
                     "best_update_ema": 5, "wandb_id": None},
        "scaler": {},
        "versions": {"paddle": paddle.__version__},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_container(path, tensors, state)
    return model
