"""JPEGs like ImageNet's, from the demo's two photographs: sides of 333 to 500 pixels, about 110 KB.

`python -m bench.photographs FOLDER` writes them. The same ones each time with the same Pillow. Needs numpy and Pillow.
"""

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES = 100
NOISE = 6.0  # standard deviation in levels, of a grain that cameras have and resizing removes
BYTES = 110_000  # of a JPEG of 500 x 375; others in proportion to their area
# Width, height and how many in 20: ImageNet's most frequent proportions.
SIZES = (((500, 375), 10), ((375, 500), 4), ((500, 333), 3), ((500, 500), 1), ((400, 300), 1), ((333, 500), 1))
DEMO = Path(__file__).resolve().parents[1] / "demo"
SOURCES = ("chelsea.jpg", "coffee.jpg")


def photograph(source: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Returns a random part of `source` with grain, of `size` (width, height)."""
    zoom = max(size[0] / source.width, size[1] / source.height) * rng.uniform(1.0, 1.6)
    whole = source.resize((int(source.width * zoom) + 1, int(source.height * zoom) + 1), Image.Resampling.BICUBIC)
    left, top = (int(rng.integers(0, side - length + 1)) for side, length in zip(whole.size, size, strict=True))
    pixels = np.asarray(whole.crop((left, top, left + size[0], top + size[1])), np.float32)
    grain = rng.normal(0.0, NOISE, (size[1], size[0], 1))
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, num_bytes: float) -> bytes:
    """Returns the JPEG of the highest quality that has at most so many bytes."""
    best, low, high = b"", 30, 98
    while low < high:
        quality = (low + high) // 2
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        if len(file.getvalue()) <= num_bytes:
            best, low = file.getvalue(), quality + 1
        else:
            high = quality
    return best


def photographs(folder: Path) -> list[Path]:
    """Returns the JPEGs of a folder in which this function alone writes; makes them if it is not there."""
    if not folder.is_dir():
        beside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        rng = np.random.default_rng(0)
        sizes = [size for size, count in SIZES for _ in range(count)]
        sources = [Image.open(DEMO / name).convert("RGB") for name in SOURCES]
        for i in range(NUM_IMAGES):
            size = sizes[rng.integers(len(sizes))]
            data = encode(photograph(sources[i % len(sources)], size, rng), BYTES * size[0] * size[1] / (500 * 375))
            (beside / f"{i:04d}.jpg").write_bytes(data)
        try:
            os.replace(beside, folder)
        except OSError:  # another process was as quick
            shutil.rmtree(beside)
    return sorted(folder.glob("*.jpg"))


def shared_photographs() -> list[Path]:
    """Returns the JPEGs that all sides of a comparison read, from the folder for temporary files."""
    return photographs(Path(tempfile.gettempdir()) / f"paddlecvt_photographs_{os.getuid()}")


if __name__ == "__main__":
    print(f"{len(photographs(Path(sys.argv[1])))} photographs in {sys.argv[1]}")
