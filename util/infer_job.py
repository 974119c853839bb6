"""A job over many images: its results grow as they come, a later start goes on, several processes share it.

One process writes its rows to the output itself. Of several, each writes a part beside it (util/part.py) and takes
every so manieth image; the first waits for the others and joins the parts in the order of the inputs.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from glob import escape, glob
from itertools import islice
from pathlib import Path
from typing import Any

from util.data.images import ImageError
from util.data.paths import Paths
from util.data.preprocessing import Preprocessing
from util.deploy.manifest import Manifest
from util.errors import DataError, MismatchError, SaveError, UsageError, UserError
from util.interrupts import Interrupts
from util.notes import NOTES_VARIABLE
from util.output_lock import OutputLock
from util.part import BAD, JOINING, Part
from util.prediction import Prediction, check_form, check_output, progress_bar, tell
from util.processes import follow_parent

VERSION = 1
SELECTED_GPUS = "FLAGS_selected_gpus"  # set by Paddle's launcher
MAX_NAMED = 20  # unreadable images in an error; the file of them has all
_LOOK_SECONDS = 0.1
_PART = re.compile(r"\.part-\d+-of-(\d+)(?:\.(?!lock$)|$)")


@dataclass(frozen=True)
class Share:
    """Which of how many processes this is."""

    rank: int = 0
    processes: int = 1

    def places(self, total: int) -> range:
        """Returns the places of this process's images: every `processes`-th, so that all take about as long."""
        return range(self.rank, total, self.processes)


def share_of_environment() -> Share:
    """Returns the share that run.sh gives this process; one process alone has all."""
    processes, rank = os.environ.get("PADDLE_TRAINERS_NUM", "1"), os.environ.get("PADDLE_TRAINER_ID", "0")
    if processes == "1":
        return Share()
    if NOTES_VARIABLE not in os.environ or not (
        processes.isdecimal() and rank.isdecimal() and int(rank) < int(processes)
    ):
        raise UsageError("several processes share a job when run.sh starts them: run.sh -g N -t infer")
    return Share(int(rank), int(processes))


def device_of_share(device: str) -> str:
    """Returns `gpu:N` for `gpu` in a process that run.sh has started for GPU N, and any other device as it is."""
    number = os.environ.get(SELECTED_GPUS, "")
    return f"gpu:{number}" if device == "gpu" and number.isdecimal() else device


def facts_of(
    files: Paths, manifest: Manifest, preprocessing: Preprocessing, class_names: Sequence[str], *, precision: str
) -> dict[str, Any]:
    """Returns what must be equal for going on: images, model, precision, preprocessing and names of classes.

    They are plain values. Another engine may go on: it gives the same up to rounding.
    """
    return {
        "version": VERSION,
        "images": len(files),
        "list of images": hashlib.sha256(files.joined.tobytes()).hexdigest(),
        "model": manifest.sha256,  # of all its programs, since each may go on
        "precision": precision,
        "preprocessing": preprocessing.to_plain(),
        "class names": hashlib.sha256("\0".join(class_names).encode("utf-8", "surrogateescape")).hexdigest(),
    }


def open_job(output: str | None, files: Sequence[str], facts: dict[str, Any], *, go_on: bool) -> "InferJob | None":
    """Returns the job that writes to a file; None for standard output and pipes, which one process alone can write."""
    share = share_of_environment()
    if output is not None:
        check_form(output)
        if os.path.isfile(output) or not os.path.exists(output):
            return InferJob(output, files, share=share, facts=facts, go_on=go_on)
        check_output(output)
    if share.processes > 1:
        raise UsageError(
            f"{share.processes} processes cannot share {output or 'standard output'}: name a file with --output"
        )
    if go_on:
        raise UsageError(f"--continue goes on with a file; {output} is none")
    return None


def run_job(job: "InferJob", predict: Callable[[range], Generator[list[Prediction | ImageError], None, None]]) -> None:
    """Answers what is left of this process's images, and ends the job. A signal ends it between two answers."""
    part, interrupts = job.part, _listen(job)
    with progress_bar(part.total, done=part.done) as advance, contextlib.closing(predict(part.left)) as batches:
        for answers in batches:
            with interrupts.held():
                part.add(answers)
            advance(len(answers))
    _end(job)


def end_job(job: "InferJob") -> None:
    """Ends a job of which this process has nothing left to answer."""
    _listen(job)
    _end(job)


def _listen(job: "InferJob") -> Interrupts:
    interrupts = Interrupts(lambda: job.words)
    interrupts.listen()
    if job.is_shared:
        follow_parent()
    return interrupts


def _end(job: "InferJob") -> None:
    words = job.finish()
    if words:
        tell(words)


class InferJob:
    """The results of `files` at `output`, which is a regular file or nothing yet; `share.processes` write them.

    facts: what must be equal for going on; go_on: whether to go on with what an earlier start has left, if anything.
    """

    def __init__(self, output: str, files: Sequence[str], *, share: Share, facts: dict[str, Any], go_on: bool) -> None:
        self._output, self._share, self._go_on, self._total = output, share, go_on, len(files)
        self._path = Path(os.path.realpath(output))
        self._mark = os.environ.get(NOTES_VARIABLE, "")  # an attempt's own: parts of an earlier one do not count
        self._whole = Part(self._path, files, range(len(files)), output=output, facts=facts)
        self._parts = [self._whole]
        if share.processes > 1:
            self._parts = [
                Part(self._part_path(rank), files, Share(rank, share.processes).places(len(files)), output=output,
                     facts=facts)
                for rank in range(share.processes)
            ]  # fmt: skip
        self.part = self._parts[share.rank]
        self._locks = [OutputLock(part.path, output=output) for part in self._own_files()]
        try:
            for lock, part in zip(self._locks, self._own_files(), strict=True):
                lock.take()
                part.check_places()
            if share.rank == 0:
                check_output(output)  # one process alone: it tries by making the file, and removes it
            if go_on:
                self._take_over()
            elif share.rank == 0:
                self._forget_others()
        except UserError:
            self._release()
            raise

    def _own_files(self) -> list[Part]:
        """Returns what this process writes: its part, and the whole if it is the first one."""
        return [self.part, *([self._whole] if self._share.rank == 0 and self.part is not self._whole else [])]

    @property
    def is_shared(self) -> bool:
        """Whether several processes write the results."""
        return self._share.processes > 1

    @property
    def words(self) -> str:
        """How far this process is, for who stops it."""
        whose = "" if self._share.processes == 1 else f" of process {self._share.rank}"
        count = f"{self.part.done:,} of {self.part.total:,} images{whose}"
        return f"{count} are done in {self._output}; --continue goes on"

    def _part_path(self, rank: int) -> Path:
        return Path(f"{self._path}.part-{rank}-of-{self._share.processes}")

    def _parts_of_others(self) -> dict[str, int]:
        """Returns the files that another number of processes has begun, with that number."""
        found = {}
        for path in glob(f"{escape(str(self._path))}.part-*-of-*"):
            match = _PART.match(path.removeprefix(str(self._path)))
            if match is not None and int(match[1]) != self._share.processes:
                found[path] = int(match[1])
        return found

    def _forget_others(self) -> None:
        """Removes what another number of processes has begun, so that nothing goes on with it."""
        for beside in (self._whole.path, self._whole.bad_path):
            Path(f"{beside}{JOINING}").unlink(missing_ok=True)
        locks = glob(f"{escape(str(self._path))}.part-*-of-*.lock")
        for path in [*self._parts_of_others(), *locks]:
            if not path.endswith(f"-of-{self._share.processes}.lock"):  # of the others of this start
                Path(path).unlink(missing_ok=True)
        if self._share.processes > 1:
            self._whole.forget()

    def _take_over(self) -> None:
        begun_by = set(self._parts_of_others().values())
        if self._share.processes > 1 and self._whole.has_record:
            self._whole.go_on()
            if not self._whole.left:  # the parts were joined before
                self.part = self._whole
                return
            begun_by.add(1)
        if self._share.processes > 1 and not begun_by and not any(part.has_record for part in self._parts):
            self._whole.refuse_strange()
        if begun_by:
            raise MismatchError(
                f"{self._output}: this job was begun by {begun_by.pop()} processes, not {self._share.processes}: go on "
                "with as many (run.sh -g), or start anew without --continue"
            )
        self.part.go_on()

    def finish(self) -> str:
        """Ends this process's part; the first process joins all parts and returns a line about the results.

        Images that could not be read are a DataError then, which names some of them. The others have nothing to say.
        """
        try:
            if self.part is not self._whole or self._share.processes == 1:
                self.part.finish(self._mark)
                if self._share.rank == 0 and self._share.processes > 1:
                    self._wait()
                    join_parts(self._parts, self._whole, total=self._total)
            if self._share.rank == 0:
                self._clean_up()
            self._release()
            if self._share.rank > 0:
                return ""
        except OSError as error:
            raise SaveError(
                f"{self._output}: not written: {error.strerror}; make room and go on with --continue"
            ) from None
        self._refuse_unreadable()
        return f"{self._whole.num_rows} results in {self._output}" if self._whole.num_rows else (
            f"no results for {self._output}"
        )  # fmt: skip

    def _release(self) -> None:
        for lock in self._locks:
            lock.release()

    def _wait(self) -> None:
        """Waits until the other processes of this start are done; when one fails, run.sh ends this one, too."""
        for part in self._parts:
            while not part.is_finished(self._mark):
                time.sleep(_LOOK_SECONDS)

    def _clean_up(self) -> None:
        if self._share.processes > 1:
            for part in self._parts:
                part.remove()
        if not self._go_on:  # with --continue, the same command finds that nothing is left to do
            self._whole.forget()

    def _refuse_unreadable(self) -> None:
        if self._whole.num_bad:
            with open(self._whole.bad_path, encoding="utf-8") as file:
                named = [": ".join(line.rstrip("\n").split("\t")[1:]) for line in islice(file, MAX_NAMED)]
            listed = "\n  ".join(named)
            all_of_them = f"all are in {self._output}{BAD}"
            raise DataError(
                f"{self._whole.num_bad} of {self._total} images could not be read; {all_of_them}\n  {listed}"
            )


def join_parts(parts: Sequence[Part], whole: Part, *, total: int) -> None:
    """Writes the rows and bad images of all parts to the whole, in the order of the inputs; the parts stay.

    Everything is written beside its place first, so the results are never half of them.
    """
    whole.bad_path.unlink(missing_ok=True)  # of an earlier job
    rows_beside, bad_beside = (Path(f"{path}{JOINING}") for path in (whole.path, whole.bad_path))
    with contextlib.ExitStack() as files:
        rows_file = files.enter_context(open(rows_beside, "wb"))
        bad_file = files.enter_context(open(bad_beside, "wb"))
        sources = [files.enter_context(contextlib.closing(part.read())) for part in parts]
        rows, bad = 0, 0
        for place in range(total):
            source = sources[place % len(sources)]
            is_bad, content = next(source)
            if is_bad:
                bad += bad_file.write(content) > 0
            else:
                if not rows:
                    rows_file.write(parts[place % len(parts)].header)
                rows += rows_file.write(content) > 0
    for beside, path, count in ((bad_beside, whole.bad_path, bad), (rows_beside, whole.path, rows)):
        if count:
            os.replace(beside, path)
        else:
            beside.unlink()
    whole.take(rows=rows, bad=bad)
