"""log.txt: what a crash leaves is mended in silence, what it cannot have left is named."""

import json
from pathlib import Path

import pytest

from util.log import EpochLog

LINES = [json.dumps({"epoch": epoch, "train_loss": epoch / 7}) for epoch in range(6)]


def mend(path: Path, text: str | None, *, epoch: int, first: int | None = 0) -> tuple[list[str], list[int]]:
    """Returns what is said about a file with this text, and the epochs that are left in it, each a whole line."""
    log = EpochLog(path / "log.txt")
    if text is not None:
        log.path.write_text(text)
    wrong = log.keep_before(epoch, first=first)
    left = log.path.read_text() if log.path.exists() else ""
    assert left == "" or left.endswith("\n")
    return wrong, [json.loads(line)["epoch"] for line in left.splitlines()]


def text_of(*numbers: int) -> str:
    return "".join(LINES[number] + "\n" for number in numbers)


@pytest.mark.parametrize(("text", "epoch"), [
    (text_of(0, 1, 2), 3),
    (text_of(0, 1, 2, 3), 3),  # a kill between the line and its checkpoint
    (text_of(0, 1, 2) + LINES[3][:9], 3),
    (text_of(0, 1, 2) + LINES[3], 3),
    (text_of(0, 1, 2)[:-1], 3),  # whole, but for its end
    (text_of(0, 1, 2, 3, 3), 3),
    ("", 0),
    (None, 0),
])  # fmt: skip
def test_what_a_crash_leaves_is_mended_without_a_word(tmp_path: Path, text: str | None, epoch: int) -> None:
    assert mend(tmp_path, text, epoch=epoch) == ([], list(range(epoch)))


@pytest.mark.parametrize(("text", "first", "named"), [
    (text_of(0, 1, 2, 3, 4)[:-3], 0, "4"),
    (None, 0, "0 to 4"),
    ("", 0, "0 to 4"),
    (text_of(0, 1, 3, 4), 0, "2"),
    (text_of(2, 4), 0, "0 to 1, 3"),
    (text_of(3), 2, "2, 4"),
    (text_of(1, 4), None, "2 to 3"),
])  # fmt: skip
def test_lost_lines_are_named_by_their_epochs(tmp_path: Path, text: str | None, first: int | None, named: str) -> None:
    wrong, left = mend(tmp_path, text, epoch=5, first=first)
    assert wrong == [f"lines were lost, those of epoch {named}; what was trained is not"]
    assert left == [epoch for epoch in range(5) if text and LINES[epoch] + "\n" in text]


@pytest.mark.parametrize(("text", "first"), [(text_of(2, 3, 4), 2), (text_of(2, 3, 4), None), (None, None)])
def test_a_run_that_began_later_misses_nothing(tmp_path: Path, text: str | None, first: int | None) -> None:
    assert mend(tmp_path, text, epoch=5, first=first)[0] == []


def test_repeated_and_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    damaged = '{"epoch": -99999999999999}\n' + "[" * 200_000 + "\n"
    wrong, left = mend(tmp_path, text_of(0, 1, 1) + damaged + text_of(2, 0), epoch=3)
    assert wrong == [
        "line 3 repeats epoch 1; it is left out",
        "line 4 was damaged; it is left out",
        "line 5 was damaged; it is left out",
        "line 7 repeats epoch 0; it is left out",
    ]
    assert left == [0, 1, 2]


def test_a_whole_file_is_not_written_again(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(text_of(0, 1))
    before = (tmp_path / "log.txt").stat().st_ino
    assert EpochLog(tmp_path / "log.txt").keep_before(2, first=0) == []
    assert (tmp_path / "log.txt").stat().st_ino == before
