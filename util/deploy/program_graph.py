"""What is read of another project's program before native code sees it: tensors, operations, and what its output is.

`program_desc`, `program_json` and `onnx_graph` make it of the three formats. Operations have Paddle's names; ONNX's are
translated. Imports no paddle.
"""

from dataclasses import dataclass, field
from pathlib import Path

from util.errors import WeightsError
from util.prediction import Output

MAX_PROGRAM = 256 << 20  # bytes of a program without its parameters; those of image classifiers have a few million

# What hands its first input on, the same numbers in the same order
_SAME = frozenset({
    "assign", "cast", "dropout", "flatten", "flatten2", "flatten_contiguous_range", "identity", "reshape", "reshape2",
    "share_data", "squeeze", "squeeze2",
})  # fmt: skip
# What multiplies by weights: whatever real numbers come out, they are scores before a softmax. log_softmax's, too: the
# softmax of them is the softmax of its input
_SCORES = frozenset({
    "batch_norm", "conv2d", "depthwise_conv2d", "fc", "gemm", "linear", "log_softmax", "matmul", "matmul_v2", "mul",
})  # fmt: skip
# What is a score if all that it is made of are: biases and means of several heads, averages over places
_MIXED = frozenset({
    "add", "elementwise_add", "elementwise_sub", "mean", "pool2d", "reduce_mean", "scale", "subtract",
})  # fmt: skip
_CONSTANTS = frozenset({"assign_value", "constant", "fill_constant", "full", "full_int_array"})


@dataclass(frozen=True, kw_only=True)
class TensorType:
    """Type of the elements, in numpy's words, and the shape; None is an open axis."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('?' if side is None else str(side) for side in self.shape)})"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """kind: its name. inputs: names of tensors, the one it works on first. attributes: those that are numbers."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A program; parameters, inputs and outputs by name. An ONNX program's parameters are in the program itself."""

    parameters: dict[str, TensorType]
    inputs: dict[str, TensorType]
    outputs: dict[str, TensorType]
    operations: tuple[Operation, ...]


def output_of(graph: Graph, name: str) -> Output:
    """Returns what the output `name`, of shape (B, K), is; what is not certain is a ValueError that says why.

    It is `probabilities` where a softmax over the K classes is the last thing to change it, and `logits` where all that
    it is made of comes from a product with weights.
    """
    makers = {output: operation for operation in graph.operations for output in operation.outputs}
    name = _through_same(makers, name)
    last = makers.get(name)
    if last is not None and last.kind == "softmax":
        axis = last.attributes.get("axis", -1)
        if axis not in (-1, 1):
            raise ValueError(f"its softmax is over axis {axis:g}, not over the classes")
        return "probabilities"

    pending, seen, scores = [name], set[str](), 0
    while pending:
        name = pending.pop()
        if name in seen or name in graph.parameters:
            continue
        seen.add(name)
        maker = makers.get(name)
        if maker is not None and maker.kind in _SCORES:
            scores += 1
        elif maker is not None and maker.kind in _SAME | _MIXED and maker.inputs:
            pending += maker.inputs[:1] if maker.kind in _SAME else maker.inputs
        elif maker is None or maker.kind not in _CONSTANTS:
            origin = "an input" if maker is None else repr(maker.kind[:60])
            raise ValueError(
                f"its output comes from {origin}, of which it is not known whether a softmax has to follow"
            )
    if scores == 0:
        raise ValueError("its output does not depend on weights")
    return "logits"


def _through_same(makers: dict[str, Operation], name: str) -> str:
    """Returns the tensor that an operation last changed; a circle ends where it began."""
    seen = set[str]()
    while name in makers and name not in seen:
        seen.add(name)
        last = makers[name]
        is_same = last.kind in _SAME or (last.kind == "scale" and _changes_nothing(last))
        if not (is_same and last.inputs):
            break
        name = last.inputs[0]
    return name


def _changes_nothing(scale: Operation) -> bool:
    """Returns whether it is x * 1 + 0, which Paddle 2 puts before each output. Paddle 3 gives no `scale` attribute."""
    return scale.attributes.get("scale") == 1.0 and scale.attributes.get("bias") == 0.0


def check_program_size(path: Path) -> None:
    """Refuses to read a file that is too long for a program without its parameters; a WeightsError."""
    size = path.stat().st_size
    if size > MAX_PROGRAM:
        raise WeightsError(f"{path}: {size} bytes are no program; at most {MAX_PROGRAM} are read")
