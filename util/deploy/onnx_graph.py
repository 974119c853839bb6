"""An ONNX program: what is needed of its Protocol Buffers message, without the package.

    ModelProto        graph = 7, opset_import = 8
    GraphProto        node = 1, initializer = 5, input = 11, output = 12, sparse_initializer = 15
    NodeProto         input = 1, output = 2, op_type = 4, attribute = 5
    AttributeProto    name = 1, f = 2, i = 3, t = 5, g = 6, tensors = 10, graphs = 11, sparse_tensor(s) = 22, 23
    TensorProto       dims = 1, data_type = 2, name = 8, raw_data = 9, data_location = 14
    ValueInfoProto    name = 1, type = 2 {tensor = 1 {elem_type = 1, shape = 2 {dim = 1 {dim_value = 1}}}}

Source: onnx/onnx.proto of ONNX, by its field numbers.
"""

import math
import mmap
from pathlib import Path

from util.deploy.program_graph import Graph, Operation, TensorType
from util.errors import DamagedFileError, WeightsError
from util.protobuf import Message

# TensorProto.DataType -> numpy's name and bytes; others can be neither input nor output, and are not compared
_TYPES = {1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 5: ("int16", 2), 6: ("int32", 4), 7: ("int64", 8),
          9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8), 16: ("bfloat16", 2)}  # fmt: skip
_KINDS = {"Add": "add", "BatchNormalization": "batch_norm", "Conv": "conv2d", "GlobalAveragePool": "pool2d",
          "LogSoftmax": "log_softmax", "MatMul": "matmul", "Mul": "elementwise_mul", "ReduceMean": "mean",
          "Sub": "subtract"}  # fmt: skip
_VALUES = (4, 5, 6, 7, 9, 10, 11)  # fields of a TensorProto that hold its numbers, by their type, or all as bytes
_RAW, _EXTERNAL = 9, 1


def read_program(path: Path) -> Graph:
    """Returns a program's graph; damage, weights in other files, or what is no such program, is a WeightsError.

    The file is mapped, and the weights in it are passed over.
    """
    try:
        with open(path, "rb") as file:
            model = Message(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        if 8 not in model:
            raise DamagedFileError("names no version of operators")
        return _graph(model.message(7))
    except DamagedFileError as error:
        raise WeightsError(f"{path}: damaged, or no ONNX program: it {error}") from None
    except ValueError:
        raise WeightsError(f"{path}: is empty") from None


def _graph(graph: Message) -> Graph:
    if 15 in graph:
        raise DamagedFileError("has sparse weights, which are not checked here")
    parameters = dict(map(_parameter, graph.messages(5)))
    inputs = dict(map(_value, graph.messages(11)))
    return Graph(
        parameters=parameters,
        inputs={name: kind for name, kind in inputs.items() if name not in parameters},
        outputs=dict(map(_value, graph.messages(12))),
        operations=tuple(map(_operation, graph.messages(1))),
    )


def _parameter(tensor: Message) -> tuple[str, TensorType]:
    """Returns name and type of a weight, whose bytes must be there."""
    name, code, shape = tensor.text(8), tensor.integer(2), tensor.integers(1)
    if tensor.integer(14, default=0) == _EXTERNAL:
        raise DamagedFileError(f"has {name!r} in another file; save all of it as one")
    dtype, size = _TYPES.get(code, (f"type {code}", 0))
    count = math.prod(shape)
    if min(shape, default=0) < 0 or (count and not any(field in tensor for field in _VALUES)):
        raise DamagedFileError(f"has no values for {name!r}, {shape}")
    if _RAW in tensor and size and len(tensor.data(_RAW)) != size * count:
        raise DamagedFileError(f"has {len(tensor.data(_RAW))} bytes for {name!r}, {dtype} {shape}")
    return name, TensorType(dtype=dtype, shape=tuple(shape))


def _value(value: Message) -> tuple[str, TensorType]:
    tensor = value.message(2).message(1)
    sides = [dim.integer(1, default=0) for dim in tensor.message(2).messages(1)]  # an open one has a name, or nothing
    code = tensor.integer(1)
    dtype = _TYPES.get(code, (f"type {code}", 0))[0]
    return value.text(1), TensorType(dtype=dtype, shape=tuple(side if side > 0 else None for side in sides))


def _check_attribute(attribute: Message) -> None:
    """Refuses what an operator brings along where it is not whole: tensors in other files, also of graphs within."""
    if 22 in attribute or 23 in attribute:
        raise DamagedFileError("has sparse weights, which are not checked here")
    for field in (5, 10):
        for tensor in attribute.messages(field):
            if tensor.integer(14, default=0) == _EXTERNAL:
                raise DamagedFileError("has a constant in another file; save all of it as one")
    for field in (6, 11):
        for graph in attribute.messages(field):
            _check_subgraph(graph)


def _check_subgraph(graph: Message) -> None:
    if 15 in graph:
        raise DamagedFileError("has sparse weights, which are not checked here")
    for tensor in graph.messages(5):
        _parameter(tensor)
    for node in graph.messages(1):
        for attribute in node.messages(5):
            _check_attribute(attribute)


def _operation(node: Message) -> Operation:
    kind, attributes = node.text(4), dict[str, float]()
    for attribute in node.messages(5):
        _check_attribute(attribute)
        if 3 in attribute:
            attributes[attribute.text(1)] = attribute.integer(3)
        elif 2 in attribute:
            attributes[attribute.text(1)] = attribute.real(2)
    return Operation(
        kind=_KINDS.get(kind, kind.lower()),
        inputs=tuple(node.texts(1)),
        outputs=tuple(node.texts(2)),
        attributes=attributes,
    )
