"""What tests of whole runs begin with."""

from pathlib import Path

import pytest

from tests.trees import write_tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to start runs in, with a small data set in `data`."""
    place = tmp_path_factory.mktemp("runs")
    write_tree(place / "data")
    return place
