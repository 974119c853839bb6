"""A run's folder: which checkpoints it has, what they hold, and where a run continues.

checkpoint-latest.safetensors        after every epoch
checkpoint-best.safetensors          best top-1 of the weights
checkpoint-best-ema.safetensors      best top-1 of the averaged weights
checkpoint-000012345.safetensors     every checkpoint_interval epochs, by update; the last checkpoint_hist are kept
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from logging import Logger
from pathlib import Path
from typing import IO, Any

import numpy as np
import paddle
from paddle import nn
from paddle.optimizer import Optimizer

from util.distributed import World
from util.errors import MismatchError, MissingInputError, OutputError, SaveError, WeightsError
from util.train.batch_norm import moving_statistics
from util.train.ema import ModelEma
from util.train.optim import optimizer_tensors, set_optimizer_tensors
from util.weights import EMA, MODEL, set_numerics, set_weights
from util.weights.container import (
    Container,
    DamagedFileError,
    copy_container,
    peek_state,
    read_container,
    write_container,
)
from util.weights.state import checked_state

OPTIM = "optim/"
LATEST, BEST, BEST_EMA = "checkpoint-latest", "checkpoint-best", "checkpoint-best-ema"


@dataclass
class Progress:
    """How far a run is. `epoch` is the next one to train; `update` counts optimizer updates; accuracies in percent.

    A best accuracy of -1 means that there was no evaluation yet; the first one is the best, whatever it is.
    """

    epoch: int = 0
    update: int = 0
    best_acc1: float = -1.0
    best_acc1_ema: float = -1.0
    best_update: int = -1  # the update at which best_acc1 was measured
    best_update_ema: int = -1
    wandb_id: str | None = None


def stems_of(progress: Progress, interval: int) -> list[str]:
    """Returns the names, without suffix, under which the checkpoint of this progress belongs.

    interval: checkpoint_interval. All are copies of one file, so those that a crash left out can be made up for.
    """
    stems = [LATEST]
    if progress.best_update == progress.update:
        stems.append(BEST)
    if progress.best_update_ema == progress.update:
        stems.append(BEST_EMA)
    if interval and progress.epoch % interval == 0:
        stems.append(f"checkpoint-{progress.update:09d}")
    return stems


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
        """Returns every tensor by its name in the checkpoint."""
        tensors = {MODEL + name: value.numpy() for name, value in self.model.state_dict().items()}
        if self.ema is not None:
            tensors |= {EMA + name: value.numpy() for name, value in self.ema.model.state_dict().items()}
        return tensors | {OPTIM + k: v for k, v in optimizer_tensors(self.optimizer, self.model).items()}

    def save(self, paths: list[Path], description: Mapping[str, Any]) -> None:
        """Writes the same checkpoint to each path. `description` says what the model is (name, classes, settings)."""
        scaler = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.scaler.state_dict().items()}
        state = {**description, "numerics": self.model.numerics(), "progress": asdict(self.progress), "scaler": scaler}
        write_container(paths[0], self.tensors(), state)
        for path in paths[1:]:
            copy_container(paths[0], path)

    def average_statistics(self, world: World) -> None:
        """Replaces BatchNorm's running statistics, each process's own while training, by their mean."""
        for model in self.models():
            world.mean_(moving_statistics(model))

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
        if progress.epoch < 0 or progress.update < 0:
            raise ValueError(f"progress {progress}")
        if not isinstance(scaler, dict) or (scaler and "scale" not in scaler):
            raise ValueError(f"scaler {scaler!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{source}: cannot be continued: {type(error).__name__} {error}") from None
    return progress, scaler


class RunFolder:
    """The folder of one experiment."""

    def __init__(self, output: str, experiment: str) -> None:
        self.path = Path(output) / experiment
        self._lock: IO[str] | None = None

    def file(self, stem: str) -> Path:
        """Returns a checkpoint's path by its name without the suffix."""
        return self.path / f"{stem}.safetensors"

    def create(self) -> None:
        """Makes the folder, checks that it can be written to, and keeps a second run out. OutputError otherwise."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  held for the run's life
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror}; choose another --output or --experiment"
            ) from None
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers do not inherit it, unlike flock's
        except OSError:
            self._lock.seek(0)
            raise OutputError(
                f"{self.path}: another run is training here ({self._lock.read().strip() or 'unknown process'}); wait "
                "for it, or choose another --experiment"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
        self._lock.flush()
        for leftover in self.path.glob(".tmp-*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)

    def move_aside(self) -> Path:
        """Renames the folder, which `create` has locked, to the first free `<name>.<n>`, and creates it anew."""
        number = 1
        while (place := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        try:
            self.path.rename(place)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be moved aside: {error.strerror}") from None
        self.create()
        return place

    def numbered(self) -> list[Path]:
        """Returns the checkpoints named by update, oldest first."""
        return sorted(
            p for p in self.path.glob("checkpoint-*.safetensors") if re.fullmatch(r"checkpoint-\d{9}", p.stem)
        )

    def has_run(self) -> bool:
        """Whether something was trained here. One line of log alone is a run that was killed in its very first save."""
        log = self.path / "log.txt"
        return any(self.path.glob("checkpoint-*")) or (log.exists() and log.read_bytes().count(b"\n") > 1)

    def newest(self, log: Logger) -> tuple[Path, Container] | None:
        """Returns the verified checkpoint with the highest update, or None in a folder without a run.

        Damaged ones are renamed to `.damaged` and reported. If none is left, a MissingInputError: a run is never
        silently started from nothing where there was one.
        """
        if not self.has_run():
            return None
        best: tuple[Path, Container] | None = None
        for path in [self.file(LATEST), *self.numbered(), self.file(BEST), self.file(BEST_EMA)]:
            if not path.exists():
                continue
            try:
                container = read_container(path)
            except DamagedFileError as error:
                log.warning(f"{error}; kept as {path.name}.damaged")
                os.replace(path, f"{path}.damaged")
                continue
            if best is None or container.state["progress"]["update"] > best[1].state["progress"]["update"]:
                best = path, container
        if best is None:
            raise MissingInputError(
                f"{self.path} holds a run but no usable checkpoint; start anew with --restart (the folder is kept "
                "under another name), or choose another --experiment"
            )
        return best

    def complete(self, source: Path, progress: Progress, interval: int) -> None:
        """Makes up for the copies of a checkpoint that a crash left out while it was saved."""
        for stem in stems_of(progress, interval):
            path = self.file(stem)
            if path.resolve() != source.resolve() and (
                not path.exists() or peek_state(path).get("progress") != asdict(progress)
            ):
                copy_container(source, path)

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` numbered checkpoints."""
        for path in self.numbered()[:-keep]:
            path.unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file of the run."""
        beside = self.path / f".tmp-{name}-{os.getpid()}"
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.path / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise SaveError(f"{self.path / name}: not written: {error.strerror}") from None


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
