"""The Open Inference Protocol over HTTP, which Triton and KServe speak and `tritonclient[http]` calls.

Two models stand for one: NAME takes tensors, float32 (B, C, H, W), as the exported program does; NAME_files takes image
files, which are decoded here. Both return logits, float32 (B, K), and, if the export has maps and they are asked for by
name, `attention`, float32 (B, rows, columns). Tensors travel as JSON or, as the binary extension
says, as bytes behind it: `Inference-Header-Content-Length` tells where the JSON ends, and texts (BYTES) have their
length before them, as four bytes. With the classification extension, an output is the best classes, as texts
`value:index:name`.

Source: https://github.com/kserve/open-inference-protocol and Triton's extensions of it.
"""

import json
import math
import reprlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from util.serving.requests import MAX_VALUES, RequestError, read_json

HEADER_LENGTH = "inference-header-content-length"
FILES = "_files"  # behind the name of the model that takes files
IMAGES, LOGITS, ATTENTION = "images", "logits", "attention"
VERSION = "1"
EXTENSIONS = ("classification", "binary_tensor_data")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An output that is asked for. classes: as many best classes instead of all logits, 0: as it is. binary: as bytes.

    Bytes stand behind the JSON.
    """

    name: str = LOGITS
    classes: int = 0
    binary: bool


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """What a request asks for: image files or images, float32 (C, H, W); and the outputs, in the answer's order."""

    id: str | None
    files: list[bytes] | None
    images: list[np.ndarray] | None
    outputs: list[Wanted]


def metadata(
    name: str,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    takes_files: bool,
    attention: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Returns what the protocol tells of a model; attention: rows and columns of its maps, None without."""
    outputs = [{"name": LOGITS, "datatype": "FP32", "shape": [-1, num_classes]}]
    if attention is not None:
        outputs.append({"name": ATTENTION, "datatype": "FP32", "shape": [-1, *attention]})
    given = {"name": IMAGES, "datatype": "BYTES", "shape": [-1]}
    if not takes_files:
        given |= {"datatype": "FP32", "shape": [-1, *image_shape]}
    return {
        "name": name + FILES if takes_files else name, "versions": [VERSION], "platform": "paddle_cvt",
        "inputs": [given], "outputs": outputs,
    }  # fmt: skip


def read_request(
    headers: Any,
    body: bytes,
    *,
    image_shape: tuple[int, int, int],
    takes_files: bool,
    max_images: int,
    has_attention: bool = False,
) -> InferRequest:
    """Returns what a request for inference asks for; anything that the protocol does not allow is a RequestError."""
    size = headers.get(HEADER_LENGTH, str(len(body)))
    if not size.isdecimal() or len(size) > len(str(len(body))) or int(size) > len(body):
        raise RequestError(400, f"{HEADER_LENGTH} is not the length of the JSON at the body's beginning")
    numbers = max_images * math.prod(image_shape)
    values = read_json(body[: int(size)], most=MAX_VALUES + (0 if takes_files else 2 * numbers))
    inputs = _list(_table(values, "the request").get("inputs"), "inputs")
    if len(inputs) != 1 or _table(inputs[0], "an input").get("name") != IMAGES:
        raise RequestError(400, f'the model has one input, "{IMAGES}"')
    shape, data = _input(inputs[0], memoryview(body)[int(size) :], datatype="BYTES" if takes_files else "FP32")
    if shape[0] < 1:
        raise RequestError(400, "the request has no image")
    if shape[0] > max_images:
        raise RequestError(413, f"a request may have up to {max_images} images")
    outputs = _outputs(values, [LOGITS, ATTENTION] if has_attention else [LOGITS])
    files = images = None
    if takes_files:
        if len(shape) != 1:
            raise RequestError(400, f"image files have the shape [B], got {reprlib.repr(list(shape))}")
        files = _texts(data, shape[0])
    else:
        if shape[1:] != image_shape:
            raise RequestError(400, f"images have the shape {[-1, *image_shape]}, got {reprlib.repr(list(shape))}")
        images = list(_floats(data, shape))
    number = values.get("id")
    if number is not None and not (isinstance(number, str) and _is_unicode(number)):
        raise RequestError(400, "the id is a text")
    return InferRequest(id=number, files=files, images=images, outputs=outputs)


def _is_unicode(text: str) -> bool:
    """Whether a text can be sent: JSON can write half a character, `\\ud800`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(400, f"{what} is an object of JSON")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(400, f"{what} is a list of JSON")
    return value


def _input(given: dict[str, Any], binary: memoryview, *, datatype: str) -> tuple[tuple[int, ...], Any]:
    """Returns an input's shape, and its data: a list of JSON, or bytes."""
    if given.get("datatype") != datatype:
        raise RequestError(400, f'the datatype of "{IMAGES}" is {datatype}, got {reprlib.repr(given.get("datatype"))}')
    shape = tuple(_list(given.get("shape"), "a shape"))
    if not shape or not all(type(side) is int and 0 <= side < 1 << 31 for side in shape):
        raise RequestError(400, "a shape is a list of numbers")
    size = _table(given.get("parameters", {}), "parameters").get("binary_data_size")
    if size is None:
        return shape, _list(given.get("data"), "data")
    if type(size) is not int or size != len(binary):
        raise RequestError(400, f"binary_data_size is {reprlib.repr(size)}, behind the JSON are {len(binary)} bytes")
    return shape, binary


def _floats(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    try:
        with np.errstate(over="ignore"):  # what overflows is refused below, without a line in the log
            values = np.frombuffer(data, "<f4") if isinstance(data, memoryview) else _numbers(data)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(400, "the data are not numbers of float32") from None
    if values.size != count:
        raise RequestError(400, f"the shape {list(shape)} has {count} numbers, got {values.size}")
    if not np.isfinite(values).all():
        raise RequestError(422, "the data have NaN or infinite numbers")
    return values.reshape(shape)


def _numbers(data: list[Any]) -> np.ndarray:
    """Returns the numbers of a list of lists; texts and truth values, which numpy takes, are a TypeError."""
    found = np.array(data)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"{found.dtype}")
    return found.astype(np.float32).ravel()


def _texts(data: Any, count: int) -> list[bytes]:
    """Returns files: bytes with their lengths before them, or texts of JSON, a character a byte (latin-1)."""
    found: list[bytes] = []
    if isinstance(data, memoryview):
        position = 0
        while position + 4 <= len(data):
            (size,) = struct.unpack_from("<I", data, position)
            if size > len(data) - position - 4:
                break
            found.append(bytes(data[position + 4 : position + 4 + size]))
            position += 4 + size
        if position != len(data):
            raise RequestError(400, "BYTES have their length before them, as four bytes, little end first")
    else:
        if not all(isinstance(text, str) for text in data):
            raise RequestError(400, "the data are not texts")
        try:
            found = [text.encode("latin-1") for text in data]
        except UnicodeEncodeError:
            raise RequestError(400, "image files in JSON have a character a byte; send them as binary data") from None
    if len(found) != count:
        raise RequestError(400, f"the shape has {count} files, got {len(found)}")
    return found


def _outputs(values: dict[str, Any], known: Sequence[str]) -> list[Wanted]:
    """Returns the outputs that are asked for; the logits where none is."""
    all_binary = bool(_table(values.get("parameters", {}), "parameters").get("binary_data_output", False))
    outputs = _list(values.get("outputs", []), "outputs")
    if not outputs:
        return [Wanted(binary=all_binary)]
    names = [_table(output, "an output").get("name") for output in outputs]
    if any(name not in known for name in names) or len(set(names)) < len(names):
        has_maps = ATTENTION in known
        which = f'two outputs, "{LOGITS}" and "{ATTENTION}", each once' if has_maps else f'one output, "{LOGITS}"'
        raise RequestError(400, f"the model has {which}")
    return [_wanted(output, all_binary=all_binary) for output in outputs]


def _wanted(output: dict[str, Any], *, all_binary: bool) -> Wanted:
    parameters = _table(output.get("parameters", {}), "parameters")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise RequestError(400, "classification is a number of classes")
    if classes and output["name"] != LOGITS:
        raise RequestError(400, f'classification is for "{LOGITS}"')
    return Wanted(name=output["name"], classes=classes, binary=bool(parameters.get("binary_data", all_binary)))


def answer(
    request: InferRequest, name: str, arrays: dict[str, np.ndarray], class_names: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Returns the body and headers of an answer. arrays: by output, logits (B, K) and attention (B, rows, columns)."""
    written = [_written(wanted, arrays[wanted.name], class_names) for wanted in request.outputs]
    values = {"model_name": name, "model_version": VERSION, "outputs": [output for output, _ in written]}
    if request.id is not None:
        values["id"] = request.id
    text = json.dumps(values, ensure_ascii=False).encode()
    if not any(wanted.binary for wanted in request.outputs):
        return text, {"Content-Type": "application/json"}
    behind = b"".join(data for _, data in written)
    return text + behind, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}


def _written(wanted: Wanted, array: np.ndarray, class_names: Sequence[str]) -> tuple[dict[str, Any], bytes]:
    """Returns what the JSON says of an output, and what stands behind it, in bytes."""
    if wanted.classes:
        texts = _best(array, wanted.classes, class_names)
        output: dict[str, Any] = {"name": wanted.name, "datatype": "BYTES", "shape": [len(texts), len(texts[0])]}
        flat = [text for row in texts for text in row]
        data: Any = flat
        binary = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in flat)
    else:
        output = {"name": wanted.name, "datatype": "FP32", "shape": list(array.shape)}
        binary = array.astype("<f4").tobytes()
        data = [] if wanted.binary else array.ravel().tolist()
    if wanted.binary:
        return output | {"parameters": {"binary_data_size": len(binary)}}, binary
    return output | {"data": data}, b""


def _best(logits: np.ndarray, classes: int, class_names: Sequence[str]) -> list[list[str]]:
    order = np.argsort(-logits, axis=1, kind="stable")[:, :classes]
    return [[f"{row[i]:f}:{i}:{class_names[i]}" for i in best] for row, best in zip(logits, order, strict=True)]
