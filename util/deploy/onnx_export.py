"""The ONNX forms of an export: `model.onnx`, and `model.int8.onnx` by quantisation after training.

Needs paddle2onnx, onnx and ONNX Runtime; all are optional and imported when they are asked for.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from util.deploy.bundle import INT8, ONNX, PARAMS, PROGRAMS, Program
from util.deploy.calibration import Calibration
from util.deploy.engine_choice import REQUIREMENTS, is_installed
from util.deploy.engines import Forward, onnxruntime_engine, tell_nobody
from util.deploy.manifest import Manifest
from util.errors import UsageError

OPSET = 17  # the first with LayerNormalization
OUTPUTS = ("logits", "attention")  # as serve.py names them, so that clients of Triton and of serve.py say the same
QUANTISED = ("Conv", "Gemm", "MatMul")  # of those with a weight; attention, norms, softmax and sums stay float32


def check_packages() -> None:
    """Refuses an export to ONNX without what it needs (UsageError)."""
    missing = [name for name in ("paddle2onnx", "onnx", "onnxruntime") if not is_installed(name)]
    if missing:
        raise UsageError(f"an export to ONNX needs {', '.join(missing)}: {REQUIREMENTS}")


def write_onnx(folder: Path) -> None:
    """Writes `model.onnx` from the program `model.json` beside it."""
    import paddle2onnx

    # of both programs the one in Paddle 3's format: on the other, paddle2onnx 2.1.0 ends in a segmentation fault
    with _said_if_it_fails():
        paddle2onnx.export(
            str(folder / PROGRAMS[0]), str(folder / PARAMS), str(folder / ONNX), opset_version=OPSET, verbose=False
        )
    _name_outputs(folder / ONNX)


def _name_outputs(program: Path) -> None:
    """Names a program's outputs for what they are; Paddle's names are numbers."""
    import onnx

    model = onnx.load(str(program))
    names = {output.name: name for output, name in zip(model.graph.output, OUTPUTS, strict=False)}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in model.graph.output:
        output.name = names[output.name]
    onnx.save(model, str(program))


@contextlib.contextmanager
def _said_if_it_fails() -> Iterator[None]:
    """Keeps what Python and native code write to standard output; it is told on standard error after an exception.

    paddle2onnx tells each of its steps there, `verbose` or not; a command's output is not the place for it.
    """
    own = sys.stdout
    if own is None:  # closed: there is nothing to keep
        yield
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as kept:
        sys.stdout = kept
        descriptor = os.dup(1)
        os.dup2(kept.fileno(), 1)
        try:
            yield
        except BaseException:
            kept.seek(0)
            sys.stderr.write(kept.read())
            raise
        finally:
            os.dup2(descriptor, 1)
            os.close(descriptor)
            sys.stdout = own


def write_int8(folder: Path, manifest: Manifest, calibration: Calibration, *, threads: int) -> dict[str, int | float]:
    """Writes `model.int8.onnx` from `model.onnx`, and returns what the manifest says about it.

    Weights in seven bits of int8, one scale a channel: with eight, sums of two products overflow 16 bits on processors
    without VNNI. Activations in uint8, whose ranges are the extremes seen. `agreement` is the
    share of held-out pictures whose best class is that of fp32.
    """
    tell_nobody()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    fp32 = onnxruntime_engine(Program(path=folder / ONNX, params=folder / ONNX, manifest=manifest), threads=threads)
    name, nodes = _input_and_weighted_nodes(folder / ONNX)

    class Reader(CalibrationDataReader):
        """Hands out one picture after the other."""

        def __init__(self) -> None:
            self._rest = iter(calibration.images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._rest, None)
            return None if image is None else {name: image[None]}

    quantize_static(
        str(folder / ONNX),
        str(folder / INT8),
        Reader(),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # what comes out goes into a sum, a norm or attention, which are float32
        extra_options={"OpTypesToExcludeOutputQuantization": list(QUANTISED)},
    )
    int8 = onnxruntime_engine(Program(path=folder / INT8, params=folder / INT8, manifest=manifest), threads=threads)
    share = agreement(fp32, int8, calibration.held_out)
    return {
        "calibration_images": len(calibration.images),
        "held_out_images": len(calibration.held_out),
        "agreement": share,
    }


def agreement(first: Forward, second: Forward, images: np.ndarray) -> float:
    """Returns the share of images (N, C, H, W) for which both have the same best class."""
    same = [bool(first(image[None]).argmax() == second(image[None]).argmax()) for image in images]
    return sum(same) / len(same)


def _input_and_weighted_nodes(program: Path) -> tuple[str, list[str]]:
    """Returns the input's name, and the names of the logits' convolutions and products with a weight as the second."""
    import onnx

    graph = onnx.load(str(program)).graph
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # in the order of computation
        if node.op_type == "Identity" and node.input[0] in constant:  # paddle2onnx puts one after each weight
            constant.add(node.output[0])
    needed = {graph.output[0].name}  # for the logits: an attention map, which follows from the rest, stays float32
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    weighted = [
        node.name
        for node in graph.node
        if node.op_type in QUANTISED and node.input[1] in constant and needed & set(node.output)
    ]
    return str(graph.input[0].name), weighted
