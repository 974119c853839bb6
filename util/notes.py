"""What the processes of an attempt leave for `run.sh` in a folder: why they ended, and where the run is.

    error.<rank>    a process's exit code and its last line
    exits           how each process ended, as the launcher saw it (util/launcher.py): lines `rank code second`
    run_folder      the run's folder, and which checkpoints it had when the attempt began, as JSON

Who runs without run.sh leaves nothing. Standard library only: run.sh reads this before anything else is loaded.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

NOTES_VARIABLE = "RUN_NOTES"  # the folder of an attempt's notes
EXITS = "exits"
_RUN_FOLDER = "run_folder"
_ERROR = "error."


@dataclass(frozen=True)
class Ended:
    """How a process ended: code as Python's subprocess has it, second since 1970, its last line or nothing."""

    rank: int
    code: int
    second: float
    words: str = ""


def leave_error(code: int, line: str) -> None:
    """Leaves this process's exit code and last line, if run.sh asks for them."""
    folder, rank = os.environ.get(NOTES_VARIABLE), os.environ.get("PADDLE_TRAINER_ID")
    if not folder or not rank:
        return
    place = os.path.join(folder, f"{_ERROR}{rank}")
    with contextlib.suppress(OSError), open(place, "w", encoding="utf-8", errors="replace") as file:
        file.write(f"{code}\n{line}\n")


def read_errors(notes: Path) -> dict[int, Ended]:
    """Returns what each process has said, by rank."""
    found = {}
    for path in notes.glob(f"{_ERROR}*"):
        try:
            code, end, words = path.read_text(encoding="utf-8", errors="replace").partition("\n")
            second = path.stat().st_mtime
        except OSError:  # removed, with the folder
            continue
        if end and code.isdecimal():  # a process that was killed while it wrote, or on a full disk, has said nothing
            rank = int(path.suffix[1:])
            found[rank] = Ended(rank, int(code), second, words.strip())
    return found


def read_exits(notes: Path) -> list[Ended]:
    """Returns how the processes ended, in that order, as far as the launcher could write it down."""
    try:
        lines = (notes / EXITS).read_text(encoding="utf-8").split("\n")[:-1]  # what has no end was torn by a full disk
    except OSError:
        return []
    return [Ended(int(rank), int(code), float(second)) for rank, code, second in map(str.split, lines)]


def note_run_folder(folder: Path) -> None:
    """Tells run.sh which folder this run has opened, and what was in it: what `--restart` asked for is done.

    Call it on one process, once the folder is known and an earlier run was moved aside. Without run.sh it does nothing.
    """
    place = os.environ.get(NOTES_VARIABLE)
    if place is None:
        return
    note = {"folder": str(folder.resolve()), "checkpoints": _checkpoints(folder)}
    with contextlib.suppress(OSError):  # the folder may be gone or full; then run.sh repeats the arguments as they are
        put_run_note(Path(place), json.dumps(note).encode())


def put_run_note(notes: Path, content: bytes) -> None:
    """Writes the note about the run's folder, whole or not at all; may raise an OSError."""
    temporary = notes / f".{_RUN_FOLDER}.{os.getpid()}"
    temporary.write_bytes(content)
    temporary.replace(notes / _RUN_FOLDER)


def read_run_note(notes: Path) -> bytes:
    """Returns the note about the run's folder as it stands, or nothing."""
    try:
        return (notes / _RUN_FOLDER).read_bytes()
    except OSError:
        return b""


def has_new_checkpoint(notes: Path) -> bool | None:
    """Returns whether an attempt's run has written a checkpoint since `note_run_folder`; None without that note."""
    try:
        note = json.loads(read_run_note(notes))
    except ValueError:  # there is none, or a disk has lost it
        return None
    now = _checkpoints(Path(note["folder"]))
    return any(note["checkpoints"].get(name) != written for name, written in now.items())


def _checkpoints(folder: Path) -> dict[str, int]:
    """Returns when each checkpoint of a run's folder was written, in ns."""
    found = {}
    for path in folder.glob("checkpoint-*.safetensors"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # pruned at this moment
            continue
    return found
