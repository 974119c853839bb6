"""A job's results: whole at every moment, gone on with after a kill, joined from parts, each image once."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from tests.scripts.run import ROOT
from tests.util.infer_jobs import FACTS, FILES, NUM_BAD, answer, open_share, predict, run_whole
from util import part
from util.data.images import ImageError
from util.errors import DataError, MismatchError, OutputError, SaveError, UsageError
from util.infer_job import Share, open_job, run_job
from util.notes import NOTES_VARIABLE
from util.prediction import Prediction


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("util.interrupts.Interrupts.listen", lambda self: None)  # of the tests' own process
    monkeypatch.setattr("util.infer_job.follow_parent", lambda: None)
    for name in (NOTES_VARIABLE, "PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"):
        monkeypatch.delenv(name, raising=False)


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is done."""


def kill_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets writing end after so many bytes, in the midst of a row, and of everything else."""
    left = [count]

    def append(file: BinaryIO, content: bytes) -> None:
        file.write(content[: left[0]])
        left[0] -= len(content)
        if left[0] < 0:
            raise Killed

    monkeypatch.setattr(part, "_append", append)


@pytest.mark.parametrize(
    ("suffix", "processes", "step"), [("jsonl", 1, 5), ("csv", 1, 5), ("jsonl", 3, 31), ("csv", 3, 31)]
)
def test_killed_at_any_byte_it_goes_on_to_the_same_results(
    suffix: str, processes: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tmp_path / f"whole.{suffix}"
    run_whole(expected, go_on=False)
    for count in range(0, 1 << 20, step):
        output = tmp_path / f"{count}.{suffix}"
        monkeypatch.setenv(NOTES_VARIABLE, "first attempt")
        with monkeypatch.context() as patch:
            kill_after(count, patch)
            try:
                run_whole(output, processes=processes)
                break
            except Killed:
                assert processes == 1 or not output.exists(), "parts are joined when all are there"
        monkeypatch.setenv(NOTES_VARIABLE, "second attempt")
        run_whole(output, processes=processes)
        assert output.read_bytes() == expected.read_bytes()
        assert Path(f"{output}.bad.tsv").read_bytes() == Path(f"{expected}.bad.tsv").read_bytes()
        assert list(tmp_path.glob(f"{count}.{suffix}.part*")) == []
    assert count >= expected.stat().st_size + Path(f"{expected}.bad.tsv").stat().st_size, "the whole job was cut"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_results_have_the_form_that_users_parse(suffix: str, tmp_path: Path) -> None:
    output = tmp_path / f"out.{suffix}"
    run_whole(output, processes=1, go_on=False)
    text = output.read_bytes().decode()
    if suffix == "csv":
        rows: list[Any] = list(csv.DictReader(io.StringIO(text, newline="")))
        assert json.loads(rows[0]["label_names"]) == ["Ä, b", 'say "c"']
    else:
        rows = [json.loads(line) for line in text.splitlines()]
        assert rows[0]["class_ids"] == [0, 1]
    good = [file for file in FILES if not file.startswith("bad")]
    escaped = [file.encode("utf-8", "backslashreplace").decode() if suffix == "csv" else file for file in good]
    assert [row["file_name"] for row in rows] == escaped
    lines = Path(f"{output}.bad.tsv").read_text().splitlines()
    assert lines == ["2\tbad 2.jpg\tis empty", "5\tbad 5.jpg\tis empty", "6\tbad 6.jpg\tis empty",
                     "9\tbad 9\\t.jpg\tis empty"]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"out.{suffix}", f"out.{suffix}.bad.tsv"]


def test_a_finished_job_has_nothing_left(tmp_path: Path) -> None:
    run_whole(tmp_path / "out.jsonl")
    before = (tmp_path / "out.jsonl").read_bytes()
    for rank, processes in ((0, 1), (0, 2), (1, 2)):
        assert len(open_share(tmp_path / "out.jsonl", rank=rank, processes=processes).part.left) == 0
    run_whole(tmp_path / "out.jsonl", processes=2)
    assert (tmp_path / "out.jsonl").read_bytes() == before


def begun(tmp_path: Path, *, processes: int = 1) -> Path:
    """A job that was killed after its first answers."""
    output = tmp_path / "out.jsonl"
    for rank in range(processes):
        job = open_share(output, rank=rank, processes=processes, go_on=False)
        job.part.add(next(predict(job.part.left)))
        job.part.close()
    return output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ["y"]}, "the job had another model: give the command"),
        ({"images": 3, "version": 2}, "the job had another version, images: "),
    ],
)
def test_going_on_with_something_else_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    output = begun(tmp_path)
    before = output.read_bytes()
    with pytest.raises(MismatchError, match=message):
        open_share(output, **change)
    assert output.read_bytes() == before
    assert open_share(output).part.done == 3


@pytest.mark.parametrize(("began", "now"), [(1, 2), (2, 1), (2, 3)])
def test_as_many_processes_go_on_as_began(began: int, now: int, tmp_path: Path) -> None:
    output = begun(tmp_path, processes=began)
    with pytest.raises(MismatchError, match=f"begun by {began} processes, not {now}: go on with as many"):
        open_share(output, processes=now)
    run_whole(output, processes=1, go_on=False)
    assert len(output.read_bytes().splitlines()) == len(FILES) - NUM_BAD
    assert list(tmp_path.glob("*.part*")) == [], "a job that begins anew leaves nothing to go on with"


def test_rows_that_were_changed_are_refused(tmp_path: Path) -> None:
    output = begun(tmp_path)
    rows = output.read_bytes().splitlines(keepends=True)
    for changed in (rows[:1], [*rows, rows[0]], [*rows[:-1], b"{}\n"]):
        output.write_bytes(b"".join(changed))
        if changed == rows[:1]:
            assert open_share(output).part.done == 1, "fewer rows are as after a kill"
            Path(f"{output}.bad.tsv").write_bytes(b"2\tbad 2.jpg\tis empty\n")
            continue
        with pytest.raises(MismatchError, match="was changed since the job stopped"):
            open_share(output)


def test_a_file_of_no_job_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(MismatchError, match="is of no job to go on with"):
        open_share(tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.job").write_text("[")
    with pytest.raises(MismatchError, match="is damaged"):
        open_share(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_neither_do_several_processes(rank: int, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(MismatchError, match="is of no job to go on with"):
        open_share(tmp_path / "out.jsonl", rank=rank, processes=2)


HOLD = """
import sys
from pathlib import Path
from util.output_lock import OutputLock
OutputLock(Path(sys.argv[1]), output="out").take()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("rank", "processes", "held"), [(0, 1, ""), (0, 2, ""), (0, 2, ".part-0-of-2"), (1, 2, ".part-1-of-2")]
)
def test_two_jobs_do_not_write_the_same_results(rank: int, processes: int, held: str, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, f"{output}{held}"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="another job is writing it"):
            open_share(output, rank=rank, processes=processes)
        other.kill()
    run_whole(output)
    assert not (tmp_path / "out.jsonl.lock").exists()


def test_results_that_vanish_while_the_job_runs_are_no_success(tmp_path: Path) -> None:
    job = open_share(tmp_path / "out.jsonl")

    def predict_and_remove(places: range) -> Generator[list[Prediction | ImageError], None, None]:
        for answers in predict(places):
            yield answers
            (tmp_path / "out.jsonl").unlink(missing_ok=True)

    with pytest.raises(SaveError, match="was removed or replaced while the job ran"):
        run_job(job, predict_and_remove)


@pytest.mark.parametrize("suffix", [".job", ".job.tmp", ".bad.tsv", ".joining"])
def test_a_folder_in_the_way_is_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"out.jsonl{suffix}").mkdir()
    with pytest.raises(OutputError, match=re.escape(f"out.jsonl{suffix}: is no regular file, and in the way")):
        open_share(tmp_path / "out.jsonl")


def test_old_results_stay_until_there_is_a_new_one(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("old\n")
    job = open_share(output, go_on=False)
    job.part.add([answer(2)])
    assert output.read_text() == "old\n"
    assert open_share(output).part.done == 1, "the old rows are not counted"
    job.part.add([answer(0)])
    assert "old" not in output.read_text()


def test_parts_of_an_earlier_start_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NOTES_VARIABLE, "first attempt")
    output = tmp_path / "out.jsonl"
    run_job(open_share(output, rank=1, processes=2), predict)
    monkeypatch.setenv(NOTES_VARIABLE, "second attempt")
    first = open_share(output, processes=2)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        run_job(open_share(output, rank=1, processes=2), predict)

    monkeypatch.setattr("util.infer_job.time.sleep", sleep)
    with pytest.raises(DataError):
        run_job(first, predict)
    assert len(waited) == 1
    assert len(output.read_bytes().splitlines()) == len(FILES) - NUM_BAD


def test_a_full_disk_leaves_whole_lines_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = begun(tmp_path)
    before = output.read_bytes()
    job = open_share(output)

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.fileno = file.fileno
            self._file, self._left = file, 20

        def write(self, content: bytes) -> int:
            if not self._left:
                raise OSError(28, "No space left on device")
            written = self._file.write(content[: self._left])
            self._left -= written
            return written

    whole: Callable[[BinaryIO, bytes], None] = part._append
    monkeypatch.setattr(part, "_append", lambda file, content: whole(Full(file), content))  # type: ignore[arg-type]
    with pytest.raises(SaveError, match=r"not written after 2 results: No space left.*go on with --continue"):
        job.part.add([answer(3)])
    assert output.read_bytes() == before
    monkeypatch.undo()
    assert open_share(output).part.done == 3


@pytest.mark.parametrize(
    ("output", "processes", "go_on", "message"),
    [
        (None, "2", False, "2 processes cannot share standard output"),
        ("/dev/null.jsonl", "1", True, "--continue goes on with a file"),
        ("out.txt", "1", False, r"must end in \.jsonl or \.csv"),
    ],
)
def test_what_cannot_be_shared_or_gone_on_with(
    output: str | None, processes: str, go_on: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", processes)
    monkeypatch.setenv(NOTES_VARIABLE, "attempt")
    if output is not None and output.startswith("/dev"):
        output = str(tmp_path / "pipe.jsonl")
        os.mkfifo(output)
    with pytest.raises(UsageError, match=message):
        open_job(output, FILES, FACTS, go_on=go_on)
    monkeypatch.delenv(NOTES_VARIABLE)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(UsageError, match=r"run\.sh -g N -t infer"):
        open_job(output, FILES, FACTS, go_on=go_on)


def test_images_are_shared_each_once() -> None:
    for processes in (1, 2, 3, 7):
        places: list[int] = []
        sizes = set()
        for rank in range(processes):
            share: Sequence[int] = Share(rank, processes).places(10)
            places += share
            sizes.add(len(share))
        assert sorted(places) == list(range(10))
        assert max(sizes) - min(sizes) <= 1
