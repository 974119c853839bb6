"""Tables, pictures and files of an evaluation."""

import csv
import errno
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from tests.image_results import make_results
from util.data.class_names import IMAGENET_NAMES, read_class_names
from util.errors import OutputError, SaveError, UsageError
from util.evaluation.pictures import (
    draw_calibration,
    draw_confusion,
    draw_per_class,
    fonts,
    most_confused,
    save_picture,
    short_name,
)
from util.evaluation.report import (
    PICTURES,
    calibration_table,
    confusion_table,
    csv_text,
    markdown_text,
    per_class_table,
    write_comparison,
    write_report,
)
from util.evaluation.results import ImageResults
from util.evaluation.statistics import calibration, class_statistics, confusion_pairs
from util.whole_files import check_whole_output, create_folder, write_text

RESULTS = make_results(400, 12)
NAMES = ['a, "b"', "ü", *(f"class {i}" for i in range(2, 12))]
SUMMARY = {"model": "cvt_nano_32x32", "top1": 51.25}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# --- tables


def test_the_table_of_classes() -> None:
    statistics = class_statistics(RESULTS, np.arange(12))
    found = rows(per_class_table(statistics, NAMES))
    assert [row["class_id"] for row in found] == [str(i) for i in range(12)]
    assert [row["name"] for row in found] == NAMES
    assert [int(row["images"]) for row in found] == np.bincount(RESULTS.labels, minlength=12).tolist()
    for row in found[:-1]:
        own = RESULTS.predicted[RESULTS.labels == int(row["class_id"])]
        assert float(row["top1"]) == pytest.approx(100 * np.mean(own == int(row["class_id"])), abs=1e-4)
        assert float(row["top1"]) <= float(row["top5"])
        other = int(row["confused_with"])
        assert int(row["confused_images"]) == (own == other).sum()
        assert row["confused_with_name"] == NAMES[other]
    assert set(list(found[-1].values())[3:]) == {""}, "a class without images"


def test_the_table_of_confusions() -> None:
    found = rows(confusion_table(confusion_pairs(RESULTS), NAMES))
    assert sum(int(row["count"]) for row in found) == 400
    first = found[0]
    true, predicted = int(first["true"]), int(first["predicted"])
    assert int(first["count"]) == ((RESULTS.labels == true) & (RESULTS.predicted == predicted)).sum()
    assert (first["true_name"], first["predicted_name"]) == (NAMES[true], NAMES[predicted])


def test_the_table_of_confidences() -> None:
    found = rows(calibration_table(calibration(RESULTS)))
    assert len(found) == 15
    assert [float(found[0]["above"]), float(found[-1]["up_to"])] == [0, 100]
    assert sum(int(row["images"]) for row in found) == 400
    full = [row for row in found if int(row["images"])]
    distances = [int(row["images"]) * abs(float(row["accuracy"]) - float(row["confidence"])) for row in full]
    assert sum(distances) / 400 == pytest.approx(calibration(RESULTS).ece, abs=1e-3)
    assert {row["accuracy"] for row in found if not int(row["images"])} <= {""}


def test_fields_of_tables() -> None:
    row = (None, float("nan"), np.float64("nan"), 1 / 3, 7, "a|b")
    assert csv_text(list("uvwxyz"), [row]) == "u,v,w,x,y,z\n,,,0.3333,7,a|b\n"
    assert markdown_text(list("uvwxyz"), [row]).splitlines()[2] == "|  |  |  | 0.3333 | 7 | a\\|b |"


def test_checkpoints_stand_in_one_table_in_their_order(tmp_path: Path) -> None:
    write_comparison(
        tmp_path,
        [{"checkpoint": "z", "error": "damaged"}, {"checkpoint": "a", "top1": 50.0}, {"checkpoint": "m", "top1": 60.0}],
    )
    assert (tmp_path / "checkpoints.csv").read_text() == (
        "checkpoint,top1,error\nz,,damaged\na,50.0000,\nm,60.0000,\n"
    )  # fmt: skip
    markdown = (tmp_path / "checkpoints.md").read_text().splitlines()
    assert markdown[:3] == ["| checkpoint | top1 | error |", "| --- | --- | --- |", "| z |  | damaged |"]


# --- files


def write(folder: Path, results: ImageResults = RESULTS, *, pictures: bool) -> None:
    write_report(
        folder, results, class_ids=np.arange(12), class_names=NAMES, summary=SUMMARY, pictures=pictures
    )  # fmt: skip


def test_a_report_without_matplotlib_has_the_tables_and_no_old_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it would fail
    (tmp_path / "confusion.png").write_bytes(b"of another model")
    write(tmp_path, pictures=False)
    assert sorted(os.listdir(tmp_path)) == ["calibration.csv", "confusion.csv", "per_class.csv", "summary.json"]
    assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY


def test_a_report_replaces_an_earlier_one(tmp_path: Path) -> None:
    write(tmp_path, make_results(100, 12, seed=1), pictures=True)
    names = sorted(os.listdir(tmp_path))
    assert names == sorted([*PICTURES, "calibration.csv", "confusion.csv", "per_class.csv", "summary.json"])
    before = {name: (tmp_path / name).read_bytes() for name in names if name != "summary.json"}
    write(tmp_path, pictures=True)
    assert sorted(os.listdir(tmp_path)) == names
    assert not [name for name, content in before.items() if (tmp_path / name).read_bytes() == content]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)


def test_what_cannot_be_written_is_refused_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="cannot be written"):
            create_folder(path)
    for output in ("folder.csv", "nowhere/x.csv", "file/x.jsonl"):
        with pytest.raises(OutputError, match=output):
            check_whole_output(str(tmp_path / output))
    for output in ("x", "x.txt", "x.JSONL"):
        with pytest.raises(UsageError, match=r"must end in \.jsonl or \.csv"):
            check_whole_output(str(tmp_path / output))
    (tmp_path / "old.csv").write_text("kept")
    check_whole_output(str(tmp_path / "old.csv"))
    check_whole_output(str(tmp_path / "new.csv"))
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.csv", "old.csv"], "nothing is left by looking"
    assert (tmp_path / "old.csv").read_text() == (tmp_path / "file").read_text() == "kept"
    create_folder(tmp_path / "a" / "b")
    create_folder(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").write_text("old")

    def full(path: Path, *_: Any, **__: Any) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SaveError, match=r"x\.csv: not written: No space left on device"):
            write_text(tmp_path / "x.csv", "new")
    assert os.listdir(tmp_path) == ["x.csv"]
    assert (tmp_path / "x.csv").read_text() == "old"


# --- pictures


def texts(figure: Figure) -> Iterator[tuple[str, Any]]:
    """Every text that is drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            yield text.get_text(), text.get_window_extent(canvas.get_renderer()).shrunk(0.98, 0.9)


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie over each other."""
    return [(a, b) for (a, box), (b, other) in itertools.combinations(texts(figure), 2) if box.overlaps(other)]


SIZES = {
    "two classes": (100, 2, ["cat", "dog"]),
    "digits": (500, 10, [str(i) for i in range(10)]),
    "wnids": (150, 40, [f"n{i:08d}" for i in range(40)]),
    "ImageNet": (5000, 1000, read_class_names(IMAGENET_NAMES, 1000)),
    "names beyond measure": (300, 30, [f"{i} a very long name of a class " + "x" * 100 for i in range(30)]),
}


@pytest.mark.parametrize("size", SIZES)
def test_no_text_lies_over_another(size: str) -> None:
    num_images, num_classes, names = SIZES[size]
    results, ids = make_results(num_images, num_classes), np.arange(num_classes)
    figures = [
        draw_confusion(confusion_pairs(results), ids, names, subtitle="cvt_13_224x224, 50,000 images, top-1 81.60 %"),
        draw_calibration(calibration(results), subtitle="cvt_13_224x224, 50,000 images, top-1 81.60 %"),
        draw_per_class(class_statistics(results, ids), names, subtitle="cvt_13_224x224, 50,000 images"),
    ]
    assert [overlaps(figure) for figure in figures] == [[], [], []]
    drawn = [text for figure in figures for text, _ in texts(figure)]
    assert {"Confusion matrix", "predicted", "true", "Confidences"} <= set(drawn)
    assert any(text.startswith("Calibration: expected calibration error") for text in drawn)


def test_overlapping_texts_would_be_seen() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.51, 0.5, "other")
    assert overlaps(figure) == [("one", "other")]


def test_the_matrix_of_many_classes_shows_the_most_confused_ones() -> None:
    pairs = np.array([[1, 2, 3], [2, 1, 3], [3, 3, 90], [4, 5, 5], [6, 7, 1], [8, 9, 1]])
    assert most_confused(pairs, 2).tolist() == [1, 2], "6 mistakes, both ways together"
    assert most_confused(pairs, 5).tolist() == [1, 2, 4, 5]
    assert most_confused(pairs, 100).tolist() == [1, 2, 4, 5, 6, 7, 8, 9]
    assert most_confused(pairs[2:3], 10).tolist() == []


def test_a_model_without_mistakes_can_be_drawn() -> None:
    labels = np.arange(50)
    sure = np.ones((50, 1))
    results = ImageResults(labels, labels[:, None], sure, sure[:, 0], np.zeros(50))
    names = [f"c{i}" for i in labels]
    for figure in (
        draw_confusion(confusion_pairs(results), labels, names, subtitle=""),
        draw_per_class(class_statistics(results, labels), names, subtitle=""),
        draw_calibration(calibration(results), subtitle=""),
    ):
        assert overlaps(figure) == []


def test_names_in_chinese_are_drawn_with_a_font_that_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    figure = draw_confusion(np.array([[0, 1, 2]]), np.arange(2), ["虎斑猫", "狗"], subtitle="")
    save_picture(figure, tmp_path / "x.png")
    assert not recwarn.list, "also where there is none"
    monkeypatch.setattr("util.evaluation.pictures.get_font_names", lambda: ["Ubuntu", "SimHei", "Noto Sans CJK SC"])
    assert fonts() == ["DejaVu Sans", "Noto Sans CJK SC", "SimHei"]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("tench, Tinca tinca", "tench"),
        ("$1 and $2", r"\$1 and \$2"),
        ("caf\udce9", "caf\\udce9"),
        ("a\tb\nc\x00", "a b c?"),
        ("x" * 26, "x" * 26),
        ("x" * 27, "x" * 25 + "…"),
    ],
)
def test_names_are_drawn_as_they_are_read(name: str, drawn: str) -> None:
    assert short_name(name) == drawn


def test_a_report_on_a_full_disk_has_what_fits_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, make_results(100, 12, seed=1), pictures=False)
    real = Path.write_text

    def almost_full(path: Path, text: str, **options: Any) -> int:
        if len(text) > 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, text, **options)

    monkeypatch.setattr(Path, "write_text", almost_full)
    with pytest.raises(
        SaveError, match=r"lacks per_class\.csv, confusion\.csv, calibration\.csv: .*No space.*make room"
    ):
        write(tmp_path, pictures=False)
    assert os.listdir(tmp_path) == ["summary.json"], "no table of another model"


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "x.csv").symlink_to("y.csv")
    write_text(tmp_path / "x.csv", "new")
    assert (tmp_path / "x.csv").is_symlink()
    assert (tmp_path / "y.csv").read_text() == "new"
    (tmp_path / "z.csv").symlink_to("/dev/null")
    write_text(tmp_path / "z.csv", "new")
    assert Path("/dev/null").is_char_device()
