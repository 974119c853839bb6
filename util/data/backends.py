"""What decodes, crops and resizes images: Pillow, whose pixels are the reference, or a faster way."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from util.data.crops import ResizeAndCrop, ResizeBox, resize_and_center_crop, resize_box
from util.data.images import Decode, decode_image, to_picture
from util.errors import UsageError

Backend = Literal["pil", "fast"]
FAST_PACKAGES = {"cykooz_resizer": "cykooz.resizer>=4,<5", "simplejpeg": "simplejpeg>=1.8,<2"}  # module: requirement


@dataclass(frozen=True, kw_only=True)
class ImageBackend:
    """A way from files to resized pictures.

    decode: any supported file -> a picture of this backend's own kind.
    open: that, PIL RGB or uint8 (H, W, 3) -> what `resize_box` takes; it has a width and a height.
    resize_box: a box of that, in pixels of the whole picture, resized, PIL RGB.
    resize_and_center_crop: what `open` returns -> the centre of that resized, PIL RGB, as in `crops`.
    """

    decode: Decode
    open: Callable[[Any], Any]
    resize_box: ResizeBox
    resize_and_center_crop: ResizeAndCrop


def load_backend(name: Backend) -> ImageBackend:
    """Returns a backend; a UsageError names the packages of `fast` that are missing."""
    if name == "pil":
        return ImageBackend(
            decode=decode_image,
            open=to_picture,
            resize_box=resize_box,
            resize_and_center_crop=resize_and_center_crop,
        )
    missing = [requirement for module, requirement in FAST_PACKAGES.items() if not _is_there(module)]
    if missing:
        packages = " ".join(f"'{requirement}'" for requirement in missing)
        raise UsageError(
            f"--image_backend fast needs more packages: pip install {packages}; or use --image_backend pil"
        )
    from util.data import fast_images as fast

    return ImageBackend(
        decode=fast.decode,
        open=fast.to_source,
        resize_box=fast.resize_box,
        resize_and_center_crop=fast.resize_and_center_crop,
    )


def _is_there(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True
