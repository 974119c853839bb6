"""run.sh around one process and several: signals, exit codes, restarts. A stand-in trains, in a tenth of the time."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts.background import Background, alive, make_stand_in, start_stand_in, wait_until
from tests.scripts.run import port
from util.processes import send

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return make_stand_in(tmp_path)


def starts(place: Path) -> list[str]:
    return (place / "work/starts").read_text().splitlines()


def wait_ready(place: Path, job: Background, processes: int) -> list[int]:
    """Returns the process ids of the ranks."""
    files = [place / f"work/pid.{rank}" for rank in range(processes)]
    wait_until(lambda: all(file.exists() for file in files) or job.process.poll() is not None, "started")
    assert job.process.poll() is None, job.stderr
    job.look()
    return [int(file.read_text()) for file in files]


# --- Signals


@pytest.mark.parametrize(
    ("number", "code", "processes"),
    [
        (signal.SIGTERM, 143, 1),
        (signal.SIGHUP, 143, 1),
        (signal.SIGINT, 130, 1),
        (signal.SIGTERM, 143, 2),
        pytest.param(signal.SIGHUP, 143, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_run_sh_lets_every_process_save(
    place: Path, number: signal.Signals, code: int, processes: int
) -> None:
    with start_stand_in(place, "-g", str(processes), *["save:0.5"] * processes) as job:
        wait_ready(place, job, processes)
        if number == signal.SIGINT:
            os.killpg(job.pid, number)  # as a terminal does
        else:
            job.process.send_signal(number)
        assert job.code(15) == code
        heard = {(place / f"work/saved.{rank}").read_text() for rank in range(processes)}
        assert heard == {"SIGINT" if number == signal.SIGINT else "SIGTERM"}
        assert list((place / "tmp").iterdir()) == [], "a stop is no failure: no logs are left"


@pytest.mark.slow
def test_a_save_may_take_longer_than_the_launcher_waits_for_others(place: Path) -> None:
    """The launcher kills what goes on 3 s after one process has ended, or 30 s after its own SIGTERM."""
    with start_stand_in(place, "-g", "2", "save:5", "save:5") as job:
        wait_ready(place, job, 2)
        job.process.terminate()
        assert job.code(20) == 143
        assert all((place / f"work/saved.{rank}").exists() for rank in range(2))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_ctrl_c_ends_everything_within_two_seconds(place: Path, processes: int) -> None:
    with start_stand_in(place, "-g", str(processes), *["save:60"] * processes) as job:
        wait_ready(place, job, processes)
        os.killpg(job.pid, signal.SIGINT)
        time.sleep(0.5)
        assert job.process.poll() is None, "one alone lets them save"
        start_time = time.monotonic()
        os.killpg(job.pid, signal.SIGINT)
        assert job.code(15) == 130
        assert time.monotonic() - start_time < 2
        assert "interrupted; the processes were ended at once" in job.stderr


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_what_is_not_saved_in_time_is_not_called_saved(place: Path, processes: int) -> None:
    script = place / "run.sh"
    command = script.read_text(encoding="utf-8")
    short = command.replace(
        "from util.job import main;", "from util.job import main; import util.job as job; job.STOP_SECONDS = 1.0;"
    )
    assert short != command
    script.write_text(short, encoding="utf-8")
    with start_stand_in(place, "-g", str(processes), *["save:60"] * processes) as job:
        wait_ready(place, job, processes)
        job.process.terminate()
        assert job.code(15) == 75
        assert "error: not all processes ended within 1 s of the signal, and were killed" in job.stderr
        assert job.look() == set()


def test_sigterm_three_times_is_one_stop(place: Path) -> None:
    with start_stand_in(place, "-g", "1", "save:1") as job:
        wait_ready(place, job, 1)
        for _ in range(3):
            job.process.terminate()
            time.sleep(0.2)
        assert job.code(15) == 143
        assert (place / "work/saved.0").exists()


def test_a_failure_while_stopping_is_what_is_reported(place: Path) -> None:
    """Rank 1 cannot save: its folder of notes says 74, and no complete checkpoint is claimed."""
    with start_stand_in(place, "-g", "2", "save:0.5", "stopfail:74") as job:
        wait_ready(place, job, 2)
        job.process.terminate()
        assert job.code(20) == 74
        assert job.stderr.count("error: rank 1 cannot save\n") == 1
        assert "logs of all processes are kept" in job.stderr


def test_nohup_keeps_sighup_ignored(place: Path) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        job = start_stand_in(place, "train")
    finally:
        signal.signal(signal.SIGHUP, previous)
    with job:
        wait_ready(place, job, 1)
        job.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert job.process.poll() is None
        job.process.terminate()
        assert job.code(15) == 143


def start_talking(place: Path, output: int) -> "subprocess.Popen[bytes]":
    """Starts two processes, of which the first talks, with a file descriptor as standard output."""
    command = ["bash", str(place / "run.sh"), "-g", "2", "-p", port(), "talk", "train"]
    return subprocess.Popen(
        command, cwd=place / "work", stdout=output, stderr=subprocess.DEVNULL, start_new_session=True,
        env=os.environ | {"PYTHON": sys.executable, "TMPDIR": str(place / "tmp")},
    )  # fmt: skip


@pytest.mark.slow
def test_output_that_nobody_reads_any_more_does_not_end_the_job(place: Path) -> None:
    read, write = os.pipe()
    process = start_talking(place, write)
    os.close(write)
    try:
        assert os.read(read, 4) == b"word"
        os.close(read)
        time.sleep(1.5)
        assert process.poll() is None
        process.terminate()
        assert process.wait(15) == 143
    finally:
        process.kill()


def test_output_that_nobody_reads_yet_does_not_keep_run_sh_from_its_work(place: Path) -> None:
    """A pager shows its first page, a terminal waits after Ctrl-S: the pipe is full, but run.sh ends when all have."""
    read, write = os.pipe()
    os.write(write, bytes(1 << 16))  # it is full from the beginning
    process = start_talking(place, write)
    os.close(write)
    try:
        wait_until(lambda: all((place / f"work/pid.{rank}").exists() for rank in range(2)), "started")
        time.sleep(1.0)  # there are words to copy now, and no room for them
        process.terminate()
        assert process.wait(15) == 143
    finally:
        process.kill()
        os.close(read)


# --- Deaths


@pytest.mark.parametrize("victim", ["rank 0", "rank 1", "launcher", "run.sh"])
@pytest.mark.parametrize("others", ["train", pytest.param("deaf", marks=pytest.mark.slow)])
def test_after_a_kill_nothing_is_left_within_15_seconds(place: Path, victim: str, others: str) -> None:
    with start_stand_in(place, "-g", "2", others, others) as job:
        ranks = wait_ready(place, job, 2)
        pid = {"rank 0": ranks[0], "rank 1": ranks[1], "launcher": job.launcher(), "run.sh": job.pid}[victim]
        os.kill(pid, signal.SIGKILL)
        job.wait_gone(15)
        code = job.process.wait(1)
        if victim == "launcher":
            assert code == 75
            assert "error: the launcher was killed by signal 9; its processes were ended" in job.stderr
        elif victim != "run.sh":
            assert code == 75
            assert f"error: process {victim[-1]} was killed by signal 9 (out of memory?)" in job.stderr


@pytest.mark.slow
def test_the_launcher_alone_would_leave_its_processes_behind(place: Path) -> None:
    """The control of the test above: Paddle's launcher, killed, and nobody follows it."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", "log", "--nproc_per_node", "2"]
    environment = os.environ | {"RUN_NOTES": str(place / "work")}
    launcher = subprocess.Popen(
        [*command, str(place / "train.py"), "alone", "alone"], cwd=place / "work", env=environment
    )
    files = [place / f"work/pid.{rank}" for rank in range(2)]
    try:
        wait_until(lambda: all(file.exists() for file in files), "started")
        ranks = {int(file.read_text()) for file in files}
        launcher.kill()
        launcher.wait()
        time.sleep(3)
        assert alive(ranks) == ranks
    finally:
        launcher.kill()
        for file in files:
            if file.exists():
                send(int(file.read_text()), signal.SIGKILL)


# --- Exit codes


@pytest.mark.parametrize(
    ("acts", "code", "line"),
    [
        (["train", "fail:65"], 65, "error: rank 1 failed"),
        pytest.param(["fail:74", "train"], 74, "error: rank 0 failed", marks=pytest.mark.slow),
        (["train", "die:11"], 75, "error: process 1 was killed by signal 11; what is saved is not harmed"),
        pytest.param(
            ["quiet:3", "train"], 3, "error: process 0 ended with 3; its log says more, if anything",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_the_first_failing_process_decides(place: Path, acts: list[str], code: int, line: str) -> None:
    with start_stand_in(place, "-g", "2", *acts) as job:
        assert job.code(30) == code
        errors = [text for text in job.stderr.splitlines() if text.startswith("error: ")]
        assert errors == [line]
        [folder] = (place / "tmp").iterdir()
        assert job.stderr.splitlines()[-1] == f"logs of all processes are kept: {folder}"
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("act", "code"), [("fail:65", 65), ("fail:75", 75), ("die:9", 75), ("quiet:2", 2)])
def test_one_process_without_a_launcher_has_the_same_codes(place: Path, act: str, code: int) -> None:
    with start_stand_in(place, act) as job:
        assert job.code(20) == code
        said = {"fail": 1, "die": 1, "quiet": 0}[act.partition(":")[0]]
        assert job.stderr.count("error: ") == said, "said once, by the process or for it"
        assert list((place / "tmp").iterdir()) == []


def test_logs_are_removed_after_a_success_and_shown_to_the_end(place: Path) -> None:
    with start_stand_in(place, "-g", "2", "count:75:0", "count:75:0") as job:
        assert job.code(30) == 0
        assert list((place / "tmp").iterdir()) == []
        assert job.stdout == "ended well\n", "rank 0's log, once"


# --- Starting again


@pytest.mark.parametrize("options", [[], pytest.param(["-g", "2"], marks=pytest.mark.slow), ["-t", "test"]])
def test_a_passing_failure_is_tried_again(place: Path, options: list[str]) -> None:
    acts = ["count:75:2", "count:75:2"][: 2 if options == ["-g", "2"] else 1]
    with start_stand_in(place, "--tries", "4" if len(acts) == 1 else "2", "--pause", "0.5", *options, *acts) as job:
        if len(acts) == 2:  # both note their start: two starts of the first attempt fail
            assert job.code(60) == 0
            assert len(starts(place)) == 4
        else:
            assert job.code(30) == 0
            assert len(starts(place)) == 3
            assert "attempt 3 of 4 in 1 s: a peer went away\n" in job.stderr
        assert "attempt 2 of " in job.stderr
        assert " in 0.5 s: a peer went away\n" in job.stderr


def test_tries_are_bounded_and_one_without_the_option(place: Path) -> None:
    with start_stand_in(place, "--tries", "3", "--pause", "0", "count:75:99") as job:
        assert job.code(30) == 75
        assert len(starts(place)) == 3
    with start_stand_in(place, "count:75:99") as job:
        assert job.code(30) == 75
        assert len(starts(place)) == 4


@pytest.mark.parametrize("code", [0, 2, 65, 66, 70, 73, 74, 76, 77, 78, 130, 143])
def test_every_other_code_ends_at_once(place: Path, code: int) -> None:
    with start_stand_in(place, "--tries", "3", "--pause", "0", f"count:{code}:1") as job:
        assert job.code(20) == code
        assert len(starts(place)) == 1


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_the_pause(place: Path, number: signal.Signals, code: int) -> None:
    with start_stand_in(place, "--tries", "3", "--pause", "60", "count:75:9") as job:
        wait_until(lambda: "attempt 2 of 3 in 60 s" in job.stderr, "pausing")
        job.process.send_signal(number)
        assert job.code(3) == code
        assert len(starts(place)) == 1


def test_restart_and_resume_count_until_they_are_done(place: Path) -> None:
    arguments = ["--restart", "--resume", "old.safetensors", "--lr", "1"]
    for act, second in (
        ("count:75:1", " ".join(arguments)),  # it did not get as far as its folder
        ("moved:75", "--resume old.safetensors --lr 1"),
        ("written:75", "--lr 1"),
    ):
        (place / "work/starts").unlink(missing_ok=True)
        with start_stand_in(place, "--tries", "2", "--pause", "0", act, *arguments) as job:
            job.code(20)
            assert starts(place) == [f"{act} {' '.join(arguments)}", f"{act} {second}"]


def test_the_pause_doubles_up_to_five_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from util import job

    said: list[str] = []
    monkeypatch.setattr(job, "say", said.append)
    monkeypatch.setattr(job, "LOOK_SECONDS", 0.0)
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(job.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(job.Attempt, "__init__", lambda self, *found: None)
    monkeypatch.setattr(job.Attempt, "wait", lambda self: job.Outcome(75, "error: broken"))
    found = job.run(job.Job("train.py", [], [], 8, 10.0), job.Signals(), tmp_path)
    assert found.code == 75
    assert [re.search(r"in (\S+) s", line)[1] for line in said] == ["10", "20", "40", "80", "160", "300", "300"]  # type: ignore[index]


# --- Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tries", "0"], "--tries must be a positive number, got 0"),
        (["--tries", "many"], "--tries must be a positive number, got many"),
        (["--pause", "-1"], "--pause must be a number of seconds, got -1"),
        (["--tries"], "--tries needs a value"),
        (["--tries", "9" * 20], "--tries must be below 1000000000, got 99999999999999999999"),
        (["--nodes", "2", "--rank", "2"], "--rank must be below --nodes (2), 0 is the master; got 2"),
        (["--rank", "1"], "--rank must be below --nodes (1), 0 is the master; got 1"),
        (["--rank", "08"], "--rank must be a number, got 08"),
        (["--port", "65536"], "--port must be in 1 to 65535, got 65536"),
        (["-p", "0"], "--port must be a positive number, got 0"),
    ],
)
def test_bad_arguments_are_refused(place: Path, arguments: list[str], message: str) -> None:
    with start_stand_in(place, *arguments) as job:
        assert job.code(10) == 2
        assert job.stderr == f"error: {message}\n"


def test_arguments_arrive_as_they_are(place: Path) -> None:
    odd = ["", "a b", "'\"$HOME`", "--launch", "--tries=9", "数据 集/😀", "*", "--", "\\n"]
    with start_stand_in(place, "argv", *odd) as job:
        assert job.code(10) == 0
        assert json.loads((place / "work/argv").read_text()) == ["argv", *odd]
