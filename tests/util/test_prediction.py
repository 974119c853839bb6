"""From names of images to written predictions."""

import ast
import csv
import io
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.trees import write_picture
from util.data.images import ImageError
from util.data.transforms import eval_transform
from util.errors import (
    DataError,
    MismatchError,
    NonFiniteLossError,
    OutputError,
    SaveError,
    UsageError,
    run_script,
)
from util.prediction import (
    Prediction,
    predict_files,
    predict_places,
    refuse_unreadable,
    softmax,
    top_k,
    write_predictions,
)

# --- logits to classes


@pytest.mark.parametrize(("num_classes", "k"), [(1, 1), (2, 2), (3, 3), (5, 5), (10, 5)])
def test_best_classes_descend(num_classes: int, k: int) -> None:
    logits = np.random.default_rng(0).standard_normal((4, num_classes)).astype(np.float32)
    names = [f"class {i}" for i in range(num_classes)]
    found = top_k(logits, [f"{i}.jpg" for i in range(4)], names)
    assert [p["file_name"] for p in found] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    for prediction, row in zip(found, logits.astype(np.float64), strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        expected = sorted(range(num_classes), key=lambda i: -row[i])[:k]
        assert prediction["class_ids"] == expected
        np.testing.assert_allclose(prediction["scores"], probabilities[expected], rtol=1e-12)
        assert prediction["label_names"] == [f"class {i}" for i in expected]


def test_known_scores_and_the_order_of_the_keys() -> None:
    (prediction,) = top_k(np.log(np.array([[0.25, 0.5, 0.25]])), ["a.jpg"], ["x", "y", "z"])
    assert list(prediction) == ["class_ids", "scores", "file_name", "label_names"]
    assert prediction["class_ids"] == [1, 0, 2]  # equal scores in the order of the classes
    assert prediction["scores"] == pytest.approx([0.5, 0.25, 0.25])
    assert [type(v) for v in (prediction["class_ids"][0], prediction["scores"][0])] == [int, float]


def test_ties_are_in_the_order_of_the_classes() -> None:
    logits = np.zeros((1, 1000), np.float32)
    logits[0, [700, 300]] = 1.0
    (prediction,) = top_k(logits, ["a.jpg"], [str(i) for i in range(1000)])
    assert prediction["class_ids"] == [300, 700, 0, 1, 2]
    assert prediction["scores"][0] == prediction["scores"][1] > prediction["scores"][2] == prediction["scores"][4]


def test_softmax_of_large_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4 - 1, -1e4]], np.float32)), [[0.7310586, 0.2689414, 0.0]])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(NonFiniteLossError, match=r"a\.jpg"):
        top_k(np.array([[0.0, 1.0], [value, 0.0]]), ["a.jpg", "b.jpg"], ["x", "y"])


# --- files to predictions


def _predict(files: Sequence[str], bad: list[ImageError], *, batch_size: int = 2) -> list[Prediction]:
    """Predicts with a model whose logits are the means of the channels."""
    batches: list[int] = []

    def forward(images: np.ndarray) -> np.ndarray:
        assert (images.dtype, images.shape[1:]) == (np.float32, (3, 8, 8))
        batches.append(len(images))
        return images.mean(axis=(2, 3))

    found = predict_files(
        files, transform=eval_transform(input_size=8), forward=forward, class_names=["r", "g", "b"],
        batch_size=batch_size, bad=bad,
    )  # fmt: skip
    predictions = list(found)
    assert all(0 < size <= batch_size for size in batches)
    return predictions


def test_unreadable_images_are_reported_and_the_others_answered(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(6)]
    for i in (0, 3, 5):
        write_picture(Path(files[i]), seed=i)
    Path(files[1]).write_bytes(b"nothing")
    (tmp_path / "4.png").mkdir()
    bad: list[ImageError] = []
    found = _predict(files, bad)
    assert [p["file_name"] for p in found] == [files[i] for i in (0, 3, 5)]
    assert [error.path for error in bad] == [files[i] for i in (1, 2, 4)]
    with pytest.raises(DataError, match=r"^3 of 6 images could not be read\n") as caught:
        refuse_unreadable(bad, len(files))
    assert all(f"{files[i]}: " in str(caught.value) for i in (1, 2, 4))
    refuse_unreadable([], 6)


def test_predictions_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, file in enumerate(files):
        write_picture(Path(file), seed=i)
    found = [_predict(files, [], batch_size=size) for size in (1, 2, 3, 5, 9)]
    assert all(predictions == found[0] for predictions in found)
    assert len({tuple(p["scores"]) for p in found[0]}) == 5


class Engine:
    """A model whose logits are the means of the channels, and that notes what it is asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        return images.mean(axis=(2, 3))


def _answers(
    files: Sequence[str], places: range, engine: Engine, *, batch_size: int = 2, num_workers: int = 2
) -> list[list[Prediction | ImageError]]:
    found = predict_places(
        files, places, transform=eval_transform(input_size=8), forward=engine, class_names=["r", "g", "b"],
        batch_size=batch_size, num_workers=num_workers,
    )  # fmt: skip
    return list(found)


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_answers_come_in_order_in_whole_batches_whatever_cannot_be_read(num_workers: int, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(12)]
    for i in set(range(12)) - {0, 3, 4, 11}:
        write_picture(Path(files[i]), seed=i)
    engine = Engine()
    answers = _answers(files, range(12), engine, batch_size=3, num_workers=num_workers)
    flat = [answer for batch in answers for answer in batch]
    assert [a.path if isinstance(a, ImageError) else a["file_name"] for a in flat] == files
    assert [i for i, a in enumerate(flat) if isinstance(a, ImageError)] == [0, 3, 4, 11]
    assert engine.batches == [3, 3, 2]
    every_third = [answer for batch in _answers(files, range(1, 12, 3), Engine()) for answer in batch]
    assert [a.path if isinstance(a, ImageError) else a["file_name"] for a in every_third] == files[1::3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_more_than_the_next_batch_is_loaded_ahead(num_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def decode(file: str) -> np.ndarray:
        loaded.append(file)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("util.prediction.decode_image", decode)
    files = [f"{i}.png" for i in range(100)]
    batches = predict_places(
        files, range(100), transform=eval_transform(input_size=8), forward=Engine(), class_names=["r", "g", "b"],
        batch_size=5, num_workers=num_workers,
    )  # fmt: skip
    for i in range(1, 6):
        next(batches)
        assert 5 * i <= len(loaded) <= 5 * i + (5 if num_workers else 0)
    batches.close()
    assert len(loaded) <= 30, "what is asked no more is loaded no more"


def test_threads_load_while_the_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is loaded before the first answer is given; without threads it cannot be."""
    second = threading.Event()

    def decode(file: str) -> np.ndarray:
        if file == "1":
            second.set()
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("util.prediction.decode_image", decode)
    seen: list[bool] = []

    def forward(images: np.ndarray) -> np.ndarray:
        seen.append(second.wait(5.0 if not seen else 0.0))
        return images.mean(axis=(2, 3))

    for num_workers, expected in ((1, [True, True]), (0, [False, True])):
        seen.clear()
        second.clear()
        list(
            predict_places(
                ["0", "1"], range(2), transform=eval_transform(input_size=8), forward=forward, batch_size=1,
                class_names=["r", "g", "b"], num_workers=num_workers,
            )
        )  # fmt: skip
        assert seen == expected


def test_threads_that_load_give_way_to_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, loading = priority(), set()

    def decode(file: str) -> np.ndarray:
        loading.add(priority())
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("util.prediction.decode_image", decode)
    _answers(["0", "1", "2"], range(3), Engine(), num_workers=2)
    assert loading == {min(19, before + 10)}
    assert priority() == before
    loading.clear()
    _answers(["0", "1", "2"], range(3), Engine(), num_workers=0)
    assert loading == {before}, "this thread computes, too"


def test_an_image_that_hangs_keeps_nobody_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, released = threading.Event(), threading.Event()

    def decode(file: str) -> np.ndarray:
        if file == "2":
            hangs.set()
            released.wait(60)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("util.prediction.decode_image", decode)
    batches = predict_places(
        ["0", "1", "2", "3"], range(4), transform=eval_transform(input_size=8), forward=Engine(), batch_size=1,
        class_names=["r", "g", "b"], num_workers=2,
    )  # fmt: skip
    assert next(batches)
    assert next(batches)
    assert hangs.wait(30)
    begun = time.monotonic()
    batches.close()
    assert time.monotonic() - begun < 10
    assert any(thread.name.startswith("images_") and thread.daemon for thread in threading.enumerate())
    released.set()


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i % 4}.png") for i in range(40)]
    for i in range(4):
        write_picture(Path(files[i]), seed=i)
    before = list(warnings.filters)
    _answers(files, range(40), Engine(), num_workers=4)
    assert warnings.filters == before


@pytest.mark.parametrize("named", [2, 4])
def test_as_many_classes_are_named_as_the_model_has(named: int) -> None:
    with pytest.raises(MismatchError, match=f"^the model has 3 classes, but {named} are named"):
        top_k(np.zeros((1, 3), np.float32), ["a.jpg"], ["x"] * named)


# --- output

PREDICTIONS: list[Prediction] = [
    {"class_ids": [3, 1], "scores": [0.9, 0.1], "file_name": "a, b.jpg", "label_names": ["Zebra", 'say "ä"']},
    {"class_ids": [1, 3], "scores": [0.75, 0.25], "file_name": "c.jpg", "label_names": ['say "ä"', "Zebra"]},
]


def test_standard_output_is_one_literal(capsys: pytest.CaptureFixture[str]) -> None:
    write_predictions(iter(PREDICTIONS), None)
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    found = ast.literal_eval(said.out)
    assert found == PREDICTIONS
    assert [list(p) for p in found] == [["class_ids", "scores", "file_name", "label_names"]] * 2
    assert "a, b.jpg: Zebra (90.00 %)" in said.err
    write_predictions([], None)
    assert capsys.readouterr().out == "[]\n"


def test_jsonl_has_an_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_predictions(iter(PREDICTIONS), str(tmp_path / "out.jsonl"))
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == PREDICTIONS
    assert "ä" in lines[0]
    assert capsys.readouterr().out == ""


def test_csv_has_a_row_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_predictions(iter(PREDICTIONS), str(tmp_path / "out.csv"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["class_ids", "scores", "file_name", "label_names"]
    for row, prediction in zip(rows, PREDICTIONS, strict=True):
        assert row["file_name"] == prediction["file_name"]
        assert json.loads(row["class_ids"]) == prediction["class_ids"]
        assert json.loads(row["scores"]) == prediction["scores"]
        assert json.loads(row["label_names"]) == prediction["label_names"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_results_are_written_as_they_come(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"

    def one_by_one() -> Iterator[Prediction]:
        yield PREDICTIONS[0]
        written.append("a, b.jpg" in path.read_text(encoding="utf-8"))
        yield PREDICTIONS[1]

    written: list[bool] = []
    write_predictions(one_by_one(), str(path))
    assert written == [True]


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    for name in ("out.txt", "out", "out.JSON"):
        with pytest.raises(UsageError, match=r"must end in \.jsonl or \.csv"):
            write_predictions(PREDICTIONS, str(tmp_path / name))
    with pytest.raises(OutputError, match=r"nowhere/out\.csv: "):
        write_predictions(PREDICTIONS, str(tmp_path / "nowhere" / "out.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match=r"folder\.csv: "):
        write_predictions(PREDICTIONS, str(tmp_path / "folder.csv"))


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_full_disk_ends_a_script_with_its_code(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"out.{suffix}"
    path.symlink_to("/dev/full")
    with pytest.raises(SystemExit) as caught:
        run_script(lambda argv: write_predictions(PREDICTIONS, str(path)))
    assert caught.value.code == SaveError.exit_code
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: .*out\.\w+: not written after 0 results: No space left on device; make room.*\n", said)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_file_name_that_is_not_utf8_is_written(suffix: str, tmp_path: Path) -> None:
    prediction: Prediction = {**PREDICTIONS[0], "file_name": os.fsdecode(b"caf\xe9.jpg")}
    write_predictions([prediction], str(tmp_path / f"out.{suffix}"))
    assert "caf" in (tmp_path / f"out.{suffix}").read_text(encoding="utf-8")


def test_nothing_is_left_of_a_failure_before_the_first_result(tmp_path: Path) -> None:
    def stopped() -> Iterator[Prediction]:
        seen.append(sorted(os.listdir(tmp_path)))  # also what a kill would leave
        raise KeyboardInterrupt
        yield PREDICTIONS[0]

    seen: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        write_predictions(stopped(), str(tmp_path / "out.csv"))
    write_predictions([], str(tmp_path / "out.csv"))
    assert os.listdir(tmp_path) == []
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_predictions(stopped(), str(tmp_path / "out.csv"))
    assert seen == [[], ["out.csv"]]
    assert (tmp_path / "out.csv").read_text() == "old"
