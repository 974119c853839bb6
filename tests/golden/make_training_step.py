"""Makes training_step.npz with PyTorch 2.15 and timm 1.0.31: python -m tests.golden.make_training_step

The tests read the problem and the cases from here; only `main` needs PyTorch.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.reference import tensor

# parameters in PyTorch's layout; the head is the last, as timm expects
SHAPES = {
    "token": (1, 1, 7),
    "conv.weight": (6, 2, 3, 3),
    "conv.bias": (6,),
    "zero.weight": (4, 3),
    "fc.weight": (5, 7),
    "fc.bias": (5,),
    "head.weight": (3, 5),
    "head.bias": (3,),
}
CLIPS = {"norm": 0.7, "norm_above": 1e4, "value": 0.4, "agc": 0.3, "agc_small": 0.01, "agc_above": 1e4}

EMA_DECAY = 0.99
UPDATES = (0, 1, 2, 10, 998, 999, 1000, 31_622)  # 0.99 is reached after 999

LOSSES: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"bce_sum": True},
    "threshold": {"bce_target_thresh": 0.2},
    "sum_threshold": {"bce_sum": True, "bce_target_thresh": 0.5},
}
SMOOTHING = 0.2


def weight(name: str) -> np.ndarray:
    """Returns a parameter; those of `zero` are zero, as a new head's bias."""
    return np.zeros(SHAPES[name], np.float32) if name.startswith("zero") else tensor(name, SHAPES[name])


def gradient(name: str) -> np.ndarray:
    """Returns a parameter's gradient, of units some ten times larger than others."""
    units = np.geomspace(0.02, 2.0, SHAPES[name][0]).reshape(-1, *[1] * (len(SHAPES[name]) - 1))
    return (units * np.random.default_rng(len(name)).standard_normal(SHAPES[name])).astype(np.float32)


def logits_and_targets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns logits float32 (8, 5), two of them large, labels (8,), and soft targets float32 (8, 5)."""
    rng = np.random.default_rng(3)
    logits = 6.0 * rng.standard_normal((8, 5))
    logits[0, 0], logits[1, 1] = 25.0, -25.0
    return logits.astype(np.float32), rng.integers(0, 5, 8), rng.dirichlet(np.ones(5), 8).astype(np.float32)


def flat(values: dict[str, np.ndarray]) -> np.ndarray:
    """Returns all parameters one after another."""
    return np.concatenate([values[name].ravel() for name in SHAPES])


def main() -> None:
    import torch  # type: ignore[import-not-found]
    from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy  # type: ignore[import-not-found]
    from timm.utils import ModelEmaV3, dispatch_clip_grad  # type: ignore[import-not-found]

    arrays = {}
    for case, limit in CLIPS.items():
        parameters = {name: torch.nn.Parameter(torch.tensor(weight(name))) for name in SHAPES}
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradient(name))
        mode = case.partition("_")[0]
        clipped = list(parameters.values())[: -2 if mode == "agc" else None]  # as timm's train.py: all but the head
        dispatch_clip_grad(clipped, limit, mode=mode)
        arrays[f"clip_{case}"] = flat({name: parameter.grad.numpy() for name, parameter in parameters.items()})

    ema = ModelEmaV3(torch.nn.Linear(1, 1), decay=EMA_DECAY, use_warmup=True)
    arrays["ema_decay"] = np.array(
        [ema.get_decay(update + 1) for update in UPDATES]
    )  # train.py counts before it updates

    logits, labels, targets = (torch.tensor(x) for x in logits_and_targets())
    arrays["loss_soft"] = SoftTargetCrossEntropy()(logits, targets).numpy()
    for case, settings in LOSSES.items():
        told = {"sum_classes": settings.get("bce_sum", False), "target_threshold": settings.get("bce_target_thresh")}
        arrays[f"loss_{case}"] = BinaryCrossEntropy(smoothing=SMOOTHING, **told)(logits, targets).numpy()
        arrays[f"loss_{case}_labels"] = BinaryCrossEntropy(smoothing=SMOOTHING, **told)(logits, labels).numpy()
    np.savez_compressed(Path(__file__).parent / "training_step.npz", allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
