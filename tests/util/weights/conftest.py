"""A container that was written, and a server of files; no mirror is asked for either."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import STATE, some_tensors
from tests.http_files import FileServer
from util.weights.container import write_container


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    write_container(path, some_tensors(), STATE)
    return path


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running
