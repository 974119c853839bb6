"""The backend `fast`: JPEGs through libjpeg-turbo directly, resizing with AVX2, SSE4.1 or NEON.

simplejpeg decodes to the pixels that Pillow gives, with a copy less, and at a half, a quarter or an eighth of the size
where the crop is to become so much smaller. cykooz.resizer (Rust's fast_image_resize) has Pillow's filters with
coefficients of 16 bits instead of 32: within one level of Pillow's result. What is no plain RGB or grey JPEG, or is
damaged, goes through `decode_image`, whose errors are the same ones. Import it through `load_backend` alone.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from util.data import crops
from util.data.images import MAX_PIXELS, Picture, decode_image, read_bytes, to_picture

SHRINKS = (8, 4, 2)  # what libjpeg can divide a size by while it decodes, and has SIMD code for
COLORS = ("YCbCr", "Gray", "RGB")  # of a JPEG; others (CMYK) are Pillow's
_FILTERS = {
    Image.Resampling.BILINEAR: FilterType.bilinear,
    Image.Resampling.BICUBIC: FilterType.catmull_rom,
    Image.Resampling.LANCZOS: FilterType.lanczos3,
}
_resizer = Resizer()


@dataclass(frozen=True)
class Jpeg:
    """A file that has not been decoded yet; `name` is its path in errors."""

    data: bytes
    name: str
    width: int
    height: int


def decode(source: str | Path | bytes, *, name: str | None = None) -> Jpeg | Image.Image:
    """Returns a JPEG as it is, to be decoded when its crop is known, and any other file as `decode_image` does."""
    data, path = (source, name or "<bytes>") if isinstance(source, bytes) else (read_bytes(source), str(source))
    try:
        height, width, color, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # the latter: sampling of colours that simplejpeg has no name for
        return decode_image(data, name=path)
    if color not in COLORS or width * height > MAX_PIXELS:
        return decode_image(data, name=path)
    return Jpeg(data, path, width, height)


def to_source(image: Jpeg | Picture) -> Jpeg | Image.Image:
    """Returns what `resize_box` takes."""
    return image if isinstance(image, Jpeg) else to_picture(image)


def to_image(image: Jpeg | Picture) -> Image.Image:
    """Returns the whole picture, with Pillow's pixels."""
    return decode_image(image.data, name=image.name) if isinstance(image, Jpeg) else to_picture(image)


def resize_box(
    image: Jpeg | Image.Image, box: crops.Box, size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Returns the box of a picture, resized to `size` (height, width); an ImageError says what is wrong with a file."""
    if resample not in _FILTERS:  # nearest: Pillow is as fast
        return crops.resize_box(to_image(image), box, size, resample)
    left, top, width, height = box
    if isinstance(image, Jpeg):
        shrink = next((s for s in SHRINKS if width >= s * size[1] and height >= s * size[0]), 1)
        pixels = _decode(image, shrink)
        if pixels is not None and shrink > 1:
            row, column = top // shrink, left // shrink  # what is outside of the box shall not be seen
            cut = pixels[row : -(-(top + height) // shrink), column : -(-(left + width) // shrink)]
            part = CropBox(left / shrink - column, top / shrink - row, width / shrink, height / shrink)
            return _resize(cut.tobytes(), (cut.shape[0], cut.shape[1]), size, resample, part)
        if pixels is not None:
            part_bytes = pixels[top : top + height, left : left + width].tobytes()
            return _resize(part_bytes, (height, width), size, resample, None)
        image = to_image(image)
    part_bytes = image.crop((left, top, left + width, top + height)).tobytes("raw", "RGBX")
    return _resize(part_bytes, (height, width), size, resample, None)


def resize_and_center_crop(
    image: Jpeg | Image.Image, cover: tuple[int, int], size: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Returns what `crops.resize_and_center_crop` does, with the pixels of this backend, of a JPEG in one go."""
    if not isinstance(image, Jpeg) or resample not in _FILTERS:
        return crops.resize_and_center_crop(to_image(image), cover, size, resample)
    full = crops.covering_size((image.height, image.width), cover)
    shrink = next((s for s in SHRINKS if image.width >= s * full[1] and image.height >= s * full[0]), 1)
    pixels = _decode(image, shrink)
    if pixels is None:
        return crops.resize_and_center_crop(to_image(image), cover, size, resample)
    sides = image.height / shrink, image.width / shrink
    scales = sides[0] / full[0], sides[1] / full[1]
    top, left = (round((full[i] - size[i]) / 2) * scales[i] for i in (0, 1))
    height, width = (min(size[i] * scales[i], sides[i] - begin) for i, begin in ((0, top), (1, left)))
    part = CropBox(left, top, width, height)
    return _resize(pixels.tobytes(), (pixels.shape[0], pixels.shape[1]), size, resample, part)


def _decode(image: Jpeg, shrink: int) -> np.ndarray | None:
    """Returns the pixels, uint8 (H, W, 4), sides divided by `shrink` and rounded up; None: libjpeg found a fault."""
    height, width = -(-image.height // shrink), -(-image.width // shrink)
    try:
        return simplejpeg.decode_jpeg(image.data, "RGBX", min_height=height, min_width=width, min_factor=shrink)
    except ValueError:
        return None


def _resize(
    pixels: bytes, source: tuple[int, int], size: tuple[int, int], resample: Image.Resampling, part: CropBox | None
) -> Image.Image:
    """Returns a part of the pixels, (H, W, 4), resized; source and size are (height, width)."""
    options = ResizeOptions(ResizeAlg.convolution(_FILTERS[resample]), use_alpha=False, crop_box=part)
    result = ImageData(size[1], size[0], PixelType.U8x4)
    _resizer.resize(ImageData(source[1], source[0], PixelType.U8x4, pixels), result, options)
    return Image.frombytes("RGB", (size[1], size[0]), result.get_buffer(), "raw", "RGBX")
