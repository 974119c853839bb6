"""Which of several processes is why a job failed."""

import os
import signal
from pathlib import Path

import pytest

from util.outcome import Outcome, has_failed, judge

LOST = "another process of this job ended"


def leave(notes: Path, *, errors: dict[int, tuple[int, float]], exits: list[tuple[int, int, float]]) -> None:
    """Leaves the notes of an attempt: errors by rank, (code, second); exits in order, (rank, code, second)."""
    for rank, (code, second) in errors.items():
        path = notes / f"error.{rank}"
        path.write_text(f"{code}\nerror: {LOST if code == 75 else f'{code} on {rank}'}\n")
        os.utime(path, (second, second))
    (notes / "exits").write_text("".join(f"{rank} {code} {second}\n" for rank, code, second in exits))


@pytest.mark.parametrize(
    ("errors", "exits", "code", "reason"),
    [
        ({0: (65, 9.9), 1: (75, 10.0)}, [(0, 65, 10.0), (1, 75, 10.1)], 65, "65 on 0"),
        ({0: (75, 10.0)}, [(0, 75, 10.05), (1, -9, 10.1)], 75, "process 1 was killed by signal 9 (out of memory?)"),
        ({0: (70, 10.0)}, [(1, -7, 9.9), (0, 70, 10.1)], 75, "process 1 was killed by signal 7 (is /dev/shm full?)"),
        ({0: (143, 11.2)}, [(1, -11, 10.9), (0, 143, 11.3)], 75, "process 1 was killed by signal 11;"),
        ({0: (143, 11.2)}, [(1, 3, 10.9), (0, 143, 11.3)], 3, "process 1 ended with 3"),
        ({0: (65, 10.0)}, [(0, 65, 10.1), (1, -9, 14.5)], 65, "65 on 0"),  # the launcher killed it later
        ({0: (65, 10.0)}, [(0, 65, 10.1), (1, -15, 10.3)], 65, "65 on 0"),
        ({0: (65, 10.0)}, [(0, 65, 10.1), (1, -6, 10.3)], 65, "65 on 0"),  # broke down after its peer
        ({0: (143, 10.0), 1: (74, 10.5)}, [(0, 143, 10.1), (1, 74, 10.6)], 74, "74 on 1"),
        ({0: (143, 10.0), 1: (143, 10.1)}, [(0, 143, 10.1), (1, 143, 10.1)], 143, "143 on 0"),
        ({}, [(0, -9, 10.0), (1, -15, 11.0)], 75, "process 0 was killed by signal 9"),
    ],
)
def test_the_cause_is_found_among_what_follows_from_it(
    tmp_path: Path,
    errors: dict[int, tuple[int, float]],
    exits: list[tuple[int, int, float]],
    code: int,
    reason: str,
) -> None:
    leave(tmp_path, errors=errors, exits=exits)
    found = judge(tmp_path, code=247, several=True, asked=0)
    assert found.code == code
    assert found.reason.startswith(f"error: {reason}")


@pytest.mark.parametrize(
    ("errors", "exits", "code"),
    [
        ({0: (143, 10.0), 1: (143, 10.0)}, [(0, 143, 10.1), (1, 143, 10.1)], 143),
        ({0: (74, 10.2), 1: (143, 10.0)}, [(0, 74, 10.3), (1, 143, 10.1)], 74),
        ({0: (75, 10.0)}, [(1, -15, 10.0), (0, 75, 10.1)], 143),  # rank 1 did not listen yet
        ({0: (75, 10.0), 1: (75, 10.1)}, [(0, 75, 10.1), (1, 75, 10.2)], 75),
        ({}, [(0, -9, 130.0), (1, -9, 130.0)], 75),  # they did not save in time
        ({}, [], 143),  # the launcher had not started them
    ],
)
def test_a_stop_claims_a_complete_checkpoint_only_if_nothing_speaks_against_it(
    tmp_path: Path, errors: dict[int, tuple[int, float]], exits: list[tuple[int, int, float]], code: int
) -> None:
    leave(tmp_path, errors=errors, exits=exits)
    assert judge(tmp_path, code=-15, several=True, asked=signal.SIGTERM).code == code


def test_a_launcher_that_was_killed_is_a_passing_reason_although_its_processes_could_save(tmp_path: Path) -> None:
    leave(tmp_path, errors={0: (143, 10.0), 1: (143, 10.0)}, exits=[])
    assert judge(tmp_path, code=-9, several=True, asked=0) == Outcome(
        75, "error: the launcher was killed by signal 9; its processes were ended"
    )


def test_a_single_process_that_had_already_succeeded_was_not_stopped(tmp_path: Path) -> None:
    assert judge(tmp_path, code=0, several=False, asked=signal.SIGTERM) == Outcome(0)


def test_what_was_killed_because_it_took_too_long_is_no_stop_unless_it_said_why(tmp_path: Path) -> None:
    leave(tmp_path, errors={0: (143, 1.0)}, exits=[(0, 143, 1.0)])
    found = judge(tmp_path, code=-9, several=True, asked=signal.SIGTERM, overdue=120.0)
    assert found.code == 75
    assert "not all processes ended within 120 s" in found.reason
    leave(tmp_path, errors={1: (74, 2.0)}, exits=[(0, 143, 1.0), (1, 74, 2.0)])
    assert judge(tmp_path, code=-9, several=True, asked=signal.SIGTERM, overdue=120.0).code == 74


def test_an_error_cut_short_has_said_nothing(tmp_path: Path) -> None:
    (tmp_path / "error.0").write_text("")
    assert judge(tmp_path, code=3, several=True, asked=0).code == 3


def test_what_a_full_disk_has_torn_says_nothing(tmp_path: Path) -> None:
    leave(tmp_path, errors={1: (65, 10.0)}, exits=[(1, 65, 10.1)])
    (tmp_path / "error.0").write_text("7")
    os.utime(tmp_path / "error.0", (9, 9))
    with (tmp_path / "exits").open("a") as file:
        file.write("0 70")
    assert judge(tmp_path, code=70, several=True, asked=0) == Outcome(65, "error: 65 on 1")
    assert has_failed(tmp_path)


def test_where_all_notes_are_gone_the_exit_code_counts(tmp_path: Path) -> None:
    assert judge(tmp_path / "gone", code=65, several=True, asked=0) == Outcome(65)
    assert judge(tmp_path / "gone", code=-9, several=False, asked=0).code == 75
    assert not has_failed(tmp_path / "gone")


def test_a_success_is_silent(tmp_path: Path) -> None:
    leave(tmp_path, errors={}, exits=[(0, 0, 1.0), (1, 0, 1.0)])
    assert judge(tmp_path, code=0, several=True, asked=0) == Outcome(0)
