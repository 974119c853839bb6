"""The machine and the run."""

import re
from dataclasses import dataclass

from util.options.base import check, check_text, setting


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """device"""

    device: str = setting("auto", "auto (a GPU if there is one), cpu, gpu, gpu:N, xpu or npu", scope="machine")

    def __post_init__(self) -> None:
        known = re.fullmatch(r"auto|cpu|gpu(:\d+)?|xpu|npu", self.device) is not None
        check(known, "device", "auto, cpu, gpu, gpu:N, xpu or npu", self.device)


@dataclass(frozen=True, kw_only=True)
class ThreadOptions:
    """threads"""

    cpu_threads: int | None = setting(
        None, "threads of CPU arithmetic; none: OMP_NUM_THREADS, else one a core", scope="machine"
    )

    def __post_init__(self) -> None:
        check(self.cpu_threads is None or 0 < self.cpu_threads <= 1024, "cpu_threads", "in [1, 1024]", self.cpu_threads)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """run"""

    seed: int = setting(42, "seed of everything random")
    validation_batch_size: int | None = setting(
        None, "images a process in evaluation; none: batch_size", flags=("-vb",), scope="machine"
    )
    output: str = setting("output/train", "root of all runs", scope="machine")
    experiment: str | None = setting(None, "name of the run's folder; none: the model's name", scope="machine")
    restart: bool = setting(False, "move the experiment's folder aside and start anew", scope="machine", yaml=False)
    dry_run: bool = setting(
        False,
        "put one batch of a new run through everything, print memory, speed and the estimated length, write nothing",
        scope="machine",
        yaml=False,
    )
    checkpoint_interval: int = setting(0, "also keep a checkpoint every so many epochs; 0: no", scope="machine")
    checkpoint_hist: int = setting(3, "how many of those to keep", scope="machine")
    save_updates: int = setting(0, "save every so many updates, not only after each epoch; 0: no", scope="machine")
    save_minutes: float = setting(
        15.0, "save when so many minutes have passed since the last save; 0: no", scope="machine"
    )
    async_save: bool = setting(
        True, "write checkpoints while training goes on; --no_async_save waits for each", scope="machine"
    )
    log_interval: int = setting(50, "iterations between two lines of the log", scope="machine")
    log_wandb: bool = setting(False, "also log to Weights & Biases", scope="machine")
    wandb_project: str | None = setting(None, "project at Weights & Biases", scope="machine")

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, "seed", "at least 0 and below 2 ** 63", self.seed)
        for name in ("checkpoint_hist", "log_interval"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("checkpoint_interval", "save_updates", "save_minutes"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        size = self.validation_batch_size
        check(size is None or size > 0, "validation_batch_size", "at least 1", size)
        folder = self.experiment
        check_text("output", self.output)
        check_text("experiment", folder)
        check(not (self.dry_run and self.restart), "dry_run", "off with restart: it writes nothing", self.dry_run)
        is_name = folder is None or (bool(folder) and folder not in (".", "..") and "/" not in folder)
        check(is_name, "experiment", "a folder's name", folder)
