"""A run's folder: which checkpoints it has, and which of them is the newest that is whole. Imports no paddle.

checkpoint-latest.safetensors        the last save
checkpoint-previous.safetensors      the one before it
checkpoint-best.safetensors          best top-1 of the weights
checkpoint-best-ema.safetensors      best top-1 of the averaged weights
checkpoint-000012345.safetensors     every checkpoint_interval epochs, by update; the last checkpoint_hist are kept
"""

import contextlib
import fcntl
import os
import re
from dataclasses import asdict
from logging import Logger
from pathlib import Path
from typing import IO

from util.errors import MissingInputError, OutputError, SaveError
from util.train.progress import BEST, BEST_EMA, LATEST, Progress, stems_of
from util.weights.container import Container, DamagedFileError, copy_container, peek_state, read_container


class RunFolder:
    """The folder of one experiment."""

    def __init__(self, output: str, experiment: str) -> None:
        self.path = Path(output) / experiment
        self._lock: IO[str] | None = None

    def file(self, stem: str) -> Path:
        """Returns a checkpoint's path by its name without the suffix."""
        return self.path / f"{stem}.safetensors"

    def create(self) -> None:
        """Makes the folder, checks that it can be written to, and keeps a second run out. OutputError otherwise."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  held for the run's life
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror}; choose another --output or --experiment"
            ) from None
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers do not inherit it, unlike flock's
        except OSError:
            self._lock.seek(0)
            raise OutputError(
                f"{self.path}: another run is training here ({self._lock.read().strip() or 'unknown process'}); wait "
                "for it, or choose another --experiment"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
        self._lock.flush()
        for leftover in self.path.glob(".tmp-*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)

    def move_aside(self) -> Path:
        """Renames the folder, which `create` has locked, to the first free `<name>.<n>`, and creates it anew."""
        number = 1
        while (place := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        try:
            self.path.rename(place)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be moved aside: {error.strerror}") from None
        self.create()
        return place

    def numbered(self) -> list[Path]:
        """Returns the checkpoints named by update, oldest first."""
        return sorted(
            p for p in self.path.glob("checkpoint-*.safetensors") if re.fullmatch(r"checkpoint-\d{9}", p.stem)
        )

    def has_run(self) -> bool:
        """Whether something was trained here. One line of log alone is a run that was killed in its very first save."""
        log = self.path / "log.txt"
        return any(self.path.glob("checkpoint-*")) or (log.exists() and log.read_bytes().count(b"\n") > 1)

    def newest(self, log: Logger) -> tuple[Path, Container] | None:
        """Returns the verified checkpoint with the highest update, or None in a folder without a run.

        Damaged ones are renamed to `.damaged` and reported. If none is left, a MissingInputError: a run is never
        silently started from nothing where there was one.
        """
        if not self.has_run():
            return None
        best: tuple[Path, Container] | None = None
        for path in [self.file(LATEST), *self.numbered(), self.file(BEST), self.file(BEST_EMA)]:
            if not path.exists():
                continue
            try:
                container = read_container(path)
            except DamagedFileError as error:
                log.warning(f"{error}; kept as {path.name}.damaged")
                os.replace(path, f"{path}.damaged")
                continue
            if best is None or container.state["progress"]["update"] > best[1].state["progress"]["update"]:
                best = path, container
        if best is None:
            raise MissingInputError(
                f"{self.path} holds a run but no usable checkpoint; start anew with --restart (the folder is kept "
                "under another name), or choose another --experiment"
            )
        return best

    def complete(self, source: Path, progress: Progress, interval: int) -> None:
        """Makes up for the copies of a checkpoint that a crash left out while it was saved."""
        for stem in stems_of(progress, interval):
            path = self.file(stem)
            if path.resolve() != source.resolve() and (
                not path.exists() or peek_state(path).get("progress") != asdict(progress)
            ):
                copy_container(source, path)

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` numbered checkpoints."""
        for path in self.numbered()[:-keep]:
            path.unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file of the run."""
        beside = self.path / f".tmp-{name}-{os.getpid()}"
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.path / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise SaveError(f"{self.path / name}: not written: {error.strerror}") from None
