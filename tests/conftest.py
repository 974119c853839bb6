"""One thread, set before any test imports paddle, so that results do not depend on the machine's cores."""

import signal
import sys
from collections.abc import Iterator

import pytest

from util import runtime

runtime.start(cpu_threads=1)

# A shell starts a job in the background with Ctrl-C ignored, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _models_as_they_come() -> Iterator[None]:
    """Takes back what train.py sets when a test calls it in this process."""
    yield
    if "models.cpu" in sys.modules:
        sys.modules["models.cpu"].rewrite_gradients(False)
