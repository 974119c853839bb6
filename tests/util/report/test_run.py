"""A run's folder: its state, its sessions, its rejected files and settings, whatever is missing or torn."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.util.report.folders import epoch_row, event, iteration_line, write_run
from util.errors import DataError, MissingInputError
from util.files import as_field
from util.report.run import read_run, shown
from util.report.summary import best_epoch, history, hours, mean_speed, total_seconds, training_seconds, warnings_of

START = event("start", "01T00:00:00")
SETTINGS = "epochs: 3\ncooldown_epochs: 1\n"


@pytest.mark.parametrize(
    ("events", "kind", "text"),
    [
        ([START], "open", "running or killed: its newest start has no end"),
        ([START, event("save", "01T01:00:00", 1)], "open", "running or killed: its newest start has no end"),
        ([START, event("finish", "01T01:00:00", 4)], "good", "finished"),
        ([START, event("stop", "01T01:00:00", 1, signal="SIGTERM")], "open", "stopped by SIGTERM, to be continued"),
        (
            [START, event("fail", "01T01:00:00", 1, exit_code=76, reason="the loss is nan")],
            "bad", "failed: exit code 76: the loss is nan",
        ),
        ([START, event("fail", "01T01:00:00", 1)], "bad", "failed: exit code none: no reason given"),
        (
            [START, event("fail", "01T01:00:00", 1, exit_code=75), event("start", "02T00:00:00", 1, resumed=True)],
            "open", "running or killed: its newest start has no end",
        ),
        ([event("fail", "01T01:00:00", 0, exit_code=73, reason="full")], "bad", "failed: exit code 73: full"),
        (
            [event("save", "01T01:00:00", 1)],
            "open", "not finished as far as the logs say; no start in events.jsonl tells why",
        ),
        (  # what each process says of one failure
            [
                START,
                event("fail", "01T01:00:00", 1, rank=2, exit_code=75, reason="lost"),
                event("fail", "01T01:00:00", 1, rank=1, exit_code=65, reason="no image"),
                event("fail", "01T01:00:00", 1, rank=3, exit_code=70, reason="later"),
                event("stop", "01T01:00:00", 1, signal="SIGTERM"),
            ],
            "bad", "failed: exit code 65: no image",
        ),
        (
            [
                START,
                event("stop", "01T01:00:00", 1, signal="SIGINT"),
                event("fail", "01T01:00:01", rank=1, exit_code=75),
            ],
            "open", "stopped by SIGINT, to be continued",
        ),
        (  # a later attempt did not get as far as its start
            [
                START,
                event("fail", "01T01:00:00", rank=0, exit_code=65),
                event("fail", "01T02:00:00", rank=0, exit_code=73),
            ],
            "bad", "failed: exit code 73: no reason given",
        ),
    ],
)  # fmt: skip
def test_the_state_is_what_the_newest_start_led_to(
    tmp_path: Path, events: list[dict[str, object]], kind: str, text: str
) -> None:
    run = read_run(write_run(tmp_path / "r", events=events, settings=SETTINGS), "r")
    assert run.state() == (kind, text)


@pytest.mark.parametrize(("epochs", "kind"), [(3, "open"), (4, "good")])
def test_without_events_a_run_is_done_when_its_epochs_are(tmp_path: Path, epochs: int, kind: str) -> None:
    run = read_run(write_run(tmp_path / "r", rows=map(epoch_row, range(epochs)), settings=SETTINGS), "r")
    assert (run.epochs_done, run.epochs_planned, run.state()[0], run.restarts) == (epochs, 4, kind, None)
    assert any("events.jsonl" in text for text in warnings_of(run))


def test_the_history_tells_how_each_session_ended_and_times_include_the_pauses(tmp_path: Path) -> None:
    events = [
        START,
        event("save", "01T01:30:00", 1),
        event("start", "02T00:00:00", 1, 40, resumed=True),
        event("stop", "02T02:00:00", 2, signal="SIGINT"),
        event("start", "03T00:00:00", 2, resumed=True),
        event("fail", "03T00:30:00", 2, exit_code=74, reason="disk full"),
        event("start", "04T00:00:00", 2, resumed=True),
        event("finish", "04T01:00:00", 4),
    ]
    run = read_run(write_run(tmp_path / "r", events=events), "r")
    rows = history(run)
    assert [row[0] for row in rows] == [f"2026-11-0{day} 00:00:00+00:00" for day in (1, 2, 3, 4)]
    assert [row[1] for row in rows[:2]] == ["new at epoch 0, iteration 0", "continued at epoch 1, iteration 40"]
    assert [row[3] for row in rows] == ["at least 1.50 h", "2.00 h", "30.0 min", "1.00 h"]
    assert [row[4] for row in rows] == ["1", "0", "0", "0"]
    assert [row[5] for row in rows] == [
        "killed: no end was written; last event 2026-11-01 01:30:00+00:00", "stopped by SIGINT",
        "failed, exit code 74: disk full", "finished",
    ]  # fmt: skip
    assert run.restarts == 3
    assert total_seconds(run) == 3 * 86400 + 3600
    assert any(text.startswith("1 of 4 starts ended without a word") for text in warnings_of(run))


def test_the_running_one_tells_its_last_sign_of_life(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", events=[START], lines=[iteration_line(0, 0, 10, lr=1, loss=1)])
    (row,) = history(read_run(folder, "r"))
    assert row[5] == "running or killed; last line of train.log at 04:32:41"


def test_figures_are_those_of_the_log(tmp_path: Path) -> None:
    accuracies = [50.0, 70.0, 70.0, 60.0]
    rows = [
        epoch_row(i, test_acc1=a, seconds=100.0 * (i + 1), images_per_second=100.0 / (i + 1))
        for i, a in enumerate(accuracies)
    ]
    run = read_run(write_run(tmp_path / "r", rows=rows), "r")
    assert best_epoch(run, "test_acc1") == 1, "the first of equals"
    assert training_seconds(run) == 1000
    assert mean_speed(run) == pytest.approx(4 * 10_000 / 1000), "all images over all seconds, not a mean of ratios"
    assert np.isnan(total_seconds(run))


def test_what_needs_a_look_is_named(tmp_path: Path) -> None:
    rows = [epoch_row(0), epoch_row(1, train_loss=float("nan"), skipped_updates=3), epoch_row(4, best_acc1=90.0)]
    lines = [
        iteration_line(0, 0, 10, lr=1, loss=1),
        iteration_line(1, 4, 10, lr=1, loss=float("nan")),
        "[04:00:00.000001] warning: slow disk",
    ]
    folder = write_run(tmp_path / "r", rows=rows, lines=lines, events=[START], bad_images="a.jpg\tempty\n")
    with (folder / "events.jsonl").open("a") as file:
        file.write("{broken\n")
    assert warnings_of(read_run(folder, "r")) == [
        "train_loss is not finite in epoch 1 (log.txt)",
        "loss is not finite in 1 line of train.log, first after 1.50 epochs",
        "3 updates skipped, with gradients that were not finite, in epoch 1",
        "log.txt lacks epochs 2, 3; the curves have gaps there",
        "best_acc1 is 90.00, but no epoch of log.txt reached it",
        "1 file could not be read as an image, listed below",
        "events.jsonl: 1 damaged line left out",
        "train.log says: slow disk",
    ]


def test_a_run_without_faults_has_no_warning(tmp_path: Path) -> None:
    rows = map(epoch_row, range(4))
    events = [START, event("finish", "01T01:00:00", 4)]
    assert warnings_of(read_run(write_run(tmp_path / "r", rows=rows, events=events, settings=SETTINGS), "r")) == []


def test_rejected_files_come_back_with_any_name(tmp_path: Path) -> None:
    names = [
        "a b.jpg",
        "return\rhere",
        "back\\return",
        "tab\there",
        "line\nbreak",
        "back\\slash",
        "back\\tick",
        "\\n",
        "猫🐱",
        "'\"<b>",
    ]
    text = "".join(
        n.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r") + f"\treason {i}\n"
        for i, n in enumerate(names)
    )
    assert text == "".join(f"{as_field(name)}\treason {i}\n" for i, name in enumerate(names)), "as training writes them"
    folder = write_run(tmp_path / "r", events=[START], bad_images=text + "torn.jp")
    run = read_run(folder, "r")
    assert run.bad_images == [(name, f"reason {i}") for i, name in enumerate(names)]
    assert run.num_bad_images == len(names)
    (folder / "bad_images.tsv").write_bytes(b"\xff.jpg\tempty\nno reason\n" + b"x\ty\n" * 1000)
    run = read_run(folder, "r")
    assert run.bad_images[:2] == [("\\xff.jpg", "empty"), ("no reason", "no reason given")]
    assert (len(run.bad_images), run.num_bad_images) == (500, 1002)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1\n", "args.yaml: while parsing"),
        ("a: &x [1]\nb: *x\n", "args.yaml: holds aliases, left out"),
        ("just text\n", "args.yaml: no settings in it"),
        ("a: !!python/object/apply:os.system [ls]\n", "args.yaml: could not determine a constructor"),
        ("a: 1\nepochs: 0x" + "f" * 20_000 + "\n", "args.yaml: a number of 20,002 characters in line 2, left out"),
        ("a: [-" + "9" * 5000 + "]\n", "args.yaml: a number of 5,001 characters in line 1, left out"),
        ("? 0b" + "1" * 30_000 + "\n: 1\n", "args.yaml: a number of 30,002 characters in line 1, left out"),
        ('a: !!int ""\n', "args.yaml: string index out of range"),
        ("a: !!bool maybe\n", "args.yaml: 'maybe'"),
        ("a: !!timestamp never\n", "args.yaml: "),
        ("a: 1\n" * 12_000, "args.yaml: larger than 50,000 bytes, left out"),
    ],
    ids=lambda text: text[:20],
)
def test_settings_that_cannot_be_read_are_a_warning(tmp_path: Path, text: str, fault: str) -> None:
    run = read_run(write_run(tmp_path / "r", events=[START], settings=text), "r")
    assert run.settings is None
    assert len(run.faults) == 1
    assert run.faults[0].startswith(fault)


def test_a_value_is_shown_as_it_is_written_on_the_command_line() -> None:
    values = [True, None, 0.1, 1e-5, [0.08, 1.0], [], "x", 3]
    assert [shown(value) for value in values] == ["true", "none", "0.1", "1e-05", "0.08 1", "none", "x", "3"]


@pytest.mark.parametrize(("seconds", "text"), [(1.25, "1.2 s"), (90, "1.5 min"), (5400, "1.50 h"), (np.nan, "–")])
def test_lengths_of_time_read_well(seconds: float, text: str) -> None:
    assert hours(seconds) == text


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such folder"):
        read_run(tmp_path / "nothing", "r")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        read_run(tmp_path / "file", "r")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has neither log\.txt nor train\.log nor events\.jsonl$"):
        read_run(tmp_path / "empty", "r")
    write_run(tmp_path / "all" / "one", rows=[epoch_row(0)])
    with pytest.raises(DataError, match=r"name one or several of those in it, such as .*all/one$"):
        read_run(tmp_path / "all", "r")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "log.txt")
    with pytest.raises(DataError, match="is not a regular file"):
        read_run(tmp_path / "pipe", "r")
