"""A run's folder: which checkpoints it has, and which of them is the newest that is whole. Imports no paddle.

checkpoint-latest.safetensors        the last save
checkpoint-previous.safetensors      the one before it
checkpoint-best.safetensors          best top-1 of the weights
checkpoint-best-ema.safetensors      best top-1 of the averaged weights
checkpoint-000012345.safetensors     every checkpoint_interval epochs, by update; the last checkpoint_hist are kept
"""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from logging import Logger
from pathlib import Path
from typing import IO, Any

import numpy as np

from util import storage
from util.errors import MissingInputError, OutputError, SaveError, WeightsError
from util.train.progress import BEST, BEST_EMA, LATEST, PREVIOUS, Progress, stems_of
from util.weights.container import (
    Container,
    NewerFileError,
    copy_container,
    peek_state,
    read_container,
    write_container,
)

Position = tuple[int, int, int, bool]
NOWHERE: Position = (-1, -1, -1, False)

LOCK = ".lock"
# what a run writes besides its checkpoints
OWN_FILES = ("args.yaml", "bad_images.tsv", "events.jsonl", "log.txt", "train.log", "wandb-id.txt")


class RunFolder:
    """The folder of one experiment."""

    def __init__(self, output: str, experiment: str) -> None:
        self.path = Path(output) / experiment
        self._lock: IO[str] | None = None
        self._place: os.stat_result | None = None  # of the folder that the lock is in

    @property
    def is_open(self) -> bool:
        """Whether `create` or `join` has succeeded."""
        return self._lock is not None

    def file(self, stem: str) -> Path:
        """Returns a checkpoint's path by its name without the suffix."""
        return self.path / f"{stem}.safetensors"

    def create(self) -> None:
        """Makes the folder, checks that it can be written to, and keeps a second run out. OutputError otherwise."""
        place = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(place) and not place.is_file():
                raise OutputError(f"{place}: is no regular file; a run locks it to keep others out: remove it")
            lock = open(place, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115  held on
            self._take_lock(lock)
            for leftover in self.path.glob(".tmp-*"):  # of a process that was killed while it wrote
                if not leftover.is_dir():
                    storage.unlink(leftover)
            probe = self.path / f".tmp-probe-{os.getpid()}"  # the lock can be open where no file can be made
            storage.write_file(probe, [b"x"])
            storage.unlink(probe)
            self._refuse_irregular()
            self._lock, self._place = lock, os.stat(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror}; choose another --output or --experiment"
            ) from None

    def _take_lock(self, lock: IO[str]) -> None:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # data workers do not inherit it, unlike flock's
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            raise OutputError(
                f"{self.path}: another run is training here ({lock.read().strip() or 'unknown process'}); wait "
                "for it, or choose another --experiment"
            ) from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {os.uname().nodename}\n")
        lock.flush()

    def join(self) -> None:
        """On other processes than the main one, after its `create`: lets `check_held` know the folder again."""
        try:
            self._lock = open(self.path / LOCK, encoding="utf-8", errors="replace")  # noqa: SIM115  held on
            self._place = os.stat(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be read: {error.strerror}; all nodes must have the same --output"
            ) from None

    def check_held(self) -> None:
        """Raises a SaveError if the folder is no longer the one of `create` or `join`, but perhaps another run's."""
        if self._lock is None or self._place is None:
            return
        if _is_at(self.path / LOCK, os.fstat(self._lock.fileno())):
            return
        if _is_at(self.path, self._place):
            raise SaveError(
                f"{self.path / LOCK}: it was removed or replaced while this run was training; without it another run "
                "can begin here, so nothing more is written. Start again, and leave that file alone: the run "
                "continues from its newest checkpoint"
            )
        raise SaveError(
            f"{self.path}: it was moved or removed while this run was training; nothing more is written there, where "
            "another run may have begun. Move it back and start again: the run continues from its newest checkpoint"
        )

    def _refuse_irregular(self) -> None:
        """Raises an OutputError for what stands in the place of one of the run's own files and is none."""
        for path in sorted(self.path.iterdir()):
            own = path.name in OWN_FILES or path.name.startswith(".workers-")
            if own and not path.is_file():
                raise OutputError(f"{path}: is not a regular file; the run writes there: move it away")
            if path.name.startswith("checkpoint-") and path.is_symlink() and not path.exists():
                raise OutputError(f"{path}: is a link that leads nowhere; remove it")

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

    def save(
        self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any], *, stems: Sequence[str], keep: int
    ) -> None:
        """Writes a checkpoint, keeps the one before as `previous`, copies it to the other `stems`.

        keep: how many numbered checkpoints stay. Whenever this is cut short, a whole checkpoint is left, which `newest`
        finds, and `complete` makes up for the copies. Raises what `write_container` raises. Only one call at a time.
        """
        self.check_held()
        latest = self.file(LATEST)
        write_container(latest, tensors, state, previous=self.file(PREVIOUS))
        for stem in stems:
            if stem != LATEST:
                copy_container(latest, self.file(stem))
        self.prune(keep)

    def check_space(self, checkpoint_bytes: int, *, copies: int) -> None:
        """Raises an OutputError unless `copies` checkpoints fit on the disk, in place of those that are there.

        copies: the greatest number of files at a time, the one being written among them.
        """
        try:
            free = shutil.disk_usage(self.path).free
            own = {(found := p.stat()).st_ino: found.st_size for p in self.path.glob("checkpoint-*.safetensors")}
        except OSError as error:
            raise OutputError(f"{self.path}: its free space cannot be asked for: {error.strerror}") from None
        needed, here = copies * checkpoint_bytes, sum(own.values())
        if free + here < needed:
            raise OutputError(
                f"needs {needed / 1e6:.1f} MB for its checkpoints ({copies} of {checkpoint_bytes / 1e6:.1f} MB), "
                f"{free / 1e6:.1f} MB are free at {self.path}"
                f"{f' besides {here / 1e6:.1f} MB of its own checkpoints' if here else ''}; make room, keep fewer with "
                "--checkpoint_hist, or choose another --output"
            )

    def newest(self, log: Logger) -> tuple[Path, Container] | None:
        """Returns the verified checkpoint that is furthest, or None in a folder without a run.

        It is read as a whole, and so are `latest` and the best ones: nothing else would ever read those until somebody
        needs them. Damaged ones, and what is no checkpoint, are renamed to `.damaged` and reported. If none is left, a
        MissingInputError: a run is never silently started from nothing where there was one. One of a later version of
        this project is a WeightsError: going on from an older one would overwrite it.
        """
        if not self.has_run():
            return None
        stems = [LATEST, PREVIOUS, *(path.stem for path in reversed(self.numbered())), BEST, BEST_EMA]
        claims = {path: _position(peek_state(path)) for path in map(self.file, stems) if path.exists()}
        # Headers tell which is furthest, so that only that one is hashed. They can be damaged, too: `latest` and
        # those that claim nothing are read in any case.
        doubtful = [path for path, claim in claims.items() if path.stem == LATEST or claim == NOWHERE]
        rest = sorted((path for path in claims if path not in doubtful), key=claims.__getitem__, reverse=True)
        furthest: tuple[Path, Container] | None = None
        for path in [*doubtful, *rest]:
            reached = NOWHERE if furthest is None else _position(furthest[1].state)
            if path in rest and claims[path] <= reached and path.stem not in (BEST, BEST_EMA):
                continue
            container = self._read(path, log)
            if container is not None and (furthest is None or _position(container.state) > reached):
                furthest = path, container
        if furthest is None:
            raise MissingInputError(
                f"{self.path} holds a run but no usable checkpoint; start anew with --restart (the folder is kept "
                "under another name), or choose another --experiment"
            )
        if _position(furthest[1].state) == NOWHERE:
            raise WeightsError(
                f"{furthest[0]}: cannot be continued: it does not say how far a run is; start from it with "
                "--pretrained and another --experiment"
            )
        return furthest

    def _read(self, path: Path, log: Logger) -> Container | None:
        """Returns a verified checkpoint; None for what is none, which is set aside."""
        try:
            if path.is_file():
                return read_container(path)
            reason = f"{path}: is not a file"
        except NewerFileError as error:
            raise WeightsError(
                f"{error}; continue with the version of this project that wrote it, or choose another --experiment"
            ) from None
        except WeightsError as error:
            reason = str(error)
        number, place = 1, Path(f"{path}.damaged")
        while os.path.lexists(place):
            number += 1
            place = Path(f"{path}.damaged.{number}")
        log.warning(f"{reason}; kept as {place.name}")
        try:
            storage.replace(path, place)
        except OSError as error:
            raise OutputError(f"{path}: cannot be renamed to {place.name}: {error.strerror}") from None
        return None

    def complete(self, source: Path, progress: Progress, interval: int) -> None:
        """Makes up for the copies of a checkpoint that a crash left out while it was saved, `latest` among them."""
        for stem in stems_of(progress, interval):
            path = self.file(stem)
            if path.resolve() != source.resolve() and (not path.exists() or _progress(peek_state(path)) != progress):
                copy_container(source, path)

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` numbered checkpoints."""
        for path in self.numbered()[:-keep]:
            try:
                storage.unlink(path)
            except OSError as error:
                logging.getLogger("run.storage").warning(f"{path}: not removed: {error.strerror}")

    def write_text(self, name: str, text: str) -> None:
        """Writes a small file of the run, unless the folder is the run's no longer: see `check_held`."""
        self.check_held()
        try:
            storage.write_over(self.path / name, text.encode())
        except OSError as error:
            raise SaveError(f"{self.path / name}: not written: {error.strerror}") from None

    def append_line(self, name: str, text: str, *, patient: bool = True) -> None:
        """Adds a line to a file of the run, such as events.jsonl, in one write; see `storage.append_line`.

        Unless the folder is the run's no longer: see `check_held`.
        """
        self.check_held()
        storage.append_line(self.path / name, text, patient=patient)


def _is_at(path: Path, known: os.stat_result) -> bool:
    """Whether a file or folder that was seen before is what is at a path now."""
    try:
        return os.path.samestat(known, os.stat(path))
    except OSError:
        return False


def _progress(state: Any) -> Progress | None:
    """Returns what a checkpoint's state, also one of an earlier version, says about its progress; None if nothing."""
    try:
        return Progress(**state["progress"])
    except (KeyError, TypeError):
        return None


def _position(state: Any) -> Position:
    """Returns how far a checkpoint says to be; NOWHERE if it does not say so."""
    progress = _progress(state)
    position = NOWHERE if progress is None else progress.position()
    return position if all(isinstance(number, int) and number >= 0 for number in position) else NOWHERE
