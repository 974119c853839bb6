"""Unreadable training images are listed once each, and counted over all processes and starts of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from util.data.dataset import BadImage
from util.data.image_list import ImageList
from util.errors import DataError, SaveError
from util.train.rejected import RejectedImages, refuse_known_bad
from util.train.run_folder import RunFolder


def rejected(tmp_path: Path, *, part: float = 0.003) -> RejectedImages:
    folder = RunFolder(str(tmp_path), "run")
    folder.path.mkdir(exist_ok=True)
    return RejectedImages(folder, num_images=1000, part=part)


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "run/bad_images.tsv").read_text(encoding="utf-8").split("\n")[:-1]


def test_each_path_is_listed_once_whoever_sees_it(tmp_path: Path) -> None:
    first, second = rejected(tmp_path), rejected(tmp_path)
    first.add([BadImage("a.jpg", "is empty"), BadImage("b.jpg", "no such file")])
    second.add([BadImage("a.jpg", "is empty")])
    first.add([BadImage("a.jpg", "is empty")])
    rejected(tmp_path).add([BadImage("b.jpg", "no such file")])
    assert lines(tmp_path) == ["a.jpg\tis empty", "b.jpg\tno such file"]


def test_the_budget_is_that_of_all_processes_together(tmp_path: Path) -> None:
    processes = [rejected(tmp_path) for _ in range(4)]
    for i in range(3):
        processes[i].add([BadImage(f"{i}.jpg", "is empty")])
    with pytest.raises(DataError, match=r"4 unreadable training images, --bad_images 0.003 of 1000 allows 3: 0.jpg"):
        processes[3].add([BadImage("3.jpg", "is empty")])


def test_another_image_is_said_to_stand_in_only_where_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = rejected(tmp_path, part=0.001)
    images.add([BadImage("a.jpg", "is empty")])
    assert [record.getMessage() for record in caplog.records] == [
        "unreadable: a.jpg: is empty; another image stands in for it"
    ]
    caplog.clear()
    with pytest.raises(DataError, match=r"b\.jpg: is empty"):
        images.add([BadImage("b.jpg", "is empty")])
    with pytest.raises(DataError, match="allows 0"):
        rejected(tmp_path, part=0.0).add([BadImage("c.jpg", "is empty")])
    assert caplog.records == []
    assert len(lines(tmp_path)) == 3  # listed all the same


def test_names_with_tabs_and_line_ends_stay_one_line(tmp_path: Path) -> None:
    strange = "a\tb\nc\\d \u2028\x85.jpg"
    for _ in range(2):
        rejected(tmp_path).add([BadImage(strange, "is empty")])
    assert lines(tmp_path) == ["a\\tb\\nc\\\\d \u2028\x85.jpg\tis empty"]


def test_what_an_index_knows_is_refused_before_training(tmp_path: Path) -> None:
    rejected(tmp_path).check_known(3)
    with pytest.raises(DataError, match=r"4 of 1000 training images are unreadable by the index; .* allows 3"):
        rejected(tmp_path).check_known(4)
    with pytest.raises(DataError, match="allows 0"):
        rejected(tmp_path, part=0.0).check_known(1)


def test_an_evaluation_image_that_an_index_knows_is_refused_before_training(tmp_path: Path) -> None:
    images = ImageList(tmp_path, [f"{i}.jpg" for i in range(30)], np.zeros(30, np.int64), None)
    refuse_known_bad(images)
    refuse_known_bad(replace(images, bad_at=np.zeros(0, np.int64)))
    with pytest.raises(
        DataError, match=rf"2 of 30 evaluation .*: {tmp_path}/7.jpg, {tmp_path}/9.jpg; repair or remove"
    ):
        refuse_known_bad(replace(images, bad_at=np.array([7, 9])))
    with pytest.raises(DataError, match=rf"{tmp_path}/19.jpg, and 10 more; repair"):
        refuse_known_bad(replace(images, bad_at=np.arange(30)))


def test_nothing_is_listed_in_a_folder_that_is_another_run_s_by_now(tmp_path: Path) -> None:
    images = rejected(tmp_path)
    images.folder.create()
    images.add([BadImage("a.jpg", "is empty")])
    images.folder.path.rename(tmp_path / "moved")
    images.folder.path.mkdir()
    with pytest.raises(SaveError, match="it was moved or removed while this run was training"):
        images.add([BadImage("b.jpg", "is empty")])
    assert list(images.folder.path.iterdir()) == []
