"""A program in Paddle 2's format, `.pdmodel`: what is needed of its Protocol Buffers message, without Paddle.

    ProgramDesc    blocks = 1
    BlockDesc      vars = 3, ops = 4
    VarDesc        name = 1, type = 2, persistable = 3
    VarType        type = 1, dense tensor = 3 {TensorDesc = 1 {data_type = 1, repeated dims = 2}}
    OpDesc         inputs = 1, outputs = 2 {parameter = 1, repeated arguments = 2}, type = 3
                   attrs = 4 {name = 1, type = 2, i = 3, f = 4}

Source: paddle/fluid/framework/framework.proto of Paddle, by its field numbers.
"""

from collections.abc import Iterator
from pathlib import Path

from util.deploy.program_graph import Graph, Operation, TensorType, check_program_size
from util.errors import DamagedFileError, WeightsError
from util.protobuf import Message

# Paddle's VarType.Type -> numpy's name, of elements
_TYPES = {0: "bool", 1: "int16", 2: "int32", 3: "int64", 4: "float16", 5: "float32", 6: "float64", 20: "uint8",
          21: "int8", 22: "bfloat16", 23: "complex64", 24: "complex128"}  # fmt: skip
# of variables
_DENSE_TENSOR = 7
_NO_PARAMETERS = (9, 10, 17)  # what feeds, what fetches, and raw ones, which Paddle does not load either


def read_program(path: Path) -> Graph:
    """Returns a program's first block; damage, or what is no such program, is a WeightsError."""
    check_program_size(path)
    try:
        return _graph(Message(memoryview(path.read_bytes())))
    except DamagedFileError as error:
        raise WeightsError(f"{path}: damaged, or no program of Paddle 2: it {error}") from None


def tensor_type(desc: Message) -> TensorType:
    """Returns what a TensorDesc says; a file of parameters has them, too."""
    code, shape = desc.integer(1), desc.integers(2)
    if code not in _TYPES or any(side < -1 for side in shape):
        raise DamagedFileError(f"holds a tensor of type {code} and shape {shape}")
    return TensorType(dtype=_TYPES[code], shape=tuple(None if side == -1 else side for side in shape))


def _graph(program: Message) -> Graph:
    block = next(program.messages(1), None)
    if block is None:
        raise DamagedFileError("holds no block")
    tensors: dict[str, TensorType] = {}
    parameters: dict[str, TensorType] = {}
    for variable in block.messages(3):
        name, kind = variable.text(1), variable.message(2)
        code = kind.integer(1)
        if code == _DENSE_TENSOR:
            tensors[name] = tensor_type(kind.message(3).message(1))
        if variable.integer(3, default=0) and code not in _NO_PARAMETERS:
            if name not in tensors or name in parameters:
                raise DamagedFileError(f"holds a parameter {name!r} that is no tensor, or is there twice")
            parameters[name] = tensors[name]
    operations = tuple(map(_operation, block.messages(4)))
    try:
        return Graph(
            parameters=parameters,
            inputs={n: tensors[n] for op in operations if op.kind == "feed" for n in op.outputs},
            outputs={n: tensors[n] for op in operations if op.kind == "fetch" for n in op.inputs},
            operations=tuple(op for op in operations if op.kind not in ("feed", "fetch")),
        )
    except KeyError as error:
        raise DamagedFileError(f"takes or gives {error}, which is no tensor") from None


def _operation(operation: Message) -> Operation:
    slots = {slot.text(1): slot.texts(2) for slot in operation.messages(1)}
    first = [name for slot in ("X", "Input") for name in slots.pop(slot, [])]
    return Operation(
        kind=operation.text(3),
        inputs=(*first, *(name for names in slots.values() for name in names)),
        outputs=tuple(name for slot in operation.messages(2) for name in slot.texts(2)),
        attributes=dict(_attributes(operation)),
    )


def _attributes(operation: Message) -> Iterator[tuple[str, float]]:
    """Yields the attributes that are one number of 32 bits."""
    for attribute in operation.messages(4):
        if 3 in attribute:
            yield attribute.text(1), attribute.integer(3)
        elif 4 in attribute:
            yield attribute.text(1), attribute.real(4)
