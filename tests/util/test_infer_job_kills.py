"""A job that is killed at any line goes on to the same results."""

import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.util.infer_jobs import run_whole
from util import infer_job, part
from util.errors import MismatchError
from util.notes import NOTES_VARIABLE

TRACED = (infer_job.__file__, part.__file__)
KILLED = 9
STEP = 5  # lines


def run_until_line(number: int, output: Path, *, processes: int) -> bool:
    """Runs the job in a child that ends at its `number`-th line without another word; returns whether it did."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == KILLED
    left = number

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in TRACED:
            return None
        left -= event == "line"
        if left < 0:
            os._exit(KILLED)
        return trace

    sys.settrace(trace)
    try:
        run_whole(output, processes=processes, go_on=False)
    finally:
        os._exit(0)


@pytest.mark.parametrize("has_old", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_line_it_goes_on_to_the_same_results(
    processes: int, has_old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two processes the second one runs first, so that any kill of the first one finds its part."""
    expected = tmp_path / "whole.jsonl"
    monkeypatch.setattr("util.interrupts.Interrupts.listen", lambda self: None)
    monkeypatch.setattr("util.infer_job.follow_parent", lambda: None)
    run_whole(expected, go_on=False)
    number, refused = 0, 0
    while True:
        output = tmp_path / f"{number}.jsonl"
        if has_old:
            output.write_text("old\n")
        monkeypatch.setenv(NOTES_VARIABLE, "first attempt")
        if not run_until_line(number, output, processes=processes):
            break
        monkeypatch.setenv(NOTES_VARIABLE, "second attempt")
        try:
            run_whole(output, processes=processes)
        except MismatchError:  # nothing says whose the file is: no image was answered, or all are
            is_whole = output.read_bytes() == expected.read_bytes()
            assert is_whole or (output.read_text() == "old\n" and not list(tmp_path.glob(f"{number}.jsonl.*.job")))
            refused += 1
        else:
            assert output.read_bytes() == expected.read_bytes(), number
            assert Path(f"{output}.bad.tsv").read_bytes() == Path(f"{expected}.bad.tsv").read_bytes()
            assert list(tmp_path.glob(f"{number}.jsonl.part*")) == []
        number += STEP
    assert number > 300 * processes
    assert has_old or refused <= 10, "only after the results were whole and the record gone"
