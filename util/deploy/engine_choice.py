"""Which engine runs an export, and whether what it needs is there. Imports none of them."""

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from util.deploy.bundle import HINTS, INT8, ONNX, PROGRAMS, Contents
from util.errors import UsageError

EngineName = Literal["auto", "paddle", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16", "int8"]
REQUIREMENTS = "pip install -r requirements-deploy.txt"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What runs a program, and which programs it takes.

    name: `paddle`; `paddle-openvino`, the OpenVINO that Paddle Inference carries; `openvino`, the package; or
    `onnxruntime`. programs: file names, the best first.
    """

    name: Literal["paddle", "paddle-openvino", "openvino", "onnxruntime"]
    precision: Precision
    programs: tuple[str, ...]

    @property
    def needs_paddle(self) -> bool:
        """Returns whether Paddle must be loaded to run it."""
        return self.name.startswith("paddle")

    @property
    def lets_python_run(self) -> bool:
        """Returns whether other threads of Python run while it computes: Paddle Inference holds Python's lock."""
        return not self.needs_paddle

    def __str__(self) -> str:
        titles = {"paddle": "Paddle Inference", "paddle-openvino": "OpenVINO within Paddle Inference",
                  "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}  # fmt: skip
        version = "" if self.needs_paddle else f" {importlib.metadata.version(self.name)}"
        return f"{titles[self.name]}{version}, {self.precision}"


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def has_bfloat16() -> bool:
    """Returns whether this processor multiplies bfloat16 itself: AVX512_BF16 or AMX.

    Without, OpenVINO takes the option and computes in float32.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


def choose_engine(
    name: EngineName,
    precision: Precision,
    *,
    device: str,
    given: str | None,
    onednn: bool,
    contents: Contents = Contents(),  # noqa: B008  it does not change
) -> Engine:
    """Returns the engine for a setting; for `auto` the fastest that is installed and runs the program.

    device: `cpu`, or one that Paddle alone knows. given: name of the program that the user gave, or None for a whole
    export, which has `contents`. OpenVINO does not read all `.pdmodel` that are not folded (`erf`, `unbind`), and all
    ONNX. onednn: without, `auto` is Paddle Inference. What does not go together, or is not installed, is a UsageError.
    """
    suffix = Path(given).suffix if given is not None else None
    if name == "auto":
        _check(onednn or suffix != ".onnx", "--no_onednn is for Paddle Inference, which runs no .onnx; leave it out")
        name = _fastest(precision, device=device, suffix=suffix, onednn=onednn, contents=contents)
        if name == "paddle" and device == "cpu" and onednn and _runs_onnx_alone():
            _check(given is None, f"{given} needs Paddle, which is not installed: {HINTS[ONNX]} writes model.onnx")
            name = "onnxruntime"  # whose program is not there; the bundle says what to export
    if name == "paddle":
        engine = Engine(name="paddle", precision=precision, programs=PROGRAMS)
        _check(precision == "fp32", f"--engine paddle computes in fp32; leave the engine out for {precision}")
        suffixes = {".json", ".pdmodel", ".pdiparams"}
    elif name == "openvino":
        # OpenVINO 2026.4 does not load the quantised program: it broadcasts a zero point to a wrong shape
        _check(precision != "int8", "--engine openvino computes in fp32 or bf16; for int8 choose --engine onnxruntime")
        packaged = is_installed("openvino")
        programs = ("model.pdmodel", ONNX) if contents.is_folded else (ONNX, "model.pdmodel")
        engine = Engine(
            name="openvino" if packaged else "paddle-openvino",
            precision=precision,
            programs=programs if packaged else ("model.pdmodel",),
        )
        _check(packaged or is_installed("paddle"), f"--engine openvino: OpenVINO is not installed: {REQUIREMENTS}")
        _check(packaged or suffix != ".onnx", f"ONNX programs need the OpenVINO package: {REQUIREMENTS}")
        suffixes = {".pdmodel", ".pdiparams", ".onnx"}  # the second: with the program beside it
    else:
        _check(is_installed("onnxruntime"), f"--engine onnxruntime: ONNX Runtime is not installed: {REQUIREMENTS}")
        _check(precision != "bf16", "--engine onnxruntime computes in fp32 or int8; for bf16 choose --engine openvino")
        engine = Engine(name="onnxruntime", precision=precision, programs=(INT8 if precision == "int8" else ONNX,))
        suffixes = {".onnx"}
    _check(device == "cpu" or name == "paddle", f"--engine {name} runs on the CPU; got --device {device}")
    _check(
        suffix is None or suffix in suffixes,
        f"--engine {name} runs {', '.join(sorted(suffixes))}; got --model_file {given}",
    )
    _check(
        precision != "bf16" or has_bfloat16(),
        "--precision bf16: this processor has neither AVX512_BF16 nor AMX, so it would compute in fp32; leave it out",
    )
    if given is not None and suffix != ".pdiparams":
        is_int8 = given == INT8
        _check(not is_int8 or precision == "int8", f"{INT8} computes in int8: add --precision int8")
        _check(is_int8 or precision != "int8", f"--precision int8 runs {INT8}; got --model_file {given}")
    return engine


def _fastest(precision: Precision, *, device: str, suffix: str | None, onednn: bool, contents: Contents) -> EngineName:
    if device != "cpu" or suffix == ".json" or not onednn:
        return "paddle"
    if precision == "int8":
        return "onnxruntime"
    has_openvino = is_installed("openvino") or is_installed("paddle")  # which carries one
    if suffix != ".onnx" and contents.is_folded and "model.pdmodel" in contents.names and has_openvino:
        return "openvino"
    if suffix == ".onnx" or (suffix is None and ONNX in contents.names):
        if is_installed("openvino"):
            return "openvino"
        if is_installed("onnxruntime") or suffix == ".onnx":
            return "onnxruntime"
    return "openvino" if precision == "bf16" else "paddle"


def _runs_onnx_alone() -> bool:
    return is_installed("onnxruntime") and not is_installed("paddle")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def may_have_gpu() -> bool:
    """Returns whether the GPU build of Paddle is installed, without the second that importing it takes."""
    try:
        importlib.metadata.distribution("paddlepaddle-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
