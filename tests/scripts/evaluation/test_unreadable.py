"""Images that cannot be read are wrong, or an error."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import main
from tests.scripts.evaluation.conftest import FEW, ONE, Evaluate, Place, expected
from util.errors import DataError


@pytest.fixture
def holes(place: Place) -> list[int]:
    """Makes a copy of the data, `holes`, five images of which cannot be read, a whole batch among them."""
    shutil.rmtree("holes", ignore_errors=True)
    shutil.copytree("data", "holes")
    places = [1, 4, 5, 6, 7]
    for i in places:
        Path(place.files[i].replace("data", "holes", 1)).write_bytes(b"" if i % 2 else b"<html>")
    return places


@pytest.mark.parametrize("workers", ["0", "2"])
def test_missing_images_count_as_wrong_if_that_is_allowed(
    place: Place, holes: list[int], capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    """Top-1 and top-5 over all images, the loss over those that could be read; each is named, none replaced."""
    capsys.readouterr()
    arguments = [
        "holes",
        *ONE,
        *FEW,
        "--num_workers",
        workers,
        "--allow_missing",
        "--output",
        "holes.jsonl",
        "--report",
        "holes-report",
    ]
    main(arguments)
    out, err = capsys.readouterr()
    there = np.setdiff1d(np.arange(21), holes)
    logits, labels = place.logits()[there], place.labels[there]
    best = np.argsort(-logits, axis=1)
    found = json.loads(out)
    assert (found["images"], found["missing"]) == (21, 5)
    assert found["top1"] == pytest.approx(100 * (best[:, 0] == labels).sum() / 21)
    assert found["top5"] == pytest.approx(100 * (best[:, :5] == labels[:, None]).sum() / 21)
    assert found["loss"] == pytest.approx(expected(logits, labels)["loss"].expected, abs=1e-5)
    assert "16 of 21 images could be read; the others count as wrong in top-1 and top-5, and not in the loss:" in err
    records = [json.loads(line) for line in Path("holes.jsonl").read_text().splitlines()]
    assert [i for i, record in enumerate(records) if record["predicted"] is None] == holes
    nothing: dict[str, Any] = {
        "correct": False,
        "score": None,
        "label_score": None,
        "loss": None,
        "class_ids": [],
        "scores": [],
        "label_names": [],
    }
    for i in holes:
        assert records[i].items() >= nothing.items()
        assert records[i]["label"] == place.labels[i]
        assert f"{records[i]['file_name']}: is " in err
    with Path("holes-report/per_class.csv").open(newline="") as file:
        tops = [float(row["top1"]) for row in csv.DictReader(file)]
    assert np.mean(tops) == pytest.approx(found["top1"], abs=1e-3)
    with Path("holes-report/confusion.csv").open(newline="") as file:
        assert sum(int(row["count"]) for row in csv.DictReader(file)) == 16


def test_without_missing_images_the_option_changes_no_figure(place: Place, evaluate: Evaluate) -> None:
    assert evaluate(*ONE, "--allow_missing") == [found | {"missing": 0} for found in evaluate(*ONE)]


def test_missing_images_are_an_error_unless_allowed(place: Place, holes: list[int], evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match=r"unreadable image holes/val/.*val 0 1\.JPEG: is empty"):
        evaluate(*ONE, data="holes")


def test_nothing_but_missing_images_is_an_error(place: Place, holes: list[int], evaluate: Evaluate) -> None:
    for file in place.files:
        Path(file.replace("data", "holes", 1)).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 21 images can be read; the first: holes/val/.*: is empty"):
        evaluate(*ONE, "--allow_missing", data="holes")


def test_with_many_missing_images_twenty_are_named(
    place: Place, holes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f"{file.removeprefix('data/')} 0\n" for i, file in enumerate(place.files) if i in holes) * 5
    Path("holes.txt").write_text(lines + place.files[0].removeprefix("data/") + " 0\n")
    main(["holes", *ONE, *FEW, "--allow_missing", "--cls_label_path_val", "holes.txt"])
    out, err = capsys.readouterr()
    assert json.loads(out)["missing"] == 25
    assert err.count(": is ") == 20
    assert "\n  and 5 more" in err
