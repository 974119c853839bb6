"""The golden file timm_policies.npz for several test files, and how far samples are from a distribution."""

import json
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import GOLDEN, picture
from util.data import operations
from util.data.operations import Canvas

FILL = (124, 116, 104)
BILINEAR = Canvas(fill=FILL, resamples=(Image.Resampling.BILINEAR,))
SOURCE = picture(16, 24, 5)
# The statistic of Kolmogorov and Smirnov is below this with probability 0.99.
UNLIKELY = 1.63

with np.load(GOLDEN / "timm_policies.npz") as _file:
    ARRAYS: dict[str, np.ndarray] = {name: _file[name] for name in _file.files}


def source() -> Image.Image:
    """Returns the picture that the golden pictures are made of."""
    return Image.fromarray(SOURCE)


def plain(name: str) -> Any:
    """Returns what the golden file holds as JSON."""
    return json.loads(str(ARRAYS[name]))


def keys(first: str) -> list[str]:
    """Returns the names whose first part is `first`."""
    return [name for name in ARRAYS if name.partition("|")[0] == first]


def distance(samples: np.ndarray, name: str) -> float:
    """Returns how far samples are from timm's distribution `name`, in units of their own noise (see UNLIKELY)."""
    grid, expected = ARRAYS[f"cdf|{name}|at"].astype(np.float64), ARRAYS[f"cdf|{name}"]
    found = (np.asarray(samples)[:, None] <= grid).mean(axis=0)
    return float(np.abs(found - expected).max() * math.sqrt(len(samples)))


def distance_to_uniform(samples: np.ndarray, low: float, high: float) -> float:
    """Returns the same for the uniform distribution between two bounds."""
    ranks = np.arange(1, len(samples) + 1) / len(samples)
    largest = np.abs(np.sort((samples - low) / (high - low)) - ranks).max()
    return float(largest * math.sqrt(len(samples)))


def record_operations(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType = operations
) -> list[tuple[str, float | None]]:
    """Returns a list to which each operation's name and argument is appended instead of applying it.

    module: the one that calls apply_operation.
    """
    calls: list[tuple[str, float | None]] = []

    def record(
        image: Image.Image, name: str, argument: float | None, *, fill: Any, resample: Any, exact: bool
    ) -> Image.Image:
        assert (fill, resample, exact) == (FILL, Image.Resampling.BILINEAR, True)
        calls.append((name, argument))
        return image

    monkeypatch.setattr(module, "apply_operation", record)
    return calls
