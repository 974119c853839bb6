"""Decoding: one function turns any supported file into the same RGB picture, everywhere."""

import errno
import io
import os
import stat
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from util.errors import DataError

# Content decides, never the file's name. The list is short on purpose: fewer parsers, fewer holes.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MAX_PIXELS = 178_956_970  # Pillow's limit: above it a small file can ask for gigabytes

# What Pillow's parsers raise on broken input, besides OSError.
_DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out: a name with a dot in front, and what macOS adds to zip archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_image_name(name: str) -> bool:
    """Whether a file in a folder is taken for an image: by its suffix, unless it is hidden."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)


Picture = Image.Image | np.ndarray  # PIL RGB, or uint8 (H, W, 3)


class Decode(Protocol):
    """f(path or bytes) -> a picture; ImageError says why a file cannot be used. `name`: a path for errors."""

    def __call__(self, source: str | Path | bytes, *, name: str | None = None) -> Any: ...


class ImageError(DataError):
    """An image file that cannot be used, with its path and the reason; number: of the system's error, if it was one."""

    def __init__(self, path: str, reason: str, *, number: int | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.number = number


class NoImageError(ImageError):
    """What a file holds is no image of FORMATS."""


class TooLargeImageError(ImageError):
    """An image has more pixels than are wanted, by its own head."""


def read_bytes(path: str | Path) -> bytes:
    """Returns a regular file's content; ImageError says what is wrong (a FIFO or a device would block for ever)."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError(str(path), "is a folder" if stat.S_ISDIR(mode) else "is not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(str(path), "no such file", number=errno.ENOENT) from None
    except OSError as error:
        raise ImageError(str(path), error.strerror or str(error), number=error.errno) from None
    except ValueError:
        raise ImageError(repr(str(path)), "is not a valid path") from None


def decode_image(source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns the picture as PIL RGB.

    source: a path, or the file's bytes; `name` then stands for the path in errors. max_pixels: more are refused before
    they are decoded.
    Alpha is dropped, grey and palette pictures become RGB, CMYK goes through Pillow's plain conversion, 16-bit grey is
    divided by 256 and rounded down, animations and multi-picture files give their first frame. EXIF orientation and
    colour profiles are not applied, as in torchvision and timm, whose published accuracies rest on that. What is wrong
    with metadata alone is ignored. Raises ImageError with path and reason.
    """
    if isinstance(source, bytes):
        path, data = name or "<bytes>", source
    else:
        path, data = str(source), read_bytes(source)
    if not data:
        raise ImageError(path, "is empty")
    try:
        with warnings.catch_warnings(action="ignore"):  # about metadata that is not used, once an image and worker
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise TooLargeImageError(path, f"has {image.width} x {image.height} pixels, more than {max_pixels}")
            return _to_rgb(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # "Image size (3600000000 pixels) exceeds ...", while it is opened
        pixels = str(error).partition("(")[2].partition(" ")[0]
        raise TooLargeImageError(path, f"has {pixels} pixels, more than {max_pixels}") from None
    except Image.UnidentifiedImageError:
        raise NoImageError(path, f"is not an image ({', '.join(FORMATS)})") from None
    except _DECODE_ERRORS as error:
        raise ImageError(path, f"cannot be decoded: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip everything above 255 to white
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def to_picture(image: Picture) -> Image.Image:
    """Returns a PIL RGB picture from one, or from uint8 (H, W, 3); anything else is a ValueError."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image is uint8 (H, W, 3); got {image.dtype} {image.shape}")
        return Image.fromarray(image)
    if image.mode != "RGB":
        raise ValueError(f"an image is RGB; got mode {image.mode}: use decode_image, or convert it")
    return image
