"""decode_image: one pinned picture for every kind of file, one ImageError for everything else."""

import io
import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
from util.data.images import ImageError, decode_image
from util.errors import DataError


@pytest.fixture(autouse=True)
def _no_hanging() -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        pytest.fail("decode_image hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _pixels(source: str | Path | bytes) -> list[list[list[int]]]:
    image = decode_image(source)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


PICTURE = Image.fromarray(picture(48, 64))


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_are_exact_whatever_the_name(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "picture.JPEG"
    path.write_bytes(_encode(PICTURE, kind, **options))
    np.testing.assert_array_equal(np.asarray(decode_image(path)), np.asarray(PICTURE))
    np.testing.assert_array_equal(np.asarray(decode_image(path.read_bytes())), np.asarray(PICTURE))


def test_progressive_jpeg_is_the_baseline_one() -> None:
    baseline, progressive = (_encode(PICTURE, "JPEG", quality=90, progressive=p) for p in (False, True))
    assert b"\xff\xc2" in progressive  # the marker of a progressive frame
    assert _pixels(progressive) == _pixels(baseline)
    difference = np.abs(np.asarray(decode_image(baseline)).astype(int) - np.asarray(PICTURE).astype(int))
    assert difference.mean() < 12


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 128, 0, 0), (255, 127, 255)),
    ],
)
def test_cmyk_jpeg(cmyk: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    pixels = np.array(_pixels(_encode(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=100)))
    assert (pixels == rgb).all()


def _palette(transparency: int | None) -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    image.putdata([0, 1, 2])
    return _encode(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def _grey16() -> bytes:
    return _encode(Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)), "PNG")


PINNED: dict[str, tuple[bytes, list[int] | list[list[int]]]] = {
    "palette": (_palette(None), [[255, 0, 0], [0, 255, 0], [10, 20, 30]]),
    "palette with transparency": (_palette(1), [[255, 0, 0], [0, 255, 0], [10, 20, 30]]),
    "grey": (_encode(Image.new("L", (1, 1), 77), "PNG"), [[77, 77, 77]]),
    "grey with alpha": (_encode(Image.new("LA", (1, 1), (100, 0)), "PNG"), [[100, 100, 100]]),
    "alpha": (_encode(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), "PNG"), [[10, 20, 30]]),
    "1 bit": (_encode(Image.fromarray(np.array([[True, False]])), "PNG"), [[255, 255, 255], [0, 0, 0]]),
    "16 bit grey": (_grey16(), [[0] * 3, [0] * 3, [1] * 3, [128] * 3, [255] * 3]),
    "animation": (
        _encode(Image.new("RGB", (1, 1), (255, 0, 0)), "GIF", save_all=True,
                append_images=[Image.new("RGB", (1, 1), (0, 0, 255))]),
        [[255, 0, 0]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PINNED)
def test_pinned_values(name: str) -> None:
    data, row = PINNED[name]
    assert _pixels(data) == [row]


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = _encode(PICTURE, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert _pixels(data) == _pixels(_encode(PICTURE, "JPEG"))


# --- what cannot be used


def _bomb_png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def _bomb_bmp() -> bytes:
    data = bytearray(_encode(Image.new("1", (8, 8)), "BMP"))
    data[18:26] = struct.pack("<ii", 60000, 60000)
    return bytes(data)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture\n" * 20, "is not an image (JPEG, PNG, WEBP, BMP, GIF)"),
    "random": (np.random.default_rng(0).bytes(5000), "is not an image"),
    "random after a JPEG's start": (b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(5000), ""),
    "half a JPEG": (_half(_encode(PICTURE, "JPEG")), "truncated"),
    "half a progressive JPEG": (_half(_encode(PICTURE, "JPEG", progressive=True)), "truncated"),
    "half a PNG": (_half(_encode(PICTURE, "PNG")), "cannot be decoded"),
    "half a 16 bit PNG": (_half(_encode(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "PNG")), ""),
    "half a palette PNG": (_half(_encode(PICTURE.convert("P"), "PNG", transparency=0)), "cannot be decoded"),
    "half a WEBP": (_half(_encode(PICTURE, "WEBP")), "cannot be decoded"),
    "half a BMP": (_half(_encode(PICTURE, "BMP")), "truncated"),
    "half a GIF": (_half(_encode(PICTURE, "GIF")), "truncated"),
    "TIFF": (_encode(PICTURE, "TIFF"), "is not an image"),
    "PNG that asks for gigabytes": (_bomb_png(), "3600000000 pixels"),
    "BMP that asks for gigabytes": (_bomb_bmp(), "3600000000 pixels"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_content_is_an_image_error_with_path_and_reason(name: str, tmp_path: Path) -> None:
    data, reason = BAD_BYTES[name]
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        decode_image(path)
    assert isinstance(caught.value, DataError)
    assert caught.value.path == str(path)
    assert reason in caught.value.reason
    assert len(caught.value.reason) > 5
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    with pytest.raises(ImageError, match="upload: "):
        decode_image(data, name="upload")


BAD_PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "folder|directory"),
    "FIFO": (os.mkfifo, "is not a regular file"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "circular link": (lambda path: path.symlink_to(path), "Too many levels"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "file as folder": (lambda path: path.parent.joinpath("f").write_bytes(b"") and None, "no such file"),
}


@pytest.mark.parametrize("name", BAD_PLACES)
def test_bad_place_is_an_image_error_with_path_and_reason(name: str, tmp_path: Path) -> None:
    make, reason = BAD_PLACES[name]
    path = tmp_path / "picture.jpg"
    make(path)
    with pytest.raises(ImageError, match=reason) as caught:
        decode_image(path)
    assert caught.value.path == str(path)


def test_folders_leave_no_file_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        with pytest.raises(ImageError):
            decode_image(tmp_path)
    assert len(list(descriptors.iterdir())) == before


def test_name_with_a_null_character_is_an_image_error() -> None:
    with pytest.raises(ImageError):
        decode_image("pict\0ure.jpg")
