"""Makes optimizers.npz and schedules.npz with PyTorch 2.15 and timm 1.0.31: python -m tests.golden.make_optimizers

The tests read the problem and the cases from here; only `main` needs PyTorch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 20
SHAPES = {
    "embed.weight": (6, 4),
    "embed.bias": (4,),
    "embed.token": (1, 1, 4),
    "block.weight": (4, 4),
    "head.weight": (4, 3),
    "head.bias": (3,),
}
LAYERS = ("embed", "block", "head")  # from the input to the head
TOKEN = "embed.token"  # no weight decay although it has more than one dimension

# The settings of each case, as those of util.options; what is not said is the references' default.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"opt": "sgd"},
    "sgd_layer_decay": {"opt": "sgd", "layer_decay": 0.6},
    "momentum": {"opt": "momentum", "layer_decay": 0.6},
    "nesterov": {"opt": "momentum", "momentum": 0.8, "use_nesterov": True},
    "adam": {"opt": "adam", "layer_decay": 0.6},
    "adam_constants": {"opt": "adam", "opt_eps": 1e-2, "opt_betas": (0.8, 0.95)},
    "adamw": {"opt": "adamw"},
    "adamw_layer_decay": {"opt": "adamw", "layer_decay": 0.6},
    "adamw_constants": {"opt": "adamw", "opt_eps": 1e-2, "opt_betas": (0.8, 0.95)},
    "lamb": {"opt": "lamb"},
    "lamb_layer_decay": {"opt": "lamb", "layer_decay": 0.6},
    "lamb_constants": {"opt": "lamb", "opt_eps": 1e-2, "opt_betas": (0.8, 0.95), "filter_bias_and_bn": False},
    "lion": {"opt": "lion"},
    "lion_layer_decay": {"opt": "lion", "layer_decay": 0.6},
    "lion_constants": {"opt": "lion", "opt_betas": (0.8, 0.95), "filter_bias_and_bn": False},
}
WEIGHT_DECAY = 0.3  # large, so that its place in the update shows

EPOCHS, WARMUP, UPDATES = 24, 4, 5  # epochs, those of warm-up, and updates an epoch
# Of each schedule: its settings, and what timm's or PyTorch's is told; lr 1e-2, min_lr 1e-4, warmup_lr 1e-5.
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"sched": "cosine", "warmup_epochs": WARMUP},
    "poly": {"sched": "poly", "warmup_epochs": WARMUP, "poly_power": 0.9},
    "step": {"sched": "step", "warmup_epochs": WARMUP, "decay_epochs": 7, "decay_rate": 0.3},
    "multistep": {"sched": "multistep", "warmup_epochs": 0, "decay_milestones": (6, 9, 20), "decay_rate": 0.3},
}


def start(name: str) -> np.ndarray:
    """Returns the first value of a parameter, float32; the head's bias is zero, as in a new model."""
    if name == "head.bias":
        return np.zeros(SHAPES[name], np.float32)
    rng = np.random.default_rng([0, list(SHAPES).index(name)])
    return (0.5 * rng.standard_normal(SHAPES[name])).astype(np.float32)


def gradient(name: str, value: np.ndarray, step: int) -> np.ndarray:
    """Returns the gradient, float64, of a quadratic bowl around another point, with noise."""
    place = list(SHAPES).index(name)
    bowl = np.random.default_rng([1, place])
    curvature, centre = bowl.uniform(0.1, 2.0, value.shape), bowl.standard_normal(value.shape)
    noise = np.random.default_rng([2, place, step]).standard_normal(value.shape)
    return curvature * (value.astype(np.float64) - centre) + noise


def lr(step: int) -> float:
    """Returns the learning rate of a step: it rises and falls."""
    return 0.01 * (0.2 + np.sin(np.pi * step / STEPS))


def flat(values: dict[str, np.ndarray]) -> np.ndarray:
    """Returns all parameters one after another."""
    return np.concatenate([values[name].ravel() for name in SHAPES])


def run_torch(settings: dict[str, Any]) -> np.ndarray:
    """Returns the parameters after each step, float32 (STEPS, values), computed in float64."""
    import timm.optim  # type: ignore[import-not-found]
    import torch  # type: ignore[import-not-found]

    # torch's and timm's own defaults of eps and betas stay where a case does not say them
    told = {"eps": "opt_eps", "betas": "opt_betas", "momentum": "momentum", "nesterov": "use_nesterov"}
    arguments = {theirs: settings[ours] for theirs, ours in told.items() if ours in settings}
    make: dict[str, Callable[..., Any]] = {
        "sgd": torch.optim.SGD,
        "momentum": lambda groups, momentum=0.9, **rest: torch.optim.SGD(groups, momentum=momentum, **rest),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "lamb": lambda groups, **rest: timm.optim.Lamb(groups, max_grad_norm=None, **rest),
        "lion": timm.optim.Lion,
    }
    parameters = {name: torch.nn.Parameter(torch.tensor(start(name), dtype=torch.float64)) for name in SHAPES}
    groups = []
    for name, parameter in parameters.items():
        spared = settings.get("filter_bias_and_bn", True) and (parameter.ndim <= 1 or name == TOKEN)
        above = len(LAYERS) - 1 - LAYERS.index(name.partition(".")[0])
        groups.append({
            "params": [parameter],
            "weight_decay": 0.0 if spared else WEIGHT_DECAY,
            "lr_scale": settings.get("layer_decay", 1.0) ** above,
        })  # fmt: skip
    optimizer = make[settings["opt"]](groups, lr=1.0, **arguments)
    result = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = lr(step) * group["lr_scale"]
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(gradient(name, parameter.detach().numpy(), step))
        optimizer.step()
        result.append(flat({name: parameter.detach().numpy() for name, parameter in parameters.items()}))
    return np.stack(result).astype(np.float32)


def run_schedule(settings: dict[str, Any]) -> np.ndarray:
    """Returns the learning rate of each update, float64 (EPOCHS * UPDATES,); a schedule counts in updates there."""
    import torch
    from timm.scheduler import (  # type: ignore[import-not-found]
        CosineLRScheduler,
        PolyLRScheduler,
        StepLRScheduler,
    )

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    total = EPOCHS * UPDATES
    if settings["sched"] == "multistep":
        milestones = [UPDATES * epoch for epoch in settings["decay_milestones"]]
        theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=settings["decay_rate"])
        rates = []
        for _ in range(total):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            theirs.step()
        return np.array(rates)
    warmup = settings["warmup_epochs"] * UPDATES
    common = {"warmup_t": warmup, "warmup_lr_init": 1e-5, "t_in_epochs": False}
    if settings["sched"] == "step":
        decay_t = settings["decay_epochs"] * UPDATES
        timm = StepLRScheduler(
            optimizer, decay_t=decay_t, decay_rate=settings["decay_rate"], warmup_prefix=False, **common
        )
    else:
        common |= {"t_initial": total - warmup, "lr_min": 1e-4, "warmup_prefix": True}
        if settings["sched"] == "poly":
            timm = PolyLRScheduler(optimizer, power=settings["poly_power"], **common)
        else:
            timm = CosineLRScheduler(optimizer, **common)
    return np.array([timm._get_lr(update)[0] for update in range(total)])


def main() -> None:
    folder = Path(__file__).parent
    optimizers = {name: run_torch(settings) for name, settings in OPTIMIZERS.items()}
    schedules = {name: run_schedule(settings) for name, settings in SCHEDULES.items()}
    np.savez_compressed(folder / "optimizers.npz", allow_pickle=False, **optimizers)
    np.savez_compressed(folder / "schedules.npz", allow_pickle=False, **schedules)


if __name__ == "__main__":
    main()
