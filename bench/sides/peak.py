"""A side's peak memory instead of its speed. Standard library only."""

from collections.abc import Callable
from pathlib import Path

from bench.side import serve


def serve_peak(measure: Callable[[], float]) -> None:
    """Measures three times, and serves the process's peak memory in GB (VmHWM of Linux)."""
    for _ in range(3):
        measure()
    serve(_peak)


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / 1e9
