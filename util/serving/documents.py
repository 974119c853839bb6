"""The forms of requests and answers, for the OpenAPI document."""

from typing import Annotated, Any

from pydantic import BaseModel, Field


class Attention(BaseModel):
    """Where in an image the class token of the last block looked, the mean of its heads, on a grid.

    The grid lies over `box`, the part of the picture that the model saw: left, top, right, bottom as fractions of the
    picture's width and height, as its pixels are stored, before any EXIF orientation. `values` are its cells row by
    row, divided by the greatest.
    """

    rows: Annotated[int, Field(ge=1)]
    cols: Annotated[int, Field(ge=1)]
    values: list[Annotated[float, Field(ge=0, le=1)]]
    box: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=4, max_length=4)]


class OnePrediction(BaseModel):
    """The best classes of one image, scores descending; `attention` where it was asked for."""

    class_ids: list[int]
    scores: list[float]
    label_names: list[str]
    attention: Attention | None = None


class Answer(BaseModel):
    """A prediction for each image, in their order."""

    predictions: list[OnePrediction]
    request_id: str


class Problem(BaseModel):
    """Why a request was not answered."""

    error: str
    request_id: str


class Health(BaseModel):
    """`ok`, `ready`, `loading` or `stopping`."""

    status: str


class ModelCard(BaseModel):
    """Where the weights come from, under whose terms, and how good they are."""

    source: str | None
    licence: str | None
    top1: float | None
    top5: float | None
    measured: str | None


class Model(BaseModel):
    """What `export.json` says of the model, and what runs it."""

    model: str
    engine: str
    num_classes: int
    class_names: list[str]
    preprocess: dict[str, Any]
    card: ModelCard
    versions: dict[str, str]
    sha256: dict[str, str]
    attention: bool


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": reason}
    for status, reason in (
        (400, "The body cannot be read, or has no image"),
        (401, "The API key is missing or wrong"),
        (404, "There is no such path or model"),
        (408, "The body did not arrive in time"),
        (413, "Too many bytes, images or pixels"),
        (415, "No image, or compressed"),
        (422, "An image that cannot be decoded, or a wrong parameter"),
        (503, "No room, no engine or no time; ask again after Retry-After"),
    )
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 4}
CLASSIFY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": _BINARY,
            "image/png": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["image"],
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {"image": _BASE64},
                            "required": ["image"],
                            "additionalProperties": False,
                        },
                        {
                            "type": "object",
                            "properties": {"images": {"type": "array", "items": _BASE64, "minItems": 1}},
                            "required": ["images"],
                            "additionalProperties": False,
                        },
                    ]
                }
            },
        },
    }
}

# Tensors may also stand behind the JSON, as bytes; `Inference-Header-Content-Length` then says where.
_TENSOR = {
    "type": "object",
    "properties": {
        "name": {"const": "images"},
        "datatype": {"enum": ["FP32", "BYTES"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape"],
}
# Without any, the logits; `attention` where the model's metadata has it.
_OUTPUT = {
    "type": "object",
    "properties": {"name": {"enum": ["logits", "attention"]}, "parameters": {"type": "object"}},
    "required": ["name"],
}
INFER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1, "maxItems": 1},
                        "outputs": {"type": "array", "items": _OUTPUT, "maxItems": 2},
                    },
                    "required": ["inputs"],
                }
            }
        },
    }
}
