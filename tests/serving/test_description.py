"""The server against its own OpenAPI document, by requests that are made from it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.served import Serving


@pytest.mark.slow
def test_the_server_does_as_its_description_says(server: Serving, tmp_path: Path) -> None:
    """All checks but one: no schema says which bytes are an image, so that some that fit it are refused."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"http://127.0.0.1:{server.port}/openapi.json",
    ]
    options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", "50", "--no-color"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "14 passed" in done.stdout
