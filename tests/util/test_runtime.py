"""What is set up before Paddle is loaded."""

import os
import signal
import subprocess
import sys

import pytest

from tests.scripts.run import ROOT

LATE = """
import os, signal
from util import runtime
load = runtime._load_paddle
def load_and_be_stopped():
    load()
    os.kill(os.getpid(), signal.SIGTERM)
runtime._load_paddle = load_and_be_stopped
{change}
runtime.start(None)
print("alive")
"""


@pytest.mark.parametrize(
    ("change", "quiet"),
    [("", True), ("import contextlib; runtime._sigterm_later = contextlib.nullcontext", False)],
    ids=["held back", "control"],
)
def test_sigterm_while_paddle_is_loaded_ends_the_process_without_a_stack(change: str, quiet: bool) -> None:
    code = LATE.format(change=change)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GLOG_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "alive" not in done.stdout
    assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert ("Termination signal" not in done.stdout + done.stderr) == quiet


def test_setuptools_is_imported_when_it_is_needed_and_not_before() -> None:
    code = """
import sys
from util import runtime
runtime.start(1)
import paddle
assert "setuptools" not in sys.modules
assert paddle.utils.cpp_extension.load.__module__ == "paddle.utils.cpp_extension.cpp_extension"
assert "setuptools" in sys.modules
from paddle.utils.cpp_extension import CppExtension
assert paddle.utils.cpp_extension is sys.modules["paddle.utils.cpp_extension"]
assert paddle.utils.cpp_extension.CppExtension is CppExtension
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    bare = "import sys, paddle; sys.exit('setuptools' in sys.modules)"  # else there is nothing to leave out any more
    assert subprocess.run([sys.executable, "-c", bare], cwd=ROOT, check=False).returncode == 1
