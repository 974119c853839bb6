"""run.sh whose folder of notes and logs is removed while the job runs, as cleaners of /tmp do."""

from pathlib import Path

import pytest

from tests.scripts.background import make_stand_in, start_stand_in


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_stand_in(tmp_path)


def starts(place: Path) -> list[str]:
    return (place / "work/starts").read_text().splitlines()


def test_one_process_keeps_its_code_and_its_tries(place: Path) -> None:
    """What the run said about its folder is remembered: --restart does not count twice."""
    with start_stand_in(place, "--tries", "4", "--pause", "0", "cleaned:75:2", "--restart", "--lr", "1") as job:
        assert job.code(30) == 0
        assert starts(place) == ["cleaned:75:2 --restart --lr 1", *["cleaned:75:2 --lr 1"] * 2]
        assert "Traceback" not in job.stderr
        assert list((place / "tmp").iterdir()) == []


def test_of_several_processes_the_first_failing_one_decides(place: Path) -> None:
    """Paddle's launcher by itself ends with the code of rank 0, which it ended."""
    with start_stand_in(place, "-g", "2", "train", "cleaned:65:9") as job:
        assert job.code(40) == 65
        assert "Traceback" not in job.stderr
        last = job.stderr.splitlines()[-1]
        assert last.startswith("logs of all processes are lost: ")
        assert last.endswith(" was removed while the job ran")


def test_several_processes_are_tried_again(place: Path) -> None:
    with start_stand_in(place, "-g", "2", "--tries", "3", "--pause", "0", "cleaned:75:2", "cleaned:75:2") as job:
        assert job.code(60) == 0
        assert job.stderr.count(" in 0 s: ") >= 1
        assert "Traceback" not in job.stderr
        assert job.stdout.startswith("cleaned\n"), "what rank 0 said after its log's name was gone"
