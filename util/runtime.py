"""What must be set before Paddle is loaded: threads, and the code path of its arithmetic library.

Every script calls `start` before it imports anything that imports paddle. Both settings change speed and bits: Paddle's
CPU wheel links an Intel MKL that takes a slow path on AMD processors unless told otherwise (2 to 3 times slower), and
uses one thread by default.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import io
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from util.errors import UsageError

MAX_THREADS = 1024
PADDLE_RANGE = "paddlepaddle>=3.3.1,<3.4"
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc, malloc.h


@dataclass(frozen=True)
class Runtime:
    """How the arithmetic was set up."""

    threads: int
    vendor: str
    mkl_debug_cpu_type: str | None

    def __str__(self) -> str:
        path = f", MKL_DEBUG_CPU_TYPE={self.mkl_debug_cpu_type}" if self.mkl_debug_cpu_type else ""
        return f"{self.threads} CPU threads on {self.vendor}{path}"


def cpu_vendor() -> str:
    """Returns the processor's vendor, `GenuineIntel` or `AuthenticAMD` on x86, or `unknown`."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return "unknown"


def cpu_quota(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Returns the cores whose time this process may use, by its control groups; infinite where nothing limits it.

    A container with `--cpus 2`, a pod with `limits: {cpu: 2}` or a service with `CPUQuota=200%` sees all cores of its
    machine, and is stopped for a part of each 0.1 s when its threads have used up that time.
    """
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError):  # version 1
        quota, period = (int((groups / f"cpu/cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        found += [quota / period] if quota > 0 else []
    with contextlib.suppress(OSError, ValueError):  # version 2: of the process's own group, and those around it
        lines = own.read_text().splitlines()
        name = next((line for line in lines if line.startswith("0::")), "0::")[3:].strip("/")
        for folder in (groups / name, *(groups / name).parents):
            with contextlib.suppress(OSError, ValueError):  # `max`, or no such limit here
                quota, period = map(int, (folder / "cpu.max").read_text().split())
                found.append(quota / period)
            if folder == groups:
                break
    return min(found)


def available_cores() -> int:
    """Returns the cores that this process may run on, or whose time it may use, if those are fewer; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(cpu_quota(), cores))))


def count_threads(cpu_threads: int | None) -> int:
    """Returns the threads of CPU arithmetic: those asked for, else OMP_NUM_THREADS, else one a core.

    The cores are shared between the processes of this machine that the launcher started.
    """
    if cpu_threads is not None:
        return cpu_threads
    local_processes = max(1, int(os.environ.get("PADDLE_LOCAL_SIZE", "1")))
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, available_cores() // local_processes)))
    if not (threads.isdecimal() and 0 < int(threads) <= MAX_THREADS):
        raise UsageError(f"the variable OMP_NUM_THREADS must be a number in [1, {MAX_THREADS}]; got {threads!r}")
    return int(threads)


def start(cpu_threads: int | None = None) -> Runtime:
    """Sets threads and MKL's path, then loads Paddle. Variables that the user has set are left alone.

    cpu_threads: as of `count_threads`.
    """
    vendor = cpu_vendor()
    if vendor == "AuthenticAMD":
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    threads = count_threads(cpu_threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GLOG_minloglevel", "2")  # errors only; Paddle's C++ part is chatty
    warnings.filterwarnings("ignore", message="No ccache found")
    warnings.filterwarnings("ignore", message="When training, we now always track global mean and variance")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # corrupt EXIF and large pictures: decode_image judges itself
    keep_freed_memory()
    with _sigterm_later():
        _load_paddle()
    _prefer_copies_on_cpu()
    return Runtime(
        threads=threads,
        vendor=vendor,
        mkl_debug_cpu_type=os.environ.get("MKL_DEBUG_CPU_TYPE"),
    )


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed, up to the most that was in use, instead of returning it to the kernel.

    Paddle's CPU allocator asks it anew for every large tensor. Returned memory comes back as pages to be zeroed one by
    one, which takes longer than most operators: adding a bias to 19 MB took 23 ms, 3 ms without.
    """
    own = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    if any(name in os.environ for name in own) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc; other C libraries and allocators have none
    if mallopt is None:
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 * 2**20)):
        mallopt(parameter, value)


def _prefer_copies_on_cpu() -> None:
    """Makes a transposition a copy at once, in a Paddle that has no GPU.

    As a view, Paddle's default, it is copied by the first operator that needs it, on a CPU value by value: 20 ms
    instead of 0.8 for the tokens of 16 images.
    """
    import paddle

    if "FLAGS_use_stride_kernel" not in os.environ and not paddle.device.is_compiled_with_cuda():
        paddle.set_flags({"FLAGS_use_stride_kernel": False})


@contextlib.contextmanager
def _sigterm_later() -> Iterator[None]:
    """Holds SIGTERM back while Paddle is loaded, which installs a handler that prints the stack of its C++ part."""
    own = signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        if not own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _LoadedLater(ModuleType):
    """A package in whose place the real one is imported when somebody asks it for a name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def leave_out_setuptools() -> None:
    """Keeps Paddle from importing setuptools, a fifth of its own import, until it is to build an extension in C++."""
    paddle = None if "paddle" in sys.modules else importlib.util.find_spec("paddle")
    if paddle is None or not paddle.submodule_search_locations:
        return
    later = _LoadedLater("paddle.utils.cpp_extension")
    later.__path__ = [os.path.join(paddle.submodule_search_locations[0], "utils", "cpp_extension")]
    sys.modules[later.__name__] = later


def _load_paddle() -> None:
    """Imports paddle without its advice against more than one thread, and checks its version."""
    said = io.StringIO()
    leave_out_setuptools()
    try:
        with contextlib.redirect_stderr(said):
            import paddle
    except ImportError as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise UsageError(
            f"PaddlePaddle cannot be imported ({error}); install it: pip install -r requirements-cpu.txt, "
            "or requirements-gpu.txt"
        ) from None
    for line in said.getvalue().splitlines():
        if "OMP_NUM_THREADS" not in line:
            print(line, file=sys.stderr)
    version = tuple(int(part) for part in paddle.__version__.split(".")[:3] if part.isdigit())
    if not (3, 3, 1) <= version < (3, 4):
        raise UsageError(f"{PADDLE_RANGE} is needed (paddlepaddle-gpu likewise); found {paddle.__version__}")


def resolve_device(device: str) -> str:
    """Returns `cpu`, `gpu`, `gpu:N`, `xpu` or `npu` for an option's value; a UsageError where there is no such GPU.

    `auto` is a GPU if this Paddle has one. Call it after `start`.
    """
    import paddle

    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device == "auto":
        return "gpu" if has_gpu else "cpu"
    if device.startswith("gpu") and not has_gpu:
        raise UsageError(f"--device {device}: this PaddlePaddle has no GPU to use; choose --device cpu")
    return device
