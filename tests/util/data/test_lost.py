"""Data that is gone, or a limit that is too low, ends a run that can be continued; one missing image is a bad image."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.scripts.run import ROOT
from tests.tars import sample, write_shards
from tests.trees import write_picture
from util.data import images as images_module
from util.data import loader
from util.data.dataset import BadImage, ImageDataset
from util.data.image_list import ImageList
from util.data.images import ImageError
from util.data.loader import SerialLoader, eval_loader, make_loader
from util.data.lost import first_missing, shared_failure
from util.data.preprocessing import Preprocessing
from util.data.sampler import EvalBatches, TrainBatches
from util.data.splits import load_split
from util.data.transforms import train_transform
from util.errors import LimitError, ResumableError
from util.options import LoaderOptions

PREPROCESSING = Preprocessing(
    input_size=(3, 16, 16), crop_pct=0.9, crop_mode="center", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3
)
UNREACHABLE = [errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.EHOSTDOWN, errno.ETIMEDOUT]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders, a list of the same images, and, in a folder of their own, shards."""
    root = tmp_path / "data"
    for i in range(8):
        write_picture(root / f"train/{'ab'[i % 2]}/{i}.png", seed=i, size=(24, 20))
    (tmp_path / "list.txt").write_text("".join(f"train/{'ab'[i % 2]}/{i}.png {i % 2}\n" for i in range(8)))
    files = [sample(f"{i}", i % 2, (root / f"train/{'ab'[i % 2]}/{i}.png").read_bytes(), ".png") for i in range(8)]
    write_shards(tmp_path / "shards", *([*files[i], *files[i + 1]] for i in range(0, 8, 2)))
    return root


def _load(kind: str, root: Path) -> ImageList:
    if kind == "shards":
        return load_split(str(root.parent / "shards"), "train")
    return load_split(str(root), "train", list_path=str(root.parent / "list.txt") if kind == "list" else None)


def _loader(images: ImageList, *, training: bool, num_workers: int) -> SerialLoader:
    loading = LoaderOptions(num_workers=num_workers)
    if not training:
        return eval_loader(images, EvalBatches(num_images=8, batch_size=4), PREPROCESSING, loading=loading)
    dataset = ImageDataset(images, train_transform(input_size=16), seed=5, substitute=True)
    return make_loader(dataset, TrainBatches(num_images=8, batch_size=4, seed=5), loading=loading, persistent=False)


def _batches(batches: SerialLoader) -> list[tuple[int, list[BadImage]]]:
    """Returns how many images each batch has, and its bad ones."""
    return [(len(labels), bad) for _, labels, _, bad in batches]


def _failure(batches: SerialLoader) -> str:
    """Returns what a loader's ResumableError says; one that is kept with its frames would keep the workers, too."""
    with pytest.raises(ResumableError) as caught:
        _batches(batches)
    return str(caught.value)


WAYS = [
    (kind, training, workers)
    for kind in ("folders", "list", "shards")
    for training in (True, False)
    for workers in (0, 2)
]


@pytest.mark.parametrize(("kind", "training", "workers"), WAYS)
def test_data_that_is_moved_away_is_no_bad_image(kind: str, training: bool, workers: int, root: Path) -> None:
    images = _load(kind, root)
    batches = _loader(images, training=training, num_workers=workers)
    images.root.rename(root.parent / "away")
    missing = f"{images.root}: is not there any more; when it is back, the same command continues the run"
    assert _failure(batches) == missing
    (root.parent / "away").rename(images.root)
    assert _batches(_loader(images, training=training, num_workers=workers)) == [(4, []), (4, [])]


@pytest.mark.parametrize(("kind", "training", "workers"), [way for way in WAYS if way[0] != "shards"])
def test_one_missing_file_in_a_folder_that_is_there_is_a_bad_image(
    kind: str, training: bool, workers: int, root: Path
) -> None:
    images = _load(kind, root)
    (root / "train/a/2.png").unlink()
    found = _batches(_loader(images, training=training, num_workers=workers))
    bad = [image for _, some in found for image in some]
    assert set(bad) == {BadImage(str(root / "train/a/2.png"), "no such file")}
    assert sum(count for count, _ in found) == (8 if training else 7)  # another one stands in for it, or none


@pytest.mark.parametrize("gone", ["train", "train/b"])
def test_the_folder_that_is_gone_is_named(gone: str, root: Path) -> None:
    images = _load("folders", root)
    shutil.rmtree(root / gone)
    assert _failure(_loader(images, training=True, num_workers=0)).startswith(f"{root / gone}: is not there any more; ")


def test_a_shard_that_is_gone_is_not_one_image(root: Path) -> None:
    images = _load("shards", root)
    gone = root.parent / "shards/train-000002.tar"
    gone.unlink()
    assert _failure(_loader(images, training=True, num_workers=0)).startswith(f"{gone}: is not there any more; ")


@pytest.fixture
def fail_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Returns a function that lets all reading fail with an error of the system, in processes forked later, too."""

    def begin(number: int) -> None:
        def fail(*arguments: Any) -> Any:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(images_module, "os", SimpleNamespace(stat=fail))
        monkeypatch.setattr(os, "pread", fail)

    return begin


@pytest.mark.parametrize(
    ("kind", "training", "workers"), [("folders", True, 2), ("list", False, 2), ("shards", True, 2)]
)
def test_a_disk_that_does_not_answer_is_no_bad_image(
    kind: str, training: bool, workers: int, root: Path, fail_reading: Callable[[int], None]
) -> None:
    images = _load(kind, root)
    fail_reading(errno.ENOTCONN)
    said = _failure(_loader(images, training=training, num_workers=workers))
    assert said.startswith(f"{images.root}: cannot be read: Transport endpoint is not connected (at train")
    assert said.endswith("; when it is back, the same command continues the run")


@pytest.mark.parametrize("number", UNREACHABLE)
@pytest.mark.parametrize("kind", ["folders", "shards"])
def test_what_a_lost_disk_or_network_answers_ends_a_run_that_can_be_continued(
    number: int, kind: str, root: Path, fail_reading: Callable[[int], None]
) -> None:
    images = _load(kind, root)
    fail_reading(number)
    said = _failure(_loader(images, training=True, num_workers=0))
    assert f"{images.root}: cannot be read: {os.strerror(number)} (at train" in said
    assert ("if that file alone is damaged" in said) == (number == errno.EIO and kind == "folders")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG])
def test_other_errors_are_the_image_s_own(number: int, root: Path, fail_reading: Callable[[int], None]) -> None:
    images = _load("folders", root)
    fail_reading(number)
    found = _batches(_loader(images, training=False, num_workers=0))
    assert [bad.reason for _, some in found for bad in some] == [os.strerror(number)] * 8


def test_a_damaged_sector_that_the_index_knows_stays_a_bad_image(
    root: Path, fail_reading: Callable[[int], None]
) -> None:
    images = _load("folders", root)
    marked = ImageList(images.root, images.paths, images.labels, images.class_names, bad_at=np.arange(8))
    fail_reading(errno.EIO)
    assert [len(bad) for _, bad in _batches(_loader(marked, training=False, num_workers=0))] == [4, 4]
    fail_reading(errno.ESTALE)
    assert "Stale file handle" in _failure(_loader(marked, training=False, num_workers=0))


def test_the_uppermost_missing_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_missing(tmp_path) is None
    assert first_missing(tmp_path / "a/b/c") == tmp_path / "a"
    (tmp_path / "file").touch()
    assert first_missing(tmp_path / "file/b") == tmp_path / "file/b"
    (tmp_path / "link").symlink_to("nowhere")
    assert first_missing(tmp_path / "link/b") == tmp_path / "link"
    monkeypatch.chdir(tmp_path)
    assert first_missing(Path("data/train")) == Path("data")


# --- open files


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_open_files_are_no_bad_images(workers: int, root: Path, fail_reading: Callable[[int], None]) -> None:
    images = _load("folders", root)
    fail_reading(errno.EMFILE)
    with pytest.raises(LimitError, match=r"train/.*png: too many files are open: `ulimit -n 4096` raises the limit"):
        _batches(_loader(images, training=True, num_workers=workers))


@pytest.mark.parametrize(("number", "kind", "said"), [
    (errno.EMFILE, LimitError, "the processes that load data cannot be started: too many files are open: `ulimit -n"),
    (errno.ENFILE, LimitError, "the processes that load data cannot be started: too many files are open: `ulimit -n"),
    (errno.ENOSPC, ResumableError, r"cannot be started: No space left on device \(is .*shm full\?\)"),
])  # fmt: skip
def test_workers_that_cannot_be_started_say_why(
    number: int, kind: type[Exception], said: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

        def __iter__(self) -> Any:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(loader, "DataLoader", Full)
    with pytest.raises(kind, match=said):
        _batches(_loader(_load("folders", root), training=True, num_workers=2))


def test_an_error_is_its_image_s_own_without_a_number(tmp_path: Path) -> None:
    """What decoding finds has none."""
    error = ImageError(str(tmp_path / "gone/x.jpg"), "is empty")
    assert shared_failure(error, root=tmp_path, holder=tmp_path / "gone", is_known=False) is None


def test_a_low_limit_of_open_files_is_one_line_and_not_tried_again(tmp_path: Path) -> None:
    """Enough images for 40 processes, each of which gets some and needs a pipe."""
    many = tmp_path / "many"
    (many / "train/a").mkdir(parents=True)
    for i in range(40):
        (many / f"train/a/{i}.png").touch()
    command = f"ulimit -n 30; exec {sys.executable} -m util.data.check {many} -j 40"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (74, False), done.stderr
    assert "error: too many files are open: `ulimit -n 4096` raises the limit\n" in done.stderr
