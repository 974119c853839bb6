"""A program in Paddle 3's format, `.json`: what is needed of it, without Paddle.

Operations are objects with a name "#" (`1.softmax`: dialect and kind; `p`, a parameter), inputs "I", outputs "O" and
attributes "A"; tensors are numbers "%", and outputs have their type as "TT". There is no description to cite; this is
what Paddle 3.0 to 3.3 write.
"""

import json
from pathlib import Path
from typing import Any

from util.deploy.program_graph import Graph, Operation, TensorType, check_program_size
from util.errors import WeightsError

_TYPES = {"0.t_bool": "bool", "0.t_ui8": "uint8", "0.t_i8": "int8", "0.t_i16": "int16", "0.t_i32": "int32",
          "0.t_i64": "int64", "0.t_f16": "float16", "0.t_bf16": "bfloat16", "0.t_f32": "float32", "0.t_f64": "float64",
          "0.t_c64": "complex64", "0.t_c128": "complex128"}  # fmt: skip


def read_program(path: Path) -> Graph:
    """Returns a program's first block; damage, or what is no such program, is a WeightsError."""
    check_program_size(path)
    try:
        values = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: damaged: not JSON") from None
    base = values.get("base_code") if isinstance(values, dict) else None
    if not isinstance(base, dict) or base.get("magic") != "pir":
        raise WeightsError(f"{path}: is no program of Paddle 3")
    try:
        return _graph(values["program"]["regions"][0]["blocks"][0]["ops"])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise WeightsError(f"{path}: damaged, or of an unknown version of Paddle 3: {reason[:100]}") from None


def _graph(values: list[dict[str, Any]]) -> Graph:
    parameters: dict[str, TensorType] = {}
    inputs: dict[str, TensorType] = {}
    outputs: dict[str, TensorType] = {}
    operations: list[Operation] = []
    names: dict[int, str] = {}  # of parameters, by their tensors
    for value in values:
        kind = str(value["#"]).rpartition(".")[2].rstrip("_")  # one that works in place computes the same
        if kind == "p":
            name, made = value["A"][3], value["O"]
            if not isinstance(name, str) or name in parameters:
                raise ValueError(f"parameter {name!r}")
            parameters[name] = _type(made)
            names[made["%"]] = name
            continue
        taken = [_name(tensor, names) for tensor in value["I"]]
        made = [_name(tensor, names) for tensor in value["O"]]
        if kind in ("data", "feed"):
            inputs[made[0]] = _type(value["O"][0])
        elif kind == "fetch":
            outputs[taken[0]] = _type(value["O"][0])
        else:
            operations.append(
                Operation(kind=kind, inputs=tuple(taken), outputs=tuple(made), attributes=_attributes(value["A"]))
            )
    return Graph(parameters=parameters, inputs=inputs, outputs=outputs, operations=tuple(operations))


def _name(tensor: dict[str, Any], names: dict[int, str]) -> str:
    number = tensor["%"]
    return names.get(number, f"%{number}")


def _type(tensor: dict[str, Any]) -> TensorType:
    elements, shape = tensor["TT"]["D"][:2]
    if not all(type(side) is int and side >= -1 for side in shape):
        raise ValueError(f"shape {shape}")
    return TensorType(dtype=_TYPES[elements["#"]], shape=tuple(None if side == -1 else side for side in shape))


def _attributes(values: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the attributes that are one number."""
    numbers = {value["N"]: value["AT"].get("D") for value in values}
    return {name: number for name, number in numbers.items() if type(number) in (int, float)}
