"""Whether two runs came to the same end, and a run that is small and has everything random in it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.scripts.run import TINY
from util.weights.container import read_container

# crops, RandAugment, erasing, mixing, dropout, stochastic depth, the average, several micro-batches an update
RANDOM = (
    *TINY, "--aa", "rand-m9-mstd0.5-inc1", "--reprob", "0.5", "--mixup", "0.8", "--cutmix", "1", "--drop_rate", "0.1",
    "--drop_path_rate", "0.2", "--model_ema", "--model_ema_decay", "0.9", "--model_ema_warmup", "--lr", "1e-3",
)  # fmt: skip
TIMES = ("seconds", "images_per_second", "data_wait")


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's log.txt without those numbers that are times."""
    lines = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def digest(checkpoint: Path) -> str:
    """Returns the sha256 of all that a verified checkpoint holds: weights, average, optimizer, and what it says."""
    container = read_container(checkpoint)
    sha = hashlib.sha256(json.dumps(container.state, sort_keys=True).encode())
    for name in sorted(container.tensors):
        sha.update(name.encode() + container.tensors[name].tobytes())
    return sha.hexdigest()


def end_of(folder: Path) -> dict[str, Any]:
    """Returns what must be equal in two runs of the same settings, however often one of them was killed."""
    names = ("checkpoint-latest", "checkpoint-best", "checkpoint-best-ema")
    return {"log": log_lines(folder)} | {name: digest(folder / f"{name}.safetensors") for name in names}
