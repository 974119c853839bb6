"""The launcher's exit code where it can write nothing down: what the notes would have said."""

import errno
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NoReturn

import pytest

from util import launcher, notes
from util.launcher import ExitNotes


def pod_of(*codes: int | None) -> SimpleNamespace:
    """Processes that have ended with these codes; None: one that runs."""
    containers = [
        SimpleNamespace(status="failed", exit_code=code, env={"PADDLE_TRAINER_ID": str(rank)})
        for rank, code in enumerate(codes)
    ]
    return SimpleNamespace(containers=containers)


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        ([143, 65], 65),
        ([75, None], 75),
        ([75, -9], 75),
        ([-9, 143], 75),  # killed, a passing reason
        ([143, 143], 143),
        ([0, 2], 2),
    ],
)
def test_without_a_place_for_notes_the_first_own_failure_is_the_code(
    tmp_path: Path, codes: list[int | None], found: int
) -> None:
    notes = ExitNotes(pod_of(*codes), tmp_path / "gone/exits")
    notes.look()
    notes.look()
    assert notes.unwritten_code() == found
    assert len(notes.unwritten) == len([code for code in codes if code])


def test_what_could_be_written_down_is_not_said_by_the_code(tmp_path: Path) -> None:
    notes = ExitNotes(pod_of(143, 65, None), tmp_path / "exits")
    notes.look()
    assert notes.unwritten == []
    assert [line.split()[:2] for line in (tmp_path / "exits").read_text().splitlines()] == [["0", "143"], ["1", "65"]]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 75), (errno.ENOENT, 75), (errno.EADDRINUSE, None)])
def test_a_start_without_room_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int, code: int | None
) -> None:
    def run() -> NoReturn:
        raise OSError(number, "the reason")

    controller = SimpleNamespace(pod=pod_of(), run=run, finalize=lambda: None)
    package, context = ModuleType("paddle.distributed.launch"), ModuleType("paddle.distributed.launch.context")
    package.controllers = SimpleNamespace(init=lambda context: controller)  # type: ignore[attr-defined]
    context.Context = SimpleNamespace  # type: ignore[attr-defined]
    for name in ("paddle", "paddle.distributed"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, context.__name__, context)
    monkeypatch.setattr(ExitNotes, "watch", lambda self: None)  # its thread would outlive the test
    monkeypatch.setenv(notes.NOTES_VARIABLE, str(tmp_path))
    monkeypatch.setenv(launcher.LAUNCHER_VARIABLE, "")
    if code is None:
        with pytest.raises(OSError, match="the reason"):
            launcher.main()
    else:
        with pytest.raises(SystemExit) as caught:
            launcher.main()
        assert caught.value.code == code
        said = capfd.readouterr().err
        assert said == f"error: {tmp_path}: no place for the logs of the processes: the reason\n"
