"""A run's folder with three saves, made once."""

import shutil
from pathlib import Path

import pytest

from tests.runs import open_run, save
from util.train.run_folder import RunFolder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, not to be changed."""
    folder = open_run(tmp_path_factory.mktemp("saved") / "run")
    for number in range(3):
        save(folder, number)
    return folder.path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> RunFolder:
    """A copy of the folder, opened."""
    shutil.copytree(saved, tmp_path / "run")
    return open_run(tmp_path / "run")
