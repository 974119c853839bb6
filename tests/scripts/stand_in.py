"""In the place of train.py under run.sh: each process does what its rank's argument says, without Paddle.

stand_in.py ACT [ACT ...] [anything that run.sh adds]

train          notes its process id, and trains until SIGTERM or SIGINT; then saves and ends with 143 or 130
save:SECONDS   the same, and the save takes so long
stopfail:CODE  the same, but cannot save: ends with CODE
talk           as train, and talks meanwhile
deaf           notes its process id, and hears no signal
fail:CODE      when every process is there, says why and ends with CODE
quiet:CODE     the same without a word
die:SIGNAL     when every process is there, kills itself
count:CODE:N   notes its arguments; the first N starts end with CODE, the next with 0
alone          notes its process id and sleeps, whatever happens to the launcher
argv           stores its arguments
environment    prints its environment
moved:CODE     notes its arguments, opens a run folder, ends with CODE; `written`: also writes a checkpoint there
written:CODE
cleaned:CODE:N the first N starts note their arguments, open a run folder, write a checkpoint there, lose the folder of
               notes with the one it is in, and end with CODE, the next with 0
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parent))

from util.notes import note_run_folder
from util.processes import follow_parent

RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
PROCESSES = int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def end(code: int, words: str) -> NoReturn:
    """Ends as the scripts end: one line, also for run.sh."""
    print(f"error: {words}", file=sys.stderr)
    with contextlib.suppress(OSError):
        Path(os.environ["RUN_NOTES"], f"error.{RANK}").write_text(f"{code}\nerror: {words}\n")
    sys.exit(code)


def meet() -> None:
    """Notes the process id and waits for the other processes."""
    Path(f".pid.{RANK}").write_text(str(os.getpid()))
    Path(f".pid.{RANK}").rename(f"pid.{RANK}")
    while len(list(Path().glob("pid.*"))) < PROCESSES:
        time.sleep(0.02)


def train(save_seconds: float, *, fails_with: int = 0, talks: bool = False) -> None:
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    if PROCESSES > 1:
        follow_parent(seconds=3)
    meet()
    while not came:
        time.sleep(0.02)
        if talks:
            print("words", flush=True)
    time.sleep(save_seconds)
    if fails_with:
        end(fails_with, f"rank {RANK} cannot save")
    Path(f"saved.{RANK}").write_text(signal.Signals(came[0]).name)
    end(128 + came[0], f"stopped by {signal.Signals(came[0]).name}")


def be_deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if PROCESSES > 1:
        follow_parent(seconds=3)
    meet()
    time.sleep(600)


def note_arguments() -> int:
    """Returns how many starts there were, this one included."""
    with open("starts", "a", encoding="utf-8") as file:
        file.write(" ".join(sys.argv[1:]) + "\n")
    return len(Path("starts").read_text().splitlines())


def open_run(code: int, *, write: bool) -> None:
    note_arguments()
    folder = Path("output")
    folder.mkdir(exist_ok=True)
    note_run_folder(folder)
    if write:
        (folder / "checkpoint-latest.safetensors").write_bytes(b"")
    end(code, "broken")


def lose_notes(code: int, starts: int) -> None:
    if note_arguments() > starts:
        return
    note_run_folder(Path())
    Path("checkpoint-latest.safetensors").write_bytes(b"")
    if PROCESSES > 1:
        meet()
    time.sleep(0.5)  # run.sh looks ten times a second
    shutil.rmtree(Path(os.environ["RUN_NOTES"]).parent, ignore_errors=True)
    print("cleaned", flush=True)
    end(code, "a peer went away")


def act(name: str, *values: str) -> None:
    if name in ("train", "save"):
        train(float(values[0]) if values else 0.0)
    elif name == "stopfail":
        train(0.0, fails_with=int(values[0]))
    elif name == "talk":
        train(0.0, talks=True)
    elif name == "deaf":
        be_deaf()
    elif name in ("moved", "written"):
        open_run(int(values[0]), write=name == "written")
    elif name == "count":
        if note_arguments() <= int(values[1]):
            end(int(values[0]), "a peer went away")
        print("ended well")
    elif name == "cleaned":
        lose_notes(int(values[0]), int(values[1]))
    elif name == "argv":
        Path("argv").write_text(json.dumps(sys.argv[1:]))
    elif name == "environment":
        print("\n".join(f"{key}={value}" for key, value in os.environ.items()))
    elif name == "alone":
        meet()
        time.sleep(600)
    else:
        meet()
        if name == "die":
            os.kill(os.getpid(), int(values[0]))
        if name == "quiet":
            sys.exit(int(values[0]))
        end(int(values[0]), f"rank {RANK} failed")


if __name__ == "__main__":
    act(*sys.argv[1 + RANK].split(":"))
