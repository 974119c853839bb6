"""Programs as other projects export them: a small classifier with its softmax, in Paddle's formats and as ONNX."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import paddle
from onnx import TensorProto, helper, numpy_helper
from paddle import nn
from paddle.base.proto import framework_pb2
from paddle.static import InputSpec

from util.data.preprocessing import Preprocessing
from util.options import PreprocessOptions

CLASSES = 5
SIZE = 32
GIVEN = PreprocessOptions(
    crop_pct=0.875, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), input_size=(SIZE,)
)
FLAGS = ("--crop_pct", "0.875", "--interpolation", "bilinear", "--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25",
         "0.25")  # fmt: skip
PREPARED = Preprocessing(
    input_size=(3, SIZE, SIZE), crop_pct=0.875, crop_mode="center", interpolation="bilinear", mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)  # fmt: skip


class Classifier(nn.Layer):
    """Has parameters of two types, a BatchNorm's statistics, and a layer that it does not use."""

    def __init__(self, num_classes: int = CLASSES) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2D(8)
        self.register_buffer("offset", paddle.arange(8))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """(B, 3, H, W) -> probabilities (B, K)."""
        pooled = self.norm(self.conv(images)).mean([2, 3]) + 0.1 * self.offset.astype("float32")
        return nn.functional.softmax(self.head(pooled))


def make_classifier(num_classes: int = CLASSES) -> Classifier:
    """Returns one whose answers to different images differ clearly."""
    paddle.seed(0)
    model = Classifier(num_classes)
    for value in (model.head.weight, model.conv.weight):
        value.set_value(3 * value.numpy())
    model.eval()
    return model


def save_paddle(model: nn.Layer, stem: Path, *, old_format: bool) -> None:
    """Writes `<stem>.pdmodel` or `<stem>.json`, with `<stem>.pdiparams`."""
    guard = paddle.pir_utils.OldIrGuard() if old_format else contextlib.nullcontext()
    with guard:
        spec = InputSpec([-1, 3, SIZE, SIZE], "float32", "x")
        static = paddle.jit.to_static(model, input_spec=[spec], full_graph=True)
        try:
            paddle.jit.save(static, str(stem))
        finally:
            model.forward = static.forward.rollback()


def save_onnx(path: Path, *, batch: int | str = "N", end: str = "Softmax", **changes: Any) -> Callable[..., np.ndarray]:
    """Writes a classifier of the mean colour, and returns its function of images (B, 3, H, W).

    end: kind of the last operation. changes: arguments of TensorProto for the weights.
    """
    rng = np.random.default_rng(1)
    weight, bias = (5 * rng.standard_normal(shape, dtype=np.float32) for shape in ((3, CLASSES), (CLASSES,)))
    tensors = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    for name, value in changes.items():
        setattr(tensors[0], name, value)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"], alpha=1.0),
        helper.make_node(end, ["scores"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
        tensors,
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )

    def answer(images: np.ndarray) -> np.ndarray:
        scores = images.mean(axis=(2, 3)) @ weight + bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    return answer


def change_onnx(path: Path, change: Callable[[Any], object]) -> None:
    """Applies `change` to an ONNX model, as the package has it."""
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def change_program(path: Path, change: Callable[[Any], object]) -> None:
    """Applies `change` to the first block of a `.pdmodel`, as Paddle's own reader has it."""
    program = framework_pb2.ProgramDesc()
    program.ParseFromString(path.read_bytes())
    change(program.blocks[0])
    path.write_bytes(program.SerializeToString())


def records(params: Path, shapes: list[tuple[tuple[int, ...], int]]) -> Iterator[bytes]:
    """Yields the tensors of a `.pdiparams`, as their bytes; shapes: of all, with the bytes of an element."""
    data, start = params.read_bytes(), 0
    for shape, size in shapes:
        length = int.from_bytes(data[start + 16 : start + 20], "little")
        end = start + 20 + length + size * int(np.prod(shape))
        yield data[start:end]
        start = end
    assert start == len(data)
