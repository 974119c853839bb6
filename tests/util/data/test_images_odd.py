"""Odd but valid files give pinned pictures without a word, bad ones an error at once; everywhere the same."""

import ast
import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.scripts.run import ROOT
from util.data.dataset import ImageDataset, Sample
from util.data.image_list import ImageList
from util.data.images import decode_image
from util.prediction import predict_files

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 8, Y * 10, 255 - 4 * X - 3 * Y], axis=-1).astype(np.uint8)  # smooth, so that JPEG comes near it
GREY = (X * 4 + Y * 5).astype(np.uint8)
ALPHA = ((X + Y) % 3 * 100).astype(np.uint8)  # 0 in places: what is under it counts
PICTURE = Image.fromarray(RGB)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(values: np.ndarray, *, colour_type: int, extra: bytes = b"") -> bytes:
    """Returns a PNG of 16 bit a channel, which Pillow cannot write in colour. values: uint16 (H, W, C)."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _palette(**options: Any) -> bytes:
    image = Image.fromarray((GREY % 4).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30, 7, 7, 7])
    return _encode(image, options.pop("kind", "PNG"), **options)


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30], [7, 7, 7]], np.uint8)[GREY % 4]
BLUE = Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 255))
WIDE = np.arange(5000)[None, :, None] % np.array([251, 241, 239])
SIXTEEN = RGB.astype(np.uint16) * 256 + 77  # the low byte is dropped, not rounded
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
THREE_GREYS = np.repeat(GREY[..., None], 3, axis=2)
TWO_LEVELS = np.repeat((GREY > 90)[..., None], 3, axis=2).astype(np.uint8) * 255

# Lossless: the file, the picture, and the sha256 of its bytes.
EXACT: dict[str, tuple[bytes, np.ndarray]] = {
    "PNG": (_encode(PICTURE, "PNG"), RGB),
    "BMP": (_encode(PICTURE, "BMP"), RGB),
    "BMP with a palette": (_palette(kind="BMP"), COLOURS),
    "WebP": (_encode(PICTURE, "WEBP", lossless=True), RGB),
    "WebP with alpha": (
        _encode(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True), RGB,
    ),
    "grey": (_encode(Image.fromarray(GREY), "PNG"), THREE_GREYS),
    "grey with alpha": (_encode(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), "PNG"), THREE_GREYS),
    "alpha": (_encode(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"), RGB),
    "palette": (_palette(), COLOURS),
    "palette, one entry transparent": (_palette(transparency=1), COLOURS),
    "palette, entries half transparent": (_palette(transparency=b"\x00\x80\xff\x10"), COLOURS),
    "GIF, one entry transparent": (_palette(kind="GIF", transparency=2), COLOURS),
    "1 bit": (_encode(Image.fromarray(GREY > 90), "PNG"), TWO_LEVELS),
    "16 bit grey": (_png(SIXTEEN[..., :1], colour_type=0), np.repeat(RGB[..., :1], 3, axis=2)),
    "16 bit grey with alpha": (_png(SIXTEEN[..., :2], colour_type=4), np.repeat(RGB[..., :1], 3, axis=2)),
    "16 bit": (_png(SIXTEEN, colour_type=2), RGB),
    "16 bit with alpha": (_png(np.dstack([SIXTEEN, SIXTEEN[..., 0]]), colour_type=6), RGB),
    "gamma that is not applied": (
        _png(SIXTEEN, colour_type=2, extra=_chunk(b"gAMA", struct.pack(">I", 100000))), RGB,
    ),
    "colour profile that is not applied": (_encode(PICTURE, "PNG", icc_profile=PROFILE), RGB),
    "orientation in a PNG": (_encode(PICTURE, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"), RGB),
    "animated GIF": (
        _encode(Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE), "GIF", save_all=True,
                append_images=[BLUE]),
        COLOURS,
    ),
    "animated WebP": (_encode(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[BLUE]), RGB),
    "animated PNG": (_encode(PICTURE, "PNG", save_all=True, append_images=[BLUE]), RGB),
    "1 x 1": (_encode(Image.fromarray(RGB[3:4, 5:6]), "PNG"), RGB[3:4, 5:6]),
    "5000 x 1": (_encode(Image.fromarray(WIDE.astype(np.uint8)), "PNG"), WIDE.astype(np.uint8)),
    "1 x 5000": (
        _encode(Image.fromarray(WIDE.astype(np.uint8).transpose(1, 0, 2)), "PNG"),
        WIDE.astype(np.uint8).transpose(1, 0, 2),
    ),
}  # fmt: skip

SHA256 = {
    "PNG": "ee3c11e8651c2a0b",
    "BMP": "ee3c11e8651c2a0b",
    "BMP with a palette": "25f0829cd2f0ab45",
    "WebP": "ee3c11e8651c2a0b",
    "WebP with alpha": "ee3c11e8651c2a0b",
    "grey": "35e24ab3cdf62d3a",
    "grey with alpha": "35e24ab3cdf62d3a",
    "alpha": "ee3c11e8651c2a0b",
    "palette": "25f0829cd2f0ab45",
    "palette, one entry transparent": "25f0829cd2f0ab45",
    "palette, entries half transparent": "25f0829cd2f0ab45",
    "GIF, one entry transparent": "25f0829cd2f0ab45",
    "1 bit": "7faea0b914b7d390",
    "16 bit grey": "52f19b05dc5537b7",
    "16 bit grey with alpha": "52f19b05dc5537b7",
    "16 bit": "ee3c11e8651c2a0b",
    "16 bit with alpha": "ee3c11e8651c2a0b",
    "gamma that is not applied": "ee3c11e8651c2a0b",
    "colour profile that is not applied": "ee3c11e8651c2a0b",
    "orientation in a PNG": "ee3c11e8651c2a0b",
    "animated GIF": "25f0829cd2f0ab45",
    "animated WebP": "ee3c11e8651c2a0b",
    "animated PNG": "ee3c11e8651c2a0b",
    "1 x 1": "d312b0a24751bba6",
    "5000 x 1": "a2cc44f604ea5ba7",
    "1 x 5000": "a2cc44f604ea5ba7",
}


def _with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + jpeg[2:]


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


BASELINE = _encode(PICTURE, "JPEG", quality=95, subsampling=0)
EXIF = _orientation(6)
# The same coefficients in another wrapping: exactly the picture of the plain file.
SAME_AS_BASELINE: dict[str, bytes] = {
    **{f"orientation {n}": _with_segment(BASELINE, 0xE1, _orientation(n)) for n in range(1, 9)},
    "progressive": _encode(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True),
    "optimized": _encode(PICTURE, "JPEG", quality=95, subsampling=0, optimize=True),
    "colour profile": _encode(PICTURE, "JPEG", quality=95, subsampling=0, icc_profile=PROFILE),
    "EXIF, bad header": _with_segment(BASELINE, 0xE1, b"Exif\0\0XX*\0\x08\0\0\0" + EXIF[14:]),
    "EXIF, bad place of its table": _with_segment(BASELINE, 0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f" + EXIF[14:]),
    "EXIF, bad count": _with_segment(BASELINE, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0\xff\xff\xff\x7f"),
    "EXIF, bad resolution": _with_segment(
        BASELINE, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x1a\x01\x05\0\x01\0\0\0\xf0\xff\xff\x7f\0\0\0\0",
    ),
    "comment": _with_segment(BASELINE, 0xFE, b"no text \xff\xfe\0"),
    "bytes behind the end": BASELINE + b"\0" * 100,
    "several pictures (MPO)": _encode(PICTURE, "MPO", quality=95, subsampling=0, save_all=True, append_images=[BLUE]),
    "damaged MPO": _with_segment(BASELINE, 0xE2, b"MPF\0II*\0\x08\0\0\0\x03\0\x00\xb0\x07\0\x04\0\0\x000100"),
}  # fmt: skip

# What depends on how a decoder rounds: the file, a plain picture, the largest mean difference.
NEAR: dict[str, tuple[bytes, np.ndarray, float]] = {
    "JPEG": (BASELINE, RGB, 1.5),
    "JPEG of few colours": (_encode(PICTURE, "JPEG", quality=95, subsampling=2), RGB, 5.0),
    "grey JPEG": (_encode(Image.fromarray(GREY), "JPEG", quality=95), THREE_GREYS, 1.5),
    "CMYK JPEG, Adobe's inverted values": (_encode(PICTURE.convert("CMYK"), "JPEG", quality=95), RGB, 1.5),
    "WebP with loss": (_encode(PICTURE, "WEBP", quality=95), RGB, 5.0),
}


def _decode_in_silence(data: bytes, capfd: pytest.CaptureFixture[str]) -> np.ndarray:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        image = decode_image(data)
    assert image.mode == "RGB"
    assert [str(warning.message) for warning in said] == []
    assert capfd.readouterr() == ("", "")
    return np.asarray(image)


def test_there_are_enough_of_them() -> None:
    assert len(EXACT) + len(SAME_AS_BASELINE) + len(NEAR) >= 30
    assert len(BAD_BYTES) + len(BAD_PLACES) >= 16


@pytest.mark.parametrize("name", EXACT)
def test_lossless_file_gives_its_pinned_picture(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, expected = EXACT[name]
    found = _decode_in_silence(data, capfd)
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, hashlib.sha256(found.tobytes()).hexdigest()[:16]) == (np.uint8, SHA256[name])


@pytest.mark.parametrize("name", SAME_AS_BASELINE)
def test_odd_jpeg_gives_the_picture_of_the_plain_one(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    plain = np.asarray(Image.open(io.BytesIO(BASELINE)).convert("RGB"))
    np.testing.assert_array_equal(_decode_in_silence(SAME_AS_BASELINE[name], capfd), plain)


@pytest.mark.parametrize("name", NEAR)
def test_lossy_file_gives_a_picture_near_the_one_it_was_made_of(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, expected, bound = NEAR[name]
    found = _decode_in_silence(data, capfd)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < bound
    assert np.abs(255 - found.astype(int) - expected).mean() > 50, "not the negative"


def test_pillow_alone_would_warn_turn_and_clip() -> None:
    """What the pinned pictures guard against does happen without the guards."""
    with pytest.warns(UserWarning, match="MPO"):
        Image.open(io.BytesIO(SAME_AS_BASELINE["damaged MPO"]))
    with pytest.warns(UserWarning, match="Palette images with Transparency"):
        Image.open(io.BytesIO(EXACT["palette, entries half transparent"][0])).convert("RGB")
    assert Image.open(io.BytesIO(SAME_AS_BASELINE["orientation 6"])).getexif()[0x0112] == 6
    clipped = np.asarray(Image.open(io.BytesIO(EXACT["16 bit grey"][0])).convert("L"))
    assert (clipped != EXACT["16 bit grey"][1][..., 0]).any()


# --- everywhere the same


def digest(image: Image.Image | np.ndarray) -> np.ndarray:
    """Returns a picture's shape and sha256 in place of its normalised pixels, float32 (35, 1, 1)."""
    pixels = np.asarray(image)
    numbers = [*pixels.shape, *hashlib.sha256(pixels.tobytes()).digest()]
    return np.asarray(numbers, np.float32)[:, None, None]


def test_training_evaluation_prediction_and_deployment_see_the_same_bytes(tmp_path: Path) -> None:
    files = {**{n: d for n, (d, _) in EXACT.items()}, **SAME_AS_BASELINE, **{n: d for n, (d, _, _) in NEAR.items()}}
    names = []
    for i, data in enumerate(files.values()):
        names.append(f"{i}.JPEG")
        (tmp_path / names[-1]).write_bytes(data)
    images = ImageList(tmp_path, names, np.zeros(len(names), np.int64), None)
    dataset = ImageDataset(images, lambda image, rng: np.asarray(image), seed=0)
    seen: list[np.ndarray] = []

    def forward(batch: np.ndarray) -> np.ndarray:
        seen.extend(batch)
        return np.zeros((len(batch), 2))

    paths = [images.path(i) for i in range(len(names))]
    answers = predict_files(
        paths,
        transform=digest,
        forward=forward,
        class_names=["a", "b"],
        batch_size=7,
        bad=[],
    )
    assert len(list(answers)) == len(names)
    for i, data in enumerate(files.values()):
        sample = dataset[(0, i, 0)]
        assert isinstance(sample, Sample)
        expected = np.asarray(decode_image(paths[i]))
        for array in (sample.image, np.asarray(decode_image(data))):
            np.testing.assert_array_equal(array, expected)
        np.testing.assert_array_equal(seen[i], digest(expected))


def test_nothing_but_decode_image_opens_pictures() -> None:
    found = []
    for path in [*ROOT.glob("*.py"), *(ROOT / "util").rglob("*.py"), *(ROOT / "models").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "cv2.imread", "cv2.imdecode"):
                found.append(str(path.relative_to(ROOT)))
    assert found == ["util/data/images.py"]


# --- bad images


def _flipped_png() -> bytes:
    data = bytearray(_encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "PNG"))
    data[len(data) // 2] ^= 16
    return bytes(data)


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


NOISE = _encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)), "JPEG")
BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "0 bytes": (b"", "is empty"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "is not an image"),
    "5 % of a JPEG": (NOISE[: len(NOISE) // 20], "truncated|cannot be decoded"),
    "50 % of a JPEG": (NOISE[: len(NOISE) // 2], "truncated"),
    "99 % of a JPEG": (NOISE[: len(NOISE) * 99 // 100], "truncated"),
    "random bytes": (np.random.default_rng(1).bytes(10_000), "is not an image"),
    "PNG with a flipped bit": (_flipped_png(), "cannot be decoded"),
    "PNG that asks for gigabytes": (bomb(), "has 3600000000 pixels, more than"),
    "EPS": (_encode(PICTURE, "EPS"), "is not an image"),
    "TIFF": (_encode(PICTURE, "TIFF"), "is not an image"),
    "PSD": (b"8BPS\0\x01\0\0\0\0\0\0\0\x03" + struct.pack(">IIHH", 8, 8, 8, 3) + b"\0" * 300, "is not an image"),
    "PDF": (_encode(PICTURE, "PDF"), "is not an image"),
}


def make_unreadable(path: Path) -> None:
    path.write_bytes(BASELINE)
    path.chmod(0)


BAD_PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "FIFO": (os.mkfifo, "is not a regular file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "missing": (lambda path: None, "no such file"),
}
