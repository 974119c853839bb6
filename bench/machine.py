"""What the figures were measured on."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: pass
print(json.dumps(found))
"""
OURS = (
    "paddlepaddle",
    "paddlepaddle-gpu",
    "numpy",
    "simplejpeg",
    "Pillow",
    "cykooz.resizer",
    "onnxruntime",
    "openvino",
)
PEERS = ("torch", "torchvision", "timm", "onnxruntime", "openvino", "Pillow", "paddlepaddle")


def processor() -> str:
    """Returns the processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of those packages that an interpreter has."""
    done = subprocess.run([python, "-c", _VERSIONS, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def describe(peers_python: str | None, *, threads: int) -> str:
    """Returns machine, threads and versions in a few lines."""

    def listed(found: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in found.items())

    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{processor()}, {cores} cores, {threads} threads; {platform.system()} {platform.release()}; Python "
        f"{platform.python_version()}; load {os.getloadavg()[0]:.1f} at the start",
        f"ours: {listed(versions(sys.executable, OURS))}",
    ]
    if peers_python is not None:
        lines.append(f"peers: {listed(versions(peers_python, PEERS))}")
    return "\n".join(lines)
