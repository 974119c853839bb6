"""The backends: `pil` is Pillow to the pixel; how far `fast` is from it, with which files, and what it says."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.reference import picture
from util.data import fast_images as fast
from util.data.backends import Backend, ImageBackend, load_backend
from util.data.dataset import BadImage, ImageDataset, Sample
from util.data.image_list import ImageList
from util.data.images import ImageError, decode_image
from util.data.transforms import RESAMPLE, Interpolation, eval_transform, train_transform
from util.errors import UsageError

PHOTOGRAPHS = [Path(__file__).parents[3] / "demo" / name for name in ("chelsea.jpg", "coffee.jpg")]
NAMES: tuple[Backend, Backend] = ("pil", "fast")
FILTERS = ["bilinear", "bicubic", "lanczos"]
LEVELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # the transform's result is then in levels


def _backends() -> tuple[ImageBackend, ImageBackend]:
    return load_backend("pil"), load_backend("fast")


def _check_near(found: np.ndarray, expected: np.ndarray) -> None:
    """A level at most, but for 4 values in 1,000: the cubic filters overshoot at hard edges, where 0 and 255 cut."""
    difference = np.abs(found.astype(float) - expected.astype(float))
    assert difference.mean() < 0.35
    assert (difference > 1.01).mean() < 0.004
    assert difference.max() < 32


def _boxes(width: int, height: int, count: int) -> list[tuple[int, int, int, int]]:
    """Boxes that are no more than twice the result's size, so that they are decoded in full."""
    rng = np.random.default_rng(0)
    sides = [(int(rng.integers(20, min(width, 440))), int(rng.integers(20, min(height, 440)))) for _ in range(count)]
    return [(int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h) for w, h in sides]


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", FILTERS)
def test_fast_resizing_is_within_a_level_of_pillow_but_at_hard_edges(name: str, path: Path) -> None:
    pil, quick = _backends()
    image, jpeg = pil.decode(path), quick.decode(path)
    for box in _boxes(image.width, image.height, 25):
        expected = np.asarray(pil.resize_box(image, box, (224, 224), RESAMPLE[name]))
        found = np.asarray(quick.resize_box(jpeg, box, (224, 224), RESAMPLE[name]))
        _check_near(found, expected)
        if name == "bilinear":  # never overshoots
            assert np.abs(found.astype(int) - expected).max() <= 2
    other = np.asarray(pil.resize_box(image, box, (224, 224), RESAMPLE["nearest"]))
    with pytest.raises(AssertionError):  # negative control: another filter would be seen
        _check_near(other, expected)


def test_nearest_is_pillows() -> None:
    pil, quick = _backends()
    for box in _boxes(400, 300, 4):
        results = [b.resize_box(b.decode(PHOTOGRAPHS[0]), box, (50, 60), RESAMPLE["nearest"]) for b in (pil, quick)]
        np.testing.assert_array_equal(np.asarray(results[0]), np.asarray(results[1]))


@pytest.mark.parametrize("shrink", fast.SHRINKS)
def test_boxes_that_shrink_are_decoded_smaller_and_stay_near(shrink: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pil, quick = _backends()
    image, jpeg = pil.decode(PHOTOGRAPHS[0]), quick.decode(PHOTOGRAPHS[0])
    shrinks: list[int] = []
    decode = fast._decode

    def record(image: fast.Jpeg, shrink: int) -> np.ndarray | None:
        shrinks.append(shrink)
        return decode(image, shrink)

    monkeypatch.setattr(fast, "_decode", record)
    box, size = (13, 7, 400, 290), (290 // shrink, 400 // shrink)
    expected = np.asarray(pil.resize_box(image, box, size, RESAMPLE["bicubic"])).astype(int)
    difference = np.abs(np.asarray(quick.resize_box(jpeg, box, size, RESAMPLE["bicubic"])) - expected)
    assert shrinks == [shrink]
    assert difference.mean() < 2.5
    assert difference.max() < 60
    moved = np.asarray(pil.resize_box(image, (13 + 2 * shrink, 7, 400, 290), size, RESAMPLE["bicubic"])).astype(int)
    assert np.abs(moved - expected).mean() > 2 * difference.mean()  # negative control: a shift would be seen


@pytest.mark.parametrize("name", FILTERS)
def test_fast_evaluation_is_within_a_level_of_pillow_but_at_hard_edges(name: Interpolation) -> None:
    for size, crop_pct in ((224, 0.875), (224, 1.0), (256, 0.95), ((224, 192), 0.9)):
        results = [
            eval_transform(input_size=size, crop_pct=crop_pct, interpolation=name, image_backend=backend, **LEVELS)(
                load_backend(backend).decode(path)
            )
            for path in PHOTOGRAPHS
            for backend in NAMES
        ]
        for expected, found in (results[:2], results[2:]):
            _check_near(found, expected)
    with pytest.raises(AssertionError):  # negative control: a pixel's shift would be seen
        _check_near(np.roll(found, 1, axis=2), expected)


def test_fast_evaluation_decodes_large_photographs_smaller_and_stays_near() -> None:
    for size in (140, 70, 35):
        for mode in ("center", "squash"):
            expected, found = (
                eval_transform(input_size=size, crop_mode=mode, image_backend=b, **LEVELS)(
                    load_backend(b).decode(PHOTOGRAPHS[1])
                )
                for b in NAMES
            )
            difference = np.abs(expected - found).mean()
            assert difference < 2.5
            assert np.abs(np.roll(expected, 1, axis=2) - expected).mean() > 2 * difference


def _jpeg(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(91, 123)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def test_a_jpeg_that_simplejpeg_has_no_name_for_is_pillows() -> None:
    """Four rows of brightness to one of colour, 4:4:1."""
    data = bytearray(_jpeg(subsampling="4:4:4"))
    data[data.find(b"\xff\xc0") + 11] = 0x14
    with pytest.raises(KeyError):
        simplejpeg.decode_jpeg_header(bytes(data))
    found = fast.decode(bytes(data))
    assert isinstance(found, Image.Image)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(decode_image(bytes(data))))


@pytest.mark.parametrize(
    "data",
    [
        *(_jpeg(subsampling=s) for s in ("4:4:4", "4:2:2", "4:2:0")),
        _jpeg(progressive=True), _jpeg("L"), _jpeg(quality=30), _jpeg(optimize=True), _jpeg(restart_marker_rows=2),
    ],
)  # fmt: skip
def test_whole_jpegs_have_pillows_pixels(data: bytes) -> None:
    jpeg = fast.decode(data)
    assert isinstance(jpeg, fast.Jpeg)
    pixels = fast._decode(jpeg, 1)
    assert pixels is not None
    np.testing.assert_array_equal(pixels[..., :3], np.asarray(decode_image(data)))


def _other_files() -> dict[str, bytes]:
    files = {"CMYK": _jpeg("CMYK")}
    for kind in ("PNG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        Image.fromarray(picture(20, 30)).save(file, kind)
        files[kind] = file.getvalue()
    return files


@pytest.mark.parametrize("kind", _other_files())
def test_other_files_are_decoded_by_pillow(kind: str) -> None:
    data = _other_files()[kind]
    image = load_backend("fast").decode(data)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(decode_image(data)))


def test_pictures_in_memory_are_taken_too() -> None:
    pixels = picture(48, 64)
    results = [
        train_transform(input_size=32, image_backend="fast")(p, _rng()) for p in (pixels, Image.fromarray(pixels))
    ]
    np.testing.assert_array_equal(results[0], results[1])


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.mark.parametrize("options", [{}, {"train_crop_mode": "src"}, {"train_interpolation": "random"}, {"aug": False}])
def test_both_backends_draw_the_same_and_crop_the_same(options: dict[str, Any]) -> None:
    """Whole transforms without `aa`, which may multiply a difference of a level."""
    for path in PHOTOGRAPHS:
        for seed in range(6):
            rngs = [np.random.default_rng(seed) for _ in range(2)]
            results = [
                train_transform(image_backend=name, color_jitter=0.0, **LEVELS, **options)(
                    load_backend(name).decode(path), rng
                )
                for name, rng in zip(NAMES, rngs, strict=True)
            ]
            assert rngs[0].bit_generator.state == rngs[1].bit_generator.state
            _check_near(results[1], results[0])


def test_with_aa_the_mean_difference_stays_below_two_levels() -> None:
    differences = []
    for path in PHOTOGRAPHS:
        for seed in range(12):
            results = [
                train_transform(aa="rand-m9-mstd0.5-inc1", image_backend=name, **LEVELS)(
                    load_backend(name).decode(path), np.random.default_rng(seed)
                )
                for name in NAMES
            ]
            differences.append(np.abs(results[0] - results[1]).mean())
    assert np.mean(differences) < 1.0
    assert max(differences) < 8.0  # equalising, posterising and solarising multiply a level


def test_damaged_files_have_the_errors_of_pil(tmp_path: Path) -> None:
    whole = PHOTOGRAPHS[0].read_bytes()
    transform, decode = train_transform(image_backend="fast"), load_backend("fast").decode
    for name, data in {
        "half": whole[: len(whole) // 2],
        "short": whole[:-400],
        "head": whole[:100],
        "empty": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ImageError) as expected:
            decode_image(path)
        with pytest.raises(ImageError) as found:
            transform(decode(path), _rng())
        assert str(found.value) == str(expected.value)
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "missing")


def test_data_set_reads_with_the_backend_and_reports_damage(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PHOTOGRAPHS[0].read_bytes())
    (tmp_path / "b.jpg").write_bytes(PHOTOGRAPHS[0].read_bytes()[:9000])
    images = ImageList(tmp_path, ["a.jpg", "b.jpg"], np.zeros(2, np.int64), None)
    transform, kinds = train_transform(image_backend="fast"), []

    def record(image: Any, rng: np.random.Generator) -> np.ndarray:
        kinds.append(type(image))
        return transform(image, rng)

    data = ImageDataset(images, record, seed=0, decode=load_backend("fast").decode)
    assert isinstance(data[(0, 0, 0)], Sample)
    assert isinstance(data[(0, 1, 0)], BadImage)
    assert kinds == [fast.Jpeg, fast.Jpeg]


@pytest.mark.parametrize("module", ["cykooz_resizer", "simplejpeg"])
def test_missing_packages_are_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install '{module.replace('_', '.')}>=\S+'; or use --image_backend pil"):
        load_backend("fast")
