"""A container that was written, for the tests of reading, damaging and writing it."""

from pathlib import Path

import pytest

from tests.containers import STATE, some_tensors
from util.weights.container import write_container


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    write_container(path, some_tensors(), STATE)
    return path
