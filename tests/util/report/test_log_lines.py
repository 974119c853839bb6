"""What the logs say, torn lines, repetitions and numbers that are none included."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.util.report.folders import epoch_row, iteration_line
from util.errors import DataError
from util.report.log_lines import number, read_epochs, read_train_log

RECORDED = (
    "[04:32:41.592649] Epoch: [263]  [2250/2502]  eta: 0:02:21  lr: 0.000086  loss: 2.9626 (2.8445)  time: 0.5627  "
    "data: 0.0116\n"
)


def test_every_number_of_a_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(RECORDED)
    log = read_train_log(tmp_path / "train.log")
    assert {name: column.tolist() for name, column in log.columns.items()} == {
        "lr": [0.000086], "loss": [2.9626], "epoch_loss": [2.8445], "seconds": [0.5627], "wait": [0.0116],
    }  # fmt: skip
    assert log.x.tolist() == [263 + 2251 / 2502]
    assert (log.iterations, log.last_time, log.damaged, log.superseded) == (2502, "04:32:41", 0, 0)


@pytest.mark.parametrize("cut", range(len(RECORDED) - 60, len(RECORDED)))
def test_a_torn_last_line_gives_no_number(tmp_path: Path, cut: int) -> None:
    """`data: 0.0` of `data: 0.0116` would be one."""
    (tmp_path / "train.log").write_text(RECORDED + RECORDED.replace("[2250/", "[2300/")[:cut])
    assert read_train_log(tmp_path / "train.log").columns["loss"].tolist() == [2.9626]


def test_a_line_torn_in_the_middle_is_counted_and_its_neighbours_stay(tmp_path: Path) -> None:
    torn = iteration_line(0, 1, 9, lr=1, loss=1)[:-2] + iteration_line(0, 2, 9, lr=1, loss=2)
    lines = [iteration_line(0, 0, 9, lr=1, loss=5), torn, iteration_line(0, 3, 9, lr=1, loss=3)]
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    log = read_train_log(tmp_path / "train.log")
    assert log.columns["loss"].tolist() == [5, 3]
    assert log.damaged == 1


def test_a_resumed_run_counts_what_it_did_last(tmp_path: Path) -> None:
    """Killed after iteration 6 of epoch 1, continued from iteration 2 of it; what lies beyond was never kept."""
    first = [(0, 0, 9.0), (0, 5, 8.0), (1, 0, 7.0), (1, 3, 6.0), (1, 6, 5.0)]
    second = [(1, 3, 4.5), (1, 5, 4.0)]
    lines = [iteration_line(e, i, 10, lr=1, loss=loss) for e, i, loss in first + second]
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    log = read_train_log(tmp_path / "train.log")
    assert log.columns["loss"].tolist() == [9, 8, 7, 4.5, 4]
    assert log.x.tolist() == [0.1, 0.6, 1.1, 1.4, 1.6]
    assert (log.superseded, log.rewinds) == (2, [1.3])


def test_other_lines_tell_images_warnings_and_the_end(tmp_path: Path) -> None:
    lines = [
        "[04:00:00.000001] warning: slow disk", "[04:00:01.000001] warning: slow disk",
        "[04:00:02.000001] Epoch: [0]  top-1 75.82  top-5 98.08  loss 1.4719  best 75.82  on 364 images",
        "[04:00:03.000001] finished; checkpoints and logs are in output",
    ]  # fmt: skip
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    log = read_train_log(tmp_path / "train.log")
    assert (log.images, dict(log.warnings), log.finished, log.damaged) == (364, {"slow disk": 2}, True, 0)
    (tmp_path / "train.log").write_text("\n".join([*lines, iteration_line(1, 0, 9, lr=1, loss=1)]) + "\n")
    assert not read_train_log(tmp_path / "train.log").finished, "it was continued"


def test_epochs_come_back_as_written_and_the_last_of_equals_counts(tmp_path: Path) -> None:
    rows = [epoch_row(0), epoch_row(1), epoch_row(2), epoch_row(1, train_loss=4.25)]
    (tmp_path / "log.txt").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 2, "train_loss": 3.')
    table = read_epochs(tmp_path / "log.txt")
    assert table.epochs.tolist() == [0, 1]
    assert table.column("train_loss").tolist() == [6.0, 4.25]
    assert table.column("test_acc1").tolist() == [10.0, 20.0]
    assert np.isnan(table.column("test_acc1_ema")).all()
    assert (table.damaged, table.not_finite) == (0, {})


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "null", '{"epoch": true}', '{"epoch": -1}', '{"epoch": 1.5}', '{"loss": 1}', "[" * 10**5, "\x00"],
    ids=lambda line: line[:20],
)
def test_a_damaged_line_is_counted_not_believed(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.txt").write_text(f"{json.dumps(epoch_row(0))}\n{line}\n{json.dumps(epoch_row(1))}\n")
    table = read_epochs(tmp_path / "log.txt")
    assert table.epochs.tolist() == [0, 1]
    assert table.damaged == 1


def test_numbers_that_are_none_are_named_by_epoch(tmp_path: Path) -> None:
    lines = [
        '{"epoch": 0, "train_loss": 1.0, "grad_norm": 1}', '{"epoch": 1, "train_loss": NaN, "grad_norm": 1e999}',
        '{"epoch": 2, "train_loss": null, "grad_norm": 2}', '{"epoch": 3, "train_loss": "x"}',
    ]  # fmt: skip
    (tmp_path / "log.txt").write_text("\n".join(lines) + "\n")
    assert read_epochs(tmp_path / "log.txt").not_finite == {"train_loss": [1, 2, 3], "grad_norm": [1]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3.0), ("2.5", 2.5), (-1e301, -np.inf), (10**400, np.inf), (1e-310, 0.0), (True, np.nan), ([], np.nan)],
    ids=str,
)
def test_a_number_is_one_that_a_picture_can_show(value: object, expected: float) -> None:
    np.testing.assert_equal(number(value), expected)


def test_a_log_that_is_a_folder_is_an_error_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    assert len(read_train_log(tmp_path / "train.log").x) == 0
    (tmp_path / "train.log").mkdir()
    with pytest.raises(DataError, match=r"train\.log: is not a regular file"):
        read_train_log(tmp_path / "train.log")
