"""What is made of the images of a split: samples, a fingerprint, a part of them, and what their classes are called."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cifar_files import pack, write_cifar
from tests.trees import write_picture
from util.data.class_names import read_class_names, readable_names
from util.data.dataset import BadImage, ImageDataset
from util.data.image_list import ImageList, take
from util.data.sampler import TrainBatches
from util.data.splits import load_split
from util.data.transforms import eval_transform
from util.errors import DataError, MissingInputError, UsageError

# --- samples and the fingerprint


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    write_cifar(tmp_path / "extracted", "cifar-10-batches-py")
    return pack(tmp_path / "extracted", "cifar-10-batches-py", tmp_path / "cifar-10-python.tar.gz")


def test_pixels_of_an_archive_are_samples_like_any(cifar: Path) -> None:
    images = load_split(str(cifar), "train")
    assert images.pixels is not None
    picture = images.image(7)
    assert (picture.mode, picture.size) == ("RGB", (32, 32))
    np.testing.assert_array_equal(np.asarray(picture), images.pixels[7])
    transform = eval_transform(input_size=16)
    sample = ImageDataset(images, lambda image, rng: transform(image), seed=0)[(0, 7, 0)]
    assert not isinstance(sample, BadImage)
    np.testing.assert_array_equal(sample.image, transform(Image.fromarray(images.pixels[7])))
    assert (sample.label, sample.index) == (images.labels[7], 7)


def test_fingerprint_of_files_is_what_checkpoints_have_and_of_pixels_covers_them(cifar: Path) -> None:
    files = ImageList(Path("/x"), ["train/a/1.jpg", "train/ä/2 3.jpg"], np.array([0, 1]), ["a", "ä"])
    assert files.fingerprint() == "2 (493045ff6c5b)"
    images = load_split(str(cifar), "train")
    assert images.pixels is not None
    changed = images.pixels.copy()
    changed[3, 5, 7, 1] ^= 1
    assert replace(images, pixels=changed).fingerprint() != images.fingerprint()
    assert replace(images, pixels=images.pixels.copy()).fingerprint() == images.fingerprint()


def test_dataset_reads_by_key_and_returns_errors_as_values(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/a/0.png", seed=0)
    write_picture(tmp_path / "train/b/1.png", seed=1)
    (tmp_path / "train/b/2.png").write_bytes(b"nothing")
    draws: list[float] = []

    def transform(image: Any, rng: np.random.Generator) -> np.ndarray:
        draws.append(rng.random())
        return eval_transform(input_size=8)(image)

    dataset = ImageDataset(load_split(str(tmp_path), "train"), transform, seed=3)
    assert len(dataset) == 3
    sample = dataset[(0, 1, 0)]
    assert not isinstance(sample, BadImage)
    assert (sample.image.shape, sample.label, sample.index) == ((3, 8, 8), 1, 1)
    for key in ((0, 1, 0), (1, 1, 0), (0, 1, 1)):
        dataset[key]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3
    assert dataset[(0, 2, 0)] == BadImage(
        str(tmp_path / "train/b/2.png"), "is not an image (JPEG, PNG, WEBP, BMP, GIF)"
    )


# --- some of the images


def _of(labels: list[int]) -> ImageList:
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8)
    return ImageList(Path("x"), [f"{i}.jpg" for i in range(len(labels))], np.array(labels), None, pixels)


@pytest.mark.parametrize(("count", "expected"), [
    (3, [1, 1, 1]), (6, [2, 2, 2]), (9, [4, 2, 3]), (9, [3, 2, 4]), (12, [5, 2, 5]), (14, [7, 2, 5]), (17, [10, 2, 5]),
])  # fmt: skip
def test_take_is_as_even_as_the_classes_allow(count: int, expected: list[int]) -> None:
    images = _of([0] * 10 + [4] * 2 + [7] * 5)
    found = [Counter(take(images, count, seed=seed).labels.tolist()) for seed in range(20)]
    counts = [[c[label] for label in (0, 4, 7)] for c in found]
    assert expected in counts
    assert all(sorted(c) == sorted(expected) for c in counts)


def test_take_keeps_order_and_what_belongs_together() -> None:
    images = _of([i % 3 for i in range(60)])
    found = take(images, 20, seed=1)
    indices = [int(path.removesuffix(".jpg")) for path in found.paths]
    assert indices == sorted(set(indices))
    assert found.labels.tolist() == [i % 3 for i in indices]
    assert found.pixels is not None
    assert found.pixels[:, 0, 0, 0].tolist() == indices


def test_take_is_a_pure_function_and_smaller_counts_are_parts_of_larger_ones() -> None:
    images = _of([i % 7 for i in range(100)])
    chosen = {count: take(images, count, seed=5).paths for count in (1, 10, 40, 100)}
    assert chosen[40] == take(images, 40, seed=5).paths != take(images, 40, seed=6).paths
    assert set(chosen[1]) < set(chosen[10]) < set(chosen[40]) < set(chosen[100])
    first = [index for _, index, _ in next(iter(TrainBatches(num_images=100, batch_size=40, seed=5)))]
    assert {f"{i}.jpg" for i in first} != set(chosen[40])  # another stream than the order's


def test_take_chooses_each_image_of_a_class_equally_often() -> None:
    images = _of([0] * 10 + [1] * 10)
    counts = np.zeros(20)
    for seed in range(400):
        counts[[int(path.removesuffix(".jpg")) for path in take(images, 6, seed=seed).paths]] += 1
    assert abs(counts - 120).max() < 4 * np.sqrt(400 * 0.3 * 0.7)  # binomial: 3 of 10, 400 times


def test_more_images_than_there_are_cannot_be_taken() -> None:
    with pytest.raises(UsageError, match=r"num_samples 4 is more than the 3 training images; lower --num_samples"):
        take(_of([0, 1, 2]), 4, seed=0)


# --- class names


def test_class_names_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbf1 dog, hound\r\n\r\n0 cat\r\n")
    assert read_class_names(path, 2) == ["cat", "dog, hound"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("0 cat\n0 dog\n", r":2: id 0 stands twice"),
        ("0 cat\ndog\n", r":2: expected `id name`, got 'dog'"),
        ("0 cat\n1\n", r":2: expected `id name`, got '1'"),
        (f"0 cat\n{'1' * 5000} dog\n", r":2: expected `id name`, got '1{60}'$"),
        ("0 cat\n\u0661 dog\n", r":2: expected `id name`"),
        ("0 cat\n2 dog\n", r": expected the ids 0 to 1, once each; got 2 names"),
        ("0 cat\n", r": expected the ids 0 to 1, once each; got 1 names"),
        ("", r"got 0 names"),
    ],
)
def test_bad_class_names_file(content: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(content)
    with pytest.raises(DataError, match=fault):
        read_class_names(tmp_path / "names.txt", 2)


def test_missing_class_names_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="gone"):
        read_class_names(tmp_path / "gone", 2)


def test_readable_names(tmp_path: Path) -> None:
    wnids = [f"n{i:08d}" for i in range(1000)]
    (tmp_path / "names.txt").write_text("0 eins\n1 zwei\n")
    imagenet = readable_names(wnids, 1000, None)
    assert (imagenet[0], imagenet[1], imagenet[178]) == (
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
        "Weimaraner",
    )
    cases: list[tuple[Any, list[str]]] = [
        ((None, 1000, None), imagenet),
        ((["n1", *wnids[1:]], 1000, None), ["n1", *wnids[1:]]),
        ((wnids[:2], 2, None), wnids[:2]),
        ((["a", "b"], 2, str(tmp_path / "names.txt")), ["eins", "zwei"]),
        ((None, 3, None), ["0", "1", "2"]),
    ]
    for arguments, expected in cases:
        assert readable_names(*arguments) == expected
