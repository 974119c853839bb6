"""From an HTTP request to image files in memory, and from those to arrays."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from util.data.images import ImageError, NoImageError, TooLargeImageError, decode_image

IMAGE_TYPES = ("image/", "application/octet-stream")
MAX_FIELDS = 64  # of a form, besides its files
MAX_VALUES = 1 << 17  # of a JSON body, unless a model's images have more numbers


class RequestError(Exception):
    """What the client sent cannot be answered, with an HTTP status of 4xx, and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


async def read_body(request: Request, *, max_bytes: int, seconds: float) -> bytes:
    """Returns a request's body. Too long, announced or sent, is a 413; too slow a 408; compressed a 415."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise RequestError(415, "send the body as it is, without Content-Encoding")
    length = request.headers.get("content-length")
    if length is not None and (not length.isdecimal() or int(length) > max_bytes):
        raise RequestError(413, f"the body may have up to {max_bytes} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise RequestError(413, f"the body may have up to {max_bytes} bytes")
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise RequestError(400, "the client has gone") from None
    return bytes(body)


async def image_files(headers: Headers, body: bytes, *, max_images: int) -> list[bytes]:
    """Returns the image files of a body: itself, the files of a form, or base64 in JSON (`image`, or `images`).

    Another type is a 415; a form or JSON that cannot be read, or without images, a 400; too many images a 413.
    """
    kind = headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if kind.startswith(IMAGE_TYPES):
        files = [body]
    elif kind == "multipart/form-data":
        files = await _form_files(headers, body, max_images=max_images)
    elif kind == "application/json":
        files = await asyncio.to_thread(_json_files, body)
    else:
        raise RequestError(
            415, "send an image (Content-Type: image/...), a form with images (multipart/form-data), or JSON"
        )
    if len(files) > max_images:
        raise RequestError(413, f"a request may have up to {max_images} images")
    if not files or not any(files):
        raise RequestError(400, "the request has no image")
    return files


async def _form_files(headers: Headers, body: bytes, *, max_images: int) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(headers, stream(), max_files=max_images, max_fields=MAX_FIELDS)
    parser.spool_max_size = len(body) + 1  # it stays in memory: nothing is written to a disk
    try:
        form = await parser.parse()
    except (MultiPartException, LookupError, UnicodeError) as error:  # a charset that is none, or is not kept
        if "Too many files" in str(error):
            raise RequestError(413, f"a request may have up to {max_images} images") from None
        raise RequestError(400, "the form cannot be read as multipart/form-data") from None
    try:
        return [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    finally:
        await form.close()


def read_json(body: bytes, *, most: int = MAX_VALUES) -> Any:
    """Returns what a body of JSON says. No JSON is a 400, one of more than about `most` values a 413.

    They are counted before: the parser holds Python's lock, and the server could not answer anybody meanwhile.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > most:
        raise RequestError(413, f"JSON may have up to {most} values; send tensors and images as bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None


def _json_files(body: bytes) -> list[bytes]:
    values = read_json(body)
    if not isinstance(values, dict) or values.keys() - {"image", "images"} or len(values) != 1:
        raise RequestError(400, 'JSON has the form {"image": BASE64} or {"images": [BASE64, ...]}')
    texts: Any = [values["image"]] if "image" in values else values["images"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(400, "images in JSON are texts in base64")
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        raise RequestError(400, "images in JSON are texts in base64") from None


def load_image(
    file: bytes, transform: Callable[[Any], np.ndarray], *, max_pixels: int, number: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns an image file as the model takes it, float32 (C, H, W), and the picture's height and width.

    number: of the image within the request, for the reason. No image is a 415, too many pixels, which the head of the
    file says, a 413, and one that cannot be decoded a 422.
    """
    try:
        picture = decode_image(file, name=f"image {number}", max_pixels=max_pixels)
        return transform(picture), (picture.height, picture.width)
    except NoImageError as error:
        raise RequestError(415, str(error)) from None
    except TooLargeImageError as error:
        raise RequestError(413, str(error)) from None
    except ImageError as error:
        raise RequestError(422, str(error)) from None
