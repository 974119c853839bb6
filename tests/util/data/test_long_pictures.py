"""Pictures so long that resizing them as a whole would take gigabytes, and crops of next to nothing."""

import resource

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
from util.data import crops
from util.data.crops import center_crop, resize_and_center_crop, resize_to_cover, simple_random_crop
from util.data.transforms import eval_transform, train_transform

BICUBIC = Image.Resampling.BICUBIC
LONG = [(20_000, 1), (1, 3_000_000)]  # width, height
MEGABYTE = 1024  # of what getrusage counts


def _check_near(found: Image.Image, expected: Image.Image) -> None:
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert difference.mean() < 0.3
    assert difference.max() <= 4


@pytest.mark.parametrize("side", [(60, 900), (900, 60), (333, 500)])
def test_the_crop_alone_has_the_pixels_of_the_whole(side: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(picture(*side))
    monkeypatch.setattr(crops, "MAX_RESIZED", 1000)
    for cover, size in (((256, 256), (224, 224)), ((64, 64), (64, 64)), ((71, 40), (70, 33))):
        whole = resize_to_cover(image, *cover, BICUBIC)
        found = resize_and_center_crop(image, cover, size, BICUBIC)
        _check_near(found, center_crop(whole, *size))
    moved = whole.transform(whole.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 1))
    with pytest.raises(AssertionError):  # negative control: a pixel's shift would be seen
        _check_near(found, center_crop(moved, *size))


@pytest.mark.parametrize("size", LONG)
def test_a_long_picture_takes_little_memory(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = [
        resize_and_center_crop(image, (256, 256), (224, 224), BICUBIC),
        simple_random_crop(image, np.random.default_rng(0), size=(224, 224), resample=BICUBIC),
    ]
    for mode in ("rrc", "src"):
        array = train_transform(train_crop_mode=mode, mean=(0.0,) * 3, std=(1 / 255,) * 3)(
            np.asarray(image), np.random.default_rng(0)
        )
        assert array.shape == (3, 224, 224)
    for pixels in found:
        assert (np.asarray(pixels) == [10, 20, 30]).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * MEGABYTE


def test_the_part_of_a_long_picture_is_anywhere() -> None:
    image = Image.fromarray(np.repeat(np.arange(200, dtype=np.uint8), 100)[None, :, None].repeat(3, axis=2))
    rng = np.random.default_rng(0)
    levels = [np.asarray(simple_random_crop(image, rng, size=(224, 224), resample=BICUBIC)).mean() for _ in range(30)]
    assert min(levels) < 40
    assert max(levels) > 160


def test_a_crop_of_next_to_nothing_is_the_centre() -> None:
    image = Image.fromarray(picture(75, 50))
    found = eval_transform(crop_pct=1e-9, mean=(0.0,) * 3, std=(1 / 255,) * 3)(image)
    assert np.ptp(found, axis=(1, 2)).max() <= 1.01
