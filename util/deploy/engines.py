"""Running an exported program: Paddle Inference, OpenVINO, ONNX Runtime. Imports none of them before it is started."""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from util.deploy.bundle import Program
from util.deploy.engine_choice import REQUIREMENTS, Engine, Precision
from util.errors import UsageError, WeightsError


@dataclass(frozen=True)
class Forward:
    """A loaded program. Called with images float32 (B, C, H, W), it returns logits float32 (B, K).

    outputs: all that the manifest says of the program: the logits, then attention maps float32 (B, rows, columns).
    """

    outputs: Callable[[np.ndarray], list[np.ndarray]]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)[0]


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
