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


KEPT = """
import os
import numpy as np
from util import runtime

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

runtime.keep_freed_memory()
blocks = [np.ones(8 << 20) for _ in range(4)]  # 64 MB each
del blocks
print(resident())
"""


@pytest.mark.parametrize(
    ("variable", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, False),
    ],
    ids=["kept", "variable", "tunable"],
)
def test_freed_memory_stays_with_the_process_unless_the_user_says_otherwise(
    variable: dict[str, str], kept: bool
) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))} | variable
    done = subprocess.run(
        [sys.executable, "-c", KEPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert (float(done.stdout) > 256) == kept


@pytest.mark.parametrize(("given", "views"), [(None, "False"), ("1", "True")])
def test_a_transposition_is_a_copy_on_a_cpu_unless_the_user_says_otherwise(given: str | None, views: str) -> None:
    code = "from util import runtime; runtime.start(1); import paddle; " + (
        "print(not paddle.ones([2, 3]).transpose([1, 0]).is_contiguous())"
    )
    environment = {n: v for n, v in os.environ.items() if n != "FLAGS_use_stride_kernel"}
    if given is not None:
        environment["FLAGS_use_stride_kernel"] = given
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == views
