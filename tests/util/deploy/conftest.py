"""What tests of exports and programs share."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def patience() -> Iterator[None]:
    """Ends a test that waits for the other end of a FIFO."""

    def give_up(*_: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
