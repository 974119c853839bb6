"""What one process of a job has answered, on disk: it grows by whole answers, and a later start goes on after them.

    NAME            a row a prediction, in the order of the inputs
    NAME.bad.tsv    place among the inputs, path and reason of each image that could not be read
    NAME.job        what the start that goes on must have in common with the one that began; JSON

A line about a bad image is written before any row that follows it. So rows and lines together say how far a process
came, wherever it was killed.
"""

import contextlib
import json
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from util.data.images import ImageError
from util.errors import MismatchError, OutputError, SaveError
from util.files import as_field
from util.prediction import Prediction
from util.results import as_bytes, file_name_of, header_bytes, is_csv, read_rows, row_bytes

JOB, BAD, NEW = ".job", ".bad.tsv", ".tmp"  # the last: a record that is being written
JOINING = ".joining"  # what is being joined from parts, beside its place
_NO_ADVICE = "give the command that began it, or start anew without --continue"


class Part:
    """Rows and unreadable images of `files[i]` for each i of `places`.

    facts: what must be equal for going on; plain values for JSON. output: what the user calls the job's results.
    """

    def __init__(self, path: Path, files: Sequence[str], places: range, *, output: str, facts: dict[str, Any]) -> None:
        self.path, self.bad_path = path, Path(f"{path}{BAD}")
        self._record = Path(f"{path}{JOB}")
        self._files, self._places, self._output, self._facts = files, places, output, facts
        self._as_csv = is_csv(output)
        self._rows: BinaryIO | None = None
        self._bad: BinaryIO | None = None
        self._last = b""
        self._is_begun, self._has_rows = False, False  # whether the record and the rows are this job's
        self.done, self.num_rows, self.num_bad = 0, 0, 0  # images answered, with a prediction, without

    @property
    def left(self) -> range:
        """The places that are not answered yet."""
        return self._places[self.done :]

    @property
    def total(self) -> int:
        """How many images are this part's."""
        return len(self._places)

    @property
    def has_record(self) -> bool:
        """Whether a job that began it has not said that it is over."""
        return self._record.exists()

    @property
    def header(self) -> bytes:
        """The first line of the rows, of none in JSON."""
        return header_bytes(Prediction.__annotations__, as_csv=self._as_csv)

    def go_on(self) -> None:
        """Takes over what a job before this one has answered; what a kill has torn is cut off.

        Without anything to go on with, the job begins anew. What was written for other inputs or by another model is a
        MismatchError, and so is a file of which nothing says how it came about.
        """
        record = self._read_record()
        if record is None:
            self.refuse_strange()
            return
        differing = [name for name, value in self._facts.items() if record.get(name) != value]
        if differing:
            raise MismatchError(f"{self._record}: the job had another {', '.join(differing)}: {_NO_ADVICE}")
        self._has_rows = record["has_rows"]
        size = self._count_rows() if self._has_rows else 0
        bad_size = self._count_bad()
        if self.num_rows == 0:
            self._has_rows = False  # begin the file anew, with its first line
        else:
            os.truncate(self.path, size)
        if self.bad_path.is_file():
            os.truncate(self.bad_path, bad_size)
        self._is_begun = True

    def refuse_strange(self) -> None:
        """Raises a MismatchError if there is a file of rows of which nothing says how it came about."""
        if not self.has_record and self.path.is_file() and self.path.stat().st_size:
            raise MismatchError(f"{self._output} is of no job to go on with: start anew without --continue")

    def check_places(self) -> None:
        """Raises an OutputError if something else is where this part keeps its files."""
        beside = (f"{self._record}{NEW}", f"{self.path}{JOINING}", f"{self.bad_path}{JOINING}")
        for place in (self.bad_path, self._record, *map(Path, beside)):
            if os.path.lexists(place) and not place.is_file():
                raise OutputError(f"{place}: is no regular file, and in the way; remove it or choose another --output")

    def _count_rows(self) -> int:
        """Counts the whole rows; returns their bytes."""
        size, count = 0, 0
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            for row in read_rows(file, as_csv=self._as_csv):
                size, count, self._last = size + len(row), count + 1, row
        self.num_rows = max(0, count - self._as_csv)
        return size

    def _count_bad(self) -> int:
        """Counts the bad images that were written down before they were passed over; returns their lines' bytes."""
        size, before_last = 0, 0
        with contextlib.suppress(FileNotFoundError), open(self.bad_path, "rb") as file:
            for line in file:
                place = line.partition(b"\t")[0]
                if not line.endswith(b"\n") or not place.isdigit() or int(place) not in self._places:
                    break
                number = self._places.index(int(place))
                if number > self.num_rows + self.num_bad:
                    break
                size, self.num_bad = size + len(line), self.num_bad + 1
                before_last += number < self.num_rows + before_last
        self.done = self.num_rows + self.num_bad
        if self.num_rows:
            self._check_last(self.num_rows - 1 + before_last)
        return size

    def _check_last(self, number: int) -> None:
        """Refuses rows whose last one is not about the image whose turn it was."""
        with contextlib.suppress(ValueError):
            if number < len(self._places):
                expected = as_bytes(self._files[self._places[number]]).decode()
                if file_name_of(self._last, as_csv=self._as_csv) == expected:
                    return
        raise MismatchError(f"{self.path} was changed since the job stopped: {_NO_ADVICE}")

    def _read_record(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._record.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict) or "has_rows" not in found:
            raise MismatchError(f"{self._record} is damaged: start anew without --continue")
        return found

    def _write_record(self, *, finished: str | None = None) -> None:
        """Replaces the record as a whole."""
        beside = Path(f"{self._record}{NEW}")
        beside.write_text(
            json.dumps(self._facts | {"has_rows": self._has_rows, "finished": finished}), encoding="utf-8"
        )
        os.replace(beside, self._record)

    def _has_rows_on_disk(self) -> bool:
        record = self._read_record()
        return record is not None and bool(record["has_rows"])

    def is_finished(self, mark: str) -> bool:
        """Whether the process that writes this part has said with `finish` that it is done."""
        record = self._read_record()
        return record is not None and record.get("finished") == mark

    def finish(self, mark: str) -> None:
        """Closes the files and leaves a mark that all is answered."""
        self._begin()
        if self._rows is not None and not _is_at(self.path, self._rows):
            raise SaveError(f"{self._output}: was removed or replaced while the job ran; begin anew")
        self.close()
        self._write_record(finished=mark)

    def take(self, *, rows: int, bad: int) -> None:
        """Takes over files that others have filled: so many rows and bad images."""
        self.num_rows, self.num_bad, self.done = rows, bad, rows + bad
        self._is_begun, self._has_rows = True, rows > 0
        self._write_record(finished="")

    def forget(self) -> None:
        """Removes the record, so that nothing goes on with this part."""
        self._record.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the part, which has been merged."""
        for path in (self._record, self.bad_path, self.path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the files; what is in them is whole."""
        for file in (self._rows, self._bad):
            if file is not None:
                file.close()

    def add(self, answers: Sequence[Prediction | ImageError]) -> None:
        """Writes the next answers. What goes wrong is a SaveError, and then files end with whole lines as well."""
        lines = [
            as_bytes(f"{self._places[self.done + i]}\t{as_field(answer.path)}\t{as_field(answer.reason)}\n")
            for i, answer in enumerate(answers)
            if isinstance(answer, ImageError)
        ]
        predictions = [answer for answer in answers if not isinstance(answer, ImageError)]
        try:
            self._begin()
            if lines:
                self._bad = self._bad or open(self.bad_path, "ab", buffering=0)  # noqa: SIM115  closed by `close`
                _append(self._bad, b"".join(lines))
            if predictions:
                _append(self._open_rows(), b"".join(row_bytes(p, as_csv=self._as_csv) for p in predictions))
        except OSError as error:
            raise SaveError(
                f"{self._output}: not written after {self.num_rows} results: {error.strerror}; make room and go on "
                "with --continue, or choose another --output"
            ) from None
        self.done, self.num_rows = self.done + len(answers), self.num_rows + len(predictions)
        self.num_bad += len(lines)

    def _begin(self) -> None:
        """Puts the record of this job in the place of what an earlier one has left, once there is an answer."""
        if not self._is_begun:
            self.forget()
            self.bad_path.unlink(missing_ok=True)
            self._write_record()
            self._is_begun = True

    def _open_rows(self) -> BinaryIO:
        """Returns the file of rows; the first one takes the place of an earlier job's."""
        if self._rows is None and self._has_rows:
            self._rows = open(self.path, "ab", buffering=0)  # noqa: SIM115  closed by `close`
        elif self._rows is None:
            self._rows = open(self.path, "wb", buffering=0)  # noqa: SIM115
            self._has_rows = True
            self._write_record()  # before any row: a file without a whole row is begun anew
            _append(self._rows, self.header)
        return self._rows

    def read(self) -> Generator[tuple[bool, bytes], None, None]:
        """Yields for each place in order whether its image is a bad one, and its line or row."""
        with contextlib.ExitStack() as files:
            bad: Iterator[bytes] = iter(
                files.enter_context(open(self.bad_path, "rb")) if self.bad_path.is_file() else ()
            )
            rows: Iterator[bytes] = iter(())
            if self._has_rows_on_disk():
                rows = read_rows(files.enter_context(open(self.path, "rb")), as_csv=self._as_csv)
                next(rows, None) if self._as_csv else None
            next_bad = next(bad, b"")
            for place in self._places:
                if next_bad.partition(b"\t")[0] == str(place).encode():
                    yield True, next_bad
                    next_bad = next(bad, b"")
                else:
                    row = next(rows, None)
                    if row is None:
                        raise MismatchError(f"{self.path} was changed while the job ran: {_NO_ADVICE}")
                    yield False, row


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file still has that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _append(file: BinaryIO, content: bytes) -> None:
    """Writes all of it, or leaves the file as it was and raises what was wrong."""
    size = os.fstat(file.fileno()).st_size
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), size)
        raise
