"""What is set up before Paddle is loaded."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.run import ROOT
from util import runtime

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
    ("own", "files", "cores"),
    [
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {"cpu.max": "250000 100000"}, 2.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b", {"cpu.max": "100000 100000", "a/b/cpu.max": "200000 100000"}, 1.0),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/", {"cpu.max": "what is this"}, math.inf),
    ],
)
def test_the_cores_that_a_container_may_use(
    own: str, files: dict[str, str], cores: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").write_text(own + "\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    quota = runtime.cpu_quota(tmp_path / "groups", tmp_path / "own")
    assert quota == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(runtime, "cpu_quota", lambda: quota)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("PADDLE_LOCAL_SIZE", raising=False)
    assert runtime.count_threads(None) == min(8, math.ceil(min(cores, 8)))


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
