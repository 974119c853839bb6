"""From the settings to batches: every one of them arrives where it is meant for."""

import os
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tests.trees import write_tree
from util.data.preprocessing import Preprocessing
from util.distributed import World
from util.errors import UsageError
from util.options import AugmentOptions, DataOptions, LoaderOptions, MixOptions, TrainDataOptions
from util.train.data import TrainingData, load_splits
from util.train.saver import Writer

PREPROCESSING = Preprocessing(
    input_size=(3, 16, 16), crop_pct=1.0, crop_mode="center", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tree(tmp_path_factory.mktemp("data"), num_classes=2, train=8, val=2)
    images = [f"train/n01440764/n01440764 {i}.JPEG {i % 2}\n" for i in range(8)]
    (root / "other_list.txt").write_text("".join(images))
    return root


def training_data(
    data_dir: Path,
    augment: AugmentOptions,
    mix: MixOptions,
    *,
    smoothing: float = 0.0,
    num_workers: int = 0,
    image_backend: Literal["pil", "fast"] = "pil",
) -> TrainingData:
    splits = load_splits(
        DataOptions(data_dir=str(data_dir)), TrainDataOptions(), num_classes=None, names_file=None, seed=0
    )
    return TrainingData(
        splits,
        preprocessing=PREPROCESSING,
        augment=augment,
        mix=mix,
        smoothing=smoothing,
        loader=LoaderOptions(num_workers=num_workers, shared_memory=False, image_backend=image_backend),
        batch_size=8,
        eval_batch_size=4,
        seed=0,
        world=World(rank=0, size=1),
    )


def first_epoch(data: TrainingData, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mixed images and targets of an epoch."""
    mixed = []
    for i, (images, labels, _, _) in enumerate(data.epoch(epoch)):
        mixed.append(data.mixer(epoch)(images, labels, np.random.default_rng([epoch, i])))
    images, targets = zip(*mixed, strict=True)
    return np.concatenate([x.numpy() for x in images]), np.concatenate([x.numpy() for x in targets])


# field: what else must be on for it to matter, and another value
AUGMENT: dict[str, tuple[dict[str, Any], Any]] = {
    "aug": ({}, False),
    "train_crop_mode": ({}, "src"),
    "scale": ({}, (0.9, 1.0)),
    "ratio": ({}, (1.0, 1.0)),
    "train_interpolation": ({}, "nearest"),
    "hflip": ({}, 0.0),
    "vflip": ({}, 1.0),
    "color_jitter": ({}, 0.0),
    "color_jitter_prob": ({}, 0.5),
    "grayscale_prob": ({}, 1.0),
    "gaussian_blur_prob": ({}, 1.0),
    "aa": ({}, "rand-m9"),
    "aug_repeats": ({}, 3),
    "reprob": ({}, 1.0),
    "remode": ({"reprob": 1.0}, "const"),
    "recount": ({"reprob": 1.0}, 4),
    "recount_min": ({"reprob": 1.0, "recount": 4}, 4),
    "rearea": ({"reprob": 1.0}, (0.5, 0.9)),
}
MIX: dict[str, tuple[dict[str, Any], Any]] = {
    "mixup": ({}, 0.8),
    "cutmix": ({}, 1.0),
    "cutmix_minmax": ({"cutmix": 1.0}, (0.4, 0.5)),
    "mixup_prob": ({"mixup": 0.8}, 0.0),
    "mixup_switch_prob": ({"mixup": 0.8, "cutmix": 1.0}, 0.0),
    "mixup_mode": ({"mixup": 0.8}, "elem"),
    "mixup_off_epoch": ({"mixup": 0.8}, 1),
}


def test_the_tables_have_every_field() -> None:
    assert AUGMENT.keys() == {f.name for f in fields(AugmentOptions)}
    assert MIX.keys() == {f.name for f in fields(MixOptions)}


@pytest.mark.parametrize("name", AUGMENT)
def test_augmentation_setting_changes_the_images(name: str, data_dir: Path) -> None:
    others, value = AUGMENT[name]
    base = AugmentOptions(**others)
    before, _ = first_epoch(training_data(data_dir, base, MixOptions()))
    after, _ = first_epoch(training_data(data_dir, replace(base, **{name: value}), MixOptions()))
    assert before.shape == after.shape == (16, 3, 16, 16)
    assert np.abs(before - after).max() > 0.01


def test_image_backend_changes_training_images_a_little_and_validation_not_at_all(data_dir: Path) -> None:
    options = AugmentOptions(color_jitter=0.0)
    pil, fast = (training_data(data_dir, options, MixOptions(), image_backend=name) for name in ("pil", "fast"))
    difference = np.abs(first_epoch(pil)[0] - first_epoch(fast)[0])
    assert 0 < difference.max() < 0.5
    assert difference.mean() < 5 * 2 / 255
    for before, after in zip(pil.evaluation(nothing), fast.evaluation(nothing), strict=True):
        np.testing.assert_array_equal(before[0].numpy(), after[0].numpy())


@pytest.mark.parametrize("name", MIX)
def test_mixing_setting_changes_images_or_targets(name: str, data_dir: Path) -> None:
    others, value = MIX[name]
    base = MixOptions(**others)
    plain = AugmentOptions(aug=False)
    epoch = 1 if name == "mixup_off_epoch" else 0
    before = first_epoch(training_data(data_dir, plain, base), epoch)
    after = first_epoch(training_data(data_dir, plain, replace(base, **{name: value})), epoch)
    assert np.abs(before[0] - after[0]).max() > 0.01


def test_mixing_ends_at_its_epoch_with_workers_that_stay(data_dir: Path) -> None:
    plain = AugmentOptions(aug=False)
    data = training_data(data_dir, plain, MixOptions(mixup=0.8, mixup_off_epoch=1), num_workers=1)
    targets = [first_epoch(data, epoch)[1] for epoch in (0, 1, 2)]
    mixed = [((t > 0) & (t < 1)).any() for t in targets]
    assert mixed == [True, False, False]


def test_smoothing_reaches_the_targets_with_and_without_mixing(data_dir: Path) -> None:
    for mix, epoch in ((MixOptions(), 0), (MixOptions(mixup=0.8, mixup_off_epoch=1), 1)):
        _, targets = first_epoch(training_data(data_dir, AugmentOptions(aug=False), mix, smoothing=0.2), epoch)
        np.testing.assert_allclose(np.unique(targets), [0.1, 0.9], atol=1e-6)


def test_repeats_are_distinct_pictures_of_the_same_images(data_dir: Path) -> None:
    data = training_data(data_dir, AugmentOptions(aug_repeats=2), MixOptions())
    [(images, _, indices, _), *_] = list(data.epoch(0))
    indices = indices.numpy()
    np.testing.assert_array_equal(indices[::2], indices[1::2])
    assert len(set(indices.tolist())) == 4
    assert np.abs(images.numpy()[::2] - images.numpy()[1::2]).reshape(4, -1).max(1).min() > 0.01


def test_mixing_halves_refuses_a_batch_of_one(data_dir: Path) -> None:
    splits = training_data(data_dir, AugmentOptions(), MixOptions()).splits
    with pytest.raises(UsageError, match="batch_size must be at least 2"):
        TrainingData(
            splits, preprocessing=PREPROCESSING, augment=AugmentOptions(), mix=MixOptions(mixup=1.0, mixup_mode="half"),
            smoothing=0.0, loader=LoaderOptions(num_workers=0), batch_size=1, eval_batch_size=1, seed=0,
            world=World(rank=0, size=1),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("train_split", "val", 4), ("cls_label_path_train", "other_list.txt", 8), ("num_samples", 6, 6)],
)
def test_training_data_setting_chooses_the_images(option: str, value: Any, expected: int, data_dir: Path) -> None:
    load = {"num_classes": None, "names_file": None, "seed": 0}
    splits = load_splits(DataOptions(data_dir=str(data_dir)), TrainDataOptions(**{option: value}), **load)  # type: ignore[arg-type]
    assert len(splits.train) == expected
    assert splits.num_classes == 2


def test_effective_batch_counts_processes_and_micro_batches(data_dir: Path) -> None:
    data = training_data(data_dir, AugmentOptions(), MixOptions())
    assert [data.images_per_update(n) for n in (1, 2, 4)] == [8, 16, 16], "an epoch has two micro-batches"


def nothing() -> None:
    pass


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fork_is_announced_once_a_split_as_workers_stay(data_dir: Path, num_workers: int) -> None:
    data = training_data(data_dir, AugmentOptions(aug=False), MixOptions(), num_workers=num_workers)
    workers: list[int] = []
    data.before_fork(lambda: workers.append(len(data.worker_pids())))
    for epoch in range(2):
        assert len(list(data.epoch(epoch))) == 2
        assert len(list(data.evaluation(nothing))) == 1
    assert workers == ([0, 1] if num_workers else [])


@pytest.mark.parametrize("awaited", [True, False], ids=["awaited", "control"])
def test_workers_do_not_have_the_file_open_that_is_being_written(data_dir: Path, tmp_path: Path, awaited: bool) -> None:
    data, writer = training_data(data_dir, AugmentOptions(), MixOptions(), num_workers=1), Writer(background=True)
    unfinished, begun, end = tmp_path / ".tmp-1", threading.Event(), threading.Event()

    def write() -> None:
        with unfinished.open("wb"):
            begun.set()
            end.wait(60)

    def finish() -> None:
        end.set()
        writer.wait()

    data.before_fork(finish if awaited else nothing)
    for load in (lambda: data.epoch(0), lambda: data.evaluation(nothing)):
        begun.clear()
        end.clear()
        writer.do(write)
        begun.wait()
        list(load())
        finish()
    inherited = [unfinished in open_files(pid) for pid in data.worker_pids()]
    assert inherited == [not awaited] * 2


def open_files(pid: int) -> set[Path]:
    return {Path(os.readlink(descriptor)) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
