"""All that training changes, and how it becomes a checkpoint and comes back from one."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from util.distributed import World
from util.errors import MismatchError, WeightsError
from util.train.batch_norm import moving_statistics
from util.train.ema import ModelEma
from util.train.optim import optimizer_tensors, set_optimizer_tensors
from util.train.progress import Progress
from util.weights import EMA, MODEL, set_numerics, set_weights
from util.weights.container import Container
from util.weights.state import checked_state

OPTIM = "optim/"
RANKS = "ranks/"  # what processes other than the first one have of their own: ranks/<rank>/model/<name>


class TrainState:
    """All that training changes: one object, saved and restored whole."""

    def __init__(
        self,
        model: nn.Layer,
        optimizer: Optimizer,
        *,
        ema: ModelEma | None,
        scaler: paddle.amp.GradScaler,
        progress: Progress,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.ema = ema
        self.scaler = scaler
        self.progress = progress

    def models(self) -> list[nn.Layer]:
        """Returns the model, and the averaged one if there is one."""
        return [self.model] if self.ema is None else [self.model, self.ema.model]

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns a copy of every tensor by its name in the checkpoint."""
        tensors = {MODEL + name: value.numpy() for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {EMA + name: value.numpy() for name, value in self.ema.model.state_dict().items()}
        return tensors | {OPTIM + k: v for k, v in optimizer_tensors(self.optimizer, self.model).items()}

    def nbytes(self) -> int:
        """Returns the size of all tensors."""
        tensors = [tensor for model in self.models() for tensor in model.state_dict().values()]
        return sum(t.size * t.element_size() for t in [*tensors, *self.optimizer.state_dict().values()])

    def plain(self, description: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what a checkpoint says besides its tensors; description: what the model is, and the settings."""
        scaler = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.scaler.state_dict().items()}
        progress = asdict(self.progress)
        return {**description, "numerics": self.model.numerics(), "progress": progress, "scaler": scaler}

    def _statistics(self) -> dict[str, paddle.Tensor]:
        """Returns BatchNorm's running statistics by their names in a checkpoint; every process has its own."""
        prefixes = (MODEL, EMA)[: len(self.models())]
        return {
            prefix + name: tensor
            for prefix, model in zip(prefixes, self.models(), strict=True)
            for name, tensor in moving_statistics(model).items()
        }

    def statistics_of_ranks(self, world: World) -> dict[str, np.ndarray]:
        """Returns the statistics of all processes but the first by their names in a checkpoint; all must call it."""
        own = {name: tensor.numpy() for name, tensor in self._statistics().items()}
        return {
            f"{RANKS}{rank}/{name}": value
            for rank, found in enumerate(world.gather(own))
            for name, value in found.items()
            if rank > 0
        }

    def restore_statistics(self, container: Container, rank: int) -> None:
        """Gives this process its own statistics back, after `DataParallel` has given it those of the first."""
        prefix = f"{RANKS}{rank}/"
        for name, tensor in self._statistics().items():
            if prefix + name in container.tensors:
                tensor.set_value(container.tensors[prefix + name])

    def average_statistics(self, world: World) -> None:
        """Replaces BatchNorm's running statistics, each process's own while training, by their mean."""
        world.mean_(list(self._statistics().values()))

    def finish_training_of_epoch(self, world: World) -> None:
        """Averages the statistics, once: what is left of the epoch is its evaluation."""
        if not self.progress.trained:
            self.average_statistics(world)
            self.progress.trained = True

    def restore(self, container: Container, source: str) -> None:
        """Sets everything to a checkpoint's content."""
        progress, scaler = check_state(container.state, source)
        part = {
            prefix: {k.removeprefix(prefix): v for k, v in container.tensors.items() if k.startswith(prefix)}
            for prefix in (MODEL, EMA, OPTIM)
        }
        set_weights(self.model, part[MODEL], source=source)
        if self.ema is not None:
            set_weights(self.ema.model, part[EMA], source=f"{source} (averaged weights)")
        for model in self.models():
            set_numerics(model, container.state.get("numerics", {}), source=source)
        set_optimizer_tensors(self.optimizer, self.model, part[OPTIM])
        if scaler:
            self.scaler.load_state_dict(scaler | {"scale": np.array(scaler["scale"], np.float32)})
        self.progress = progress


def check_state(state: Mapping[str, Any], source: str) -> tuple[Progress, dict[str, Any]]:
    """Returns a checkpoint's progress and GradScaler state; a WeightsError if `save` cannot have written it."""
    checked_state(state, source)
    if "made_by" in state:
        raise WeightsError(
            f"{source}: holds weights alone, made by {state['made_by'].get('command')}; start from it with --pretrained"
        )
    try:
        if not isinstance(state["settings"], dict):
            raise ValueError(f"settings {state['settings']!r}")
        progress, scaler = Progress(**state["progress"]), state["scaler"]
        if min(progress.epoch, progress.update, progress.iteration) < 0:
            raise ValueError(f"progress {progress}")
        if (progress.iteration > 0 or progress.trained) and not progress.sums:
            raise ValueError("no sums of the epoch that was being trained")
        if not isinstance(scaler, dict) or (scaler and "scale" not in scaler):
            raise ValueError(f"scaler {scaler!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{source}: cannot be continued: {type(error).__name__} {error}") from None
    return progress, scaler


def check_same_settings(saved: Mapping[str, Any], current: Mapping[str, Any], source: str) -> None:
    """Refuses to continue with settings that would change the result; MismatchError lists them."""
    changed = [
        f"{name} {saved.get(name)} -> {current.get(name)}"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name)
    ]
    if changed:
        raise MismatchError(
            f"{source} was trained with other settings: {'; '.join(changed)}. Use those; or "
            "start anew with --restart or another --experiment, where --pretrained can start from this run's weights"
        )
