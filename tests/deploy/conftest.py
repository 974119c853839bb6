"""The export of the server's tests, which has model.onnx; environments without Paddle."""

from pathlib import Path

import pytest

from tests.deploy.environments import make_environment
from tests.serving.conftest import exported

__all__ = ["exported", "paddle_free", "paddle_free_server"]


@pytest.fixture(scope="session")
def paddle_free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with deploy/requirements.txt."""
    return make_environment(tmp_path_factory.mktemp("paddle_free"), ["deploy/requirements.txt"])


@pytest.fixture(scope="session")
def paddle_free_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with deploy/requirements.txt and requirements-serve.txt."""
    files = ["deploy/requirements.txt", "requirements-serve.txt"]
    return make_environment(tmp_path_factory.mktemp("paddle_free_server"), files)
