"""python -m util.data.check with several processes: the same facts, workers that die, signals, a terminal or none."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.run import ROOT
from tests.trees import write_picture, write_tree
from tests.util.data.test_check import snapshot
from util.data.check import main
from util.data.inspection import CHUNK, FileFact, inspect_file, inspect_files
from util.data.splits import load_split
from util.errors import ResumableError, Stopped


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", num_classes=2, train=3, val=2)


# --- processes


def test_facts_do_not_depend_on_how_many_processes_read(root: Path) -> None:
    for i in range(3 * CHUNK):
        (root / f"train/n01440764/{i}.jpg").write_bytes(b"x" * i)
    images = load_split(str(root), "train")
    facts = {
        workers: dict(inspect_files(images, num_workers=workers, decode=True, timeout=60)) for workers in (0, 1, 3)
    }
    assert len(facts[0]) == len(images) == 3 * CHUNK + 6
    assert facts[0] == facts[1] == facts[3]
    assert all(isinstance(fact, FileFact) for fact in facts[0].values())


def test_killed_worker_is_an_error_that_names_its_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_split(str(root), "train")

    def die(path: str, *, decode: bool) -> FileFact:
        if path.endswith("n01440764 2.JPEG"):
            os.kill(os.getpid(), signal.SIGKILL)
        return FileFact(1, bytes(32))

    monkeypatch.setattr("util.data.inspection.inspect_file", die)
    with pytest.raises(ResumableError, match=r"killed by signal 9, at .*/n01440764 2\.JPEG; run again, with fewer"):
        list(inspect_files(images, num_workers=2, decode=True, timeout=60))


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(number) for number in listed.stdout.split()]


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGHUP, -1),
])  # fmt: skip
def test_interrupted_check_ends_at_once_and_leaves_nothing(root: Path, number: int, code: int) -> None:
    """The workers are busy with large pictures, and the whole group gets the signal, as from a terminal."""
    write_picture(root / "train/n01440764/large.png", seed=0, size=(2000, 2000))
    for i in range(60):
        shutil.copy(root / "train/n01440764/large.png", root / f"train/n01440764/large {i}.png")
    before = snapshot(root).keys()
    program = [sys.executable, "-m", "util.data.check", str(root), "-j", "2"]
    process = subprocess.Popen(program, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while len(children := _children(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    began = time.monotonic()
    if number != signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)  # the workers find out by themselves
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert ("error: interrupted" in said) == (code == 130)
    assert said.endswith("stopped by SIGTERM; no index was written\n") == (code == 143)
    assert "Traceback" not in said
    while any(map(_is_alive, children)) and time.monotonic() - began < 5:
        time.sleep(0.05)
    assert [child for child in children if _is_alive(child)] == []
    assert time.monotonic() - began < 5, "workers hold standard error open as long as they live"
    assert len(children) == 2
    assert snapshot(root).keys() == before


@pytest.mark.parametrize(("options", "said"), [
    ([], "stopped by SIGTERM; written is the index of train"), (["--verify"], "not all files were compared"),
])  # fmt: skip
def test_sigterm_says_what_is_there(options: list[str], said: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main([str(root), "-j", "0"])

    def end(path: str, *, decode: bool) -> FileFact:
        if "/val/" in path:
            os.kill(os.getpid(), signal.SIGTERM)
        return inspect_file(path, decode=decode)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("util.data.inspection.inspect_file", end)
    with pytest.raises(Stopped, match=f"{said}$") as caught:
        main([str(root), "-j", "0", *options])
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_command_as_a_user_calls_it(root: Path) -> None:
    (root / "val/n01440764/bad.JPEG").write_bytes(b"<html>")
    done = subprocess.run(
        [sys.executable, "-m", "util.data.check", str(root)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 65
    assert done.stdout == ""
    assert "bad.JPEG: is not an image" in done.stderr
    assert re.search(r"error: 1 of 11 images cannot be read, all listed in .*/val\.bad_images\.tsv;", done.stderr)
    assert "Traceback" not in done.stderr


def test_progress_without_a_terminal_is_a_line_now_and_then(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(root), "--split", "train", "-j", "0"]
    main(arguments)
    assert " of 6 images" not in capsys.readouterr().err
    monkeypatch.setattr("util.data.check.SECONDS_BETWEEN_LINES", 0.0)
    main(arguments)
    assert len(re.findall(r"train: \d of 6 images, [\d,]+ a second\n", capsys.readouterr().err)) == 6
