"""Running an exported program: Paddle Inference, OpenVINO, ONNX Runtime. Imports none of them before it is chosen."""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from util.deploy.bundle import HINTS, INT8, ONNX, PROGRAMS, Contents, Program
from util.errors import UsageError, WeightsError

EngineName = Literal["auto", "paddle", "openvino", "onnxruntime"]
Precision = Literal["fp32", "bf16", "int8"]
REQUIREMENTS = "pip install -r requirements-deploy.txt"


@dataclass(frozen=True)
class Forward:
    """A loaded program. Called with images float32 (B, C, H, W), it returns logits float32 (B, K).

    outputs: all that the manifest says of the program: the logits, then attention maps float32 (B, rows, columns).
    """

    outputs: Callable[[np.ndarray], list[np.ndarray]]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)[0]


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


def start_engine(engine: Engine, program: Program, *, device: str, threads: int, onednn: bool) -> Forward:
    """Returns a function that runs the program. One caller at a time: predictors are not to be shared by threads.

    device: `cpu` or `gpu[:N]`; threads: of CPU arithmetic; onednn: oneDNN's kernels in Paddle Inference on CPU.
    """
    if engine.name == "paddle":
        forward = paddle_engine(program, device=device, threads=threads, onednn=onednn)
    elif engine.name == "paddle-openvino":
        forward = paddle_openvino_engine(program, threads=threads, precision=engine.precision)
    elif engine.name == "openvino":
        forward = openvino_engine(program, threads=threads, precision=engine.precision)
    else:
        forward = onnxruntime_engine(program, threads=threads)
    size = program.manifest.input_shape[0]
    if size is not None:
        forward = _in_batches_of(size, forward)

    def checked(images: np.ndarray) -> list[np.ndarray]:
        try:
            outputs = forward.outputs(images)
        except _run_errors(engine) as error:
            raise WeightsError(
                f"{program.path}: {engine} fails on images {images.shape}: {_last_line(error)}"
            ) from None
        logits = outputs[0]
        if len(logits) != len(images):  # the OpenVINO within Paddle prints what is wrong, and goes on
            raise WeightsError(f"{program.path}: {engine} fails on images {images.shape}: logits {logits.shape}")
        return outputs

    return Forward(checked)


def _count_outputs(program: Program) -> int:
    return 1 if program.manifest.attention is None else 2


def _in_batches_of(size: int, forward: Forward) -> Forward:
    """Returns `forward` for any number of images, of a program that takes `size` at a time, as others export them."""

    def in_batches(images: np.ndarray) -> list[np.ndarray]:
        missing = -len(images) % size
        padded = np.concatenate([images, np.zeros_like(images[:1]).repeat(missing, axis=0)]) if missing else images
        parts = [forward.outputs(padded[i : i + size]) for i in range(0, len(padded), size)]
        return [np.concatenate(output)[: len(images)] for output in zip(*parts, strict=True)]

    return Forward(in_batches)


def _run_errors(engine: Engine) -> tuple[type[Exception], ...]:
    """Returns what an engine raises for a program that does not fit its images."""
    if engine.name == "onnxruntime":
        return _onnxruntime_errors()
    return (RuntimeError, ValueError)


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    return (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented,
            errors.RuntimeException)  # fmt: skip


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def paddle_engine(program: Program, *, device: str, threads: int, onednn: bool) -> Forward:
    """Returns Paddle Inference with its own kernels, on `cpu` or `gpu[:N]`. One caller at a time."""
    import paddle.inference as inference

    config = inference.Config(str(program.path), str(program.params))
    if device.startswith("gpu"):
        number = int(device.partition(":")[2] or 0)
        config.enable_use_gpu(256, number)
    elif device == "cpu":
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        if onednn:
            config.enable_mkldnn()
        else:
            config.disable_mkldnn()
    else:
        raise UsageError(f"infer.py runs on cpu or gpu; got --device {device}")
    return _predictor(inference, config, program)


def paddle_openvino_engine(program: Program, *, threads: int, precision: Precision) -> Forward:
    """Returns the OpenVINO that Paddle Inference carries, on a `.pdmodel`; a `.json` it would silently not take.

    precision: fp32 or bf16. One caller at a time.
    """
    import paddle.inference as inference

    assert program.path.suffix == ".pdmodel"
    config = inference.Config(str(program.path), str(program.params))
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    types = {"fp32": inference.PrecisionType.Float32, "bf16": inference.PrecisionType.Bfloat16}
    config.enable_openvino_engine(types[precision])
    if not config.openvino_engine_enabled():
        raise UsageError(f"this Paddle was built without OpenVINO: choose --engine paddle, or {REQUIREMENTS}")
    # it keeps what it compiled, by default in `__cache__` of the working directory, and would trust what lies there
    with tempfile.TemporaryDirectory(prefix="openvino.") as cache:
        config.set_optim_cache_dir(cache)
        return _predictor(inference, config, program)


def _predictor(inference: ModuleType, config: "inference.Config", program: Program) -> Forward:  # type: ignore[name-defined]  # noqa: F821
    config.disable_glog_info()
    try:
        predictor = inference.create_predictor(config)
    except (RuntimeError, ValueError, OSError) as error:
        raise WeightsError(f"{program.path}: Paddle Inference cannot load it: {_last_line(error)}") from None
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    names = predictor.get_output_names()[: _count_outputs(program)]
    targets = [predictor.get_output_handle(name) for name in names]

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        source.copy_from_cpu(np.ascontiguousarray(images, dtype=np.float32))
        predictor.run()
        return [target.copy_to_cpu() for target in targets]

    return Forward(outputs)


def tell_nobody() -> None:
    """Keeps both packages from collecting usage data for their makers, with a number for the user kept in his home.

    Call it before importing either. What the environment says of ORT_DISABLE_TELEMETRY is left alone.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed


def openvino_engine(program: Program, *, threads: int, precision: Precision) -> Forward:
    """Returns the OpenVINO package on a `.pdmodel` or `.onnx`. One caller at a time.

    precision: fp32 or bf16.
    """
    tell_nobody()
    try:
        import openvino
    except ImportError as error:
        raise UsageError(f"OpenVINO is installed, but cannot be imported: {error}; choose another --engine") from None

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",  # one batch after the other, on all threads
    }
    try:
        # the parameters by their name, or it takes what lies beside the program
        own = program.params == program.path
        read = core.read_model(str(program.path)) if own else core.read_model(str(program.path), str(program.params))
        compiled = core.compile_model(read, "CPU", options)
    except RuntimeError as error:
        raise WeightsError(f"{program.path}: OpenVINO cannot load it: {_last_line(error)}") from None
    request = compiled.create_infer_request()
    count = _count_outputs(program)

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        request.infer({0: np.ascontiguousarray(images, dtype=np.float32)}, share_inputs=True)
        return [request.get_output_tensor(i).data.copy() for i in range(count)]

    return Forward(outputs)


def onnxruntime_engine(program: Program, *, threads: int) -> Forward:
    """Returns ONNX Runtime on a `.onnx`, fp32 or quantised. One caller at a time."""
    tell_nobody()
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            f"ONNX Runtime is installed, but cannot be imported: {error}; choose another --engine"
        ) from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(program.path), options, providers=["CPUExecutionProvider"])
    except _onnxruntime_errors() as error:
        raise WeightsError(f"{program.path}: ONNX Runtime cannot load it: {_last_line(error)}") from None
    name = session.get_inputs()[0].name
    names = [output.name for output in session.get_outputs()[: _count_outputs(program)]]

    def outputs(images: np.ndarray) -> list[np.ndarray]:
        return list(session.run(names, {name: np.ascontiguousarray(images, dtype=np.float32)}))

    return Forward(outputs)
