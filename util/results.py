"""Files of predictions: a row an image, in the order of the images; whole rows are told from a torn one."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

SUFFIXES = (".jsonl", ".csv")


def is_csv(output: str | Path) -> bool:
    """Whether a results file has rows of CSV; the others have a JSON object a line."""
    return Path(output).suffix == ".csv"


def row_bytes(prediction: Mapping[str, Any], *, as_csv: bool) -> bytes:
    """Returns a row: an object of JSON, or fields of CSV with lists as JSON; what is not UTF-8 is escaped."""
    if not as_csv:
        return as_bytes(json.dumps(prediction, ensure_ascii=False) + "\n")
    return _csv_row([v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in prediction.values()])


def header_bytes(names: Mapping[str, Any], *, as_csv: bool) -> bytes:
    """Returns the first line: the names of a CSV file's columns, nothing for JSON."""
    return _csv_row(list(names)) if as_csv else b""


def _csv_row(fields: list[str]) -> bytes:
    import csv  # most jobs write none

    text = io.StringIO(newline="")
    csv.writer(text).writerow(fields)
    return as_bytes(text.getvalue())


def as_bytes(text: str) -> bytes:
    """Returns text as UTF-8, with a backslash for what cannot be: names of files that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace")


def read_rows(file: IO[bytes], *, as_csv: bool) -> Iterator[bytes]:
    """Yields the whole rows of a results file, a CSV file's first line among them; a torn last one is left out.

    A field of CSV in quotes may hold ends of lines: a row ends where it has an even number of quotes.
    """
    begun = b""
    for line in file:
        begun += line
        if line.endswith(b"\n") and not (as_csv and begun.count(b'"') % 2):
            yield begun
            begun = b""


def file_name_of(row: bytes, *, as_csv: bool) -> str:
    """Returns the image of a row that is no first line, as it stands there; a ValueError if it is no row."""
    text = row.decode("utf-8")
    if as_csv:
        import csv

        try:
            fields = next(csv.reader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise ValueError(error) from None
        if len(fields) != 4:
            raise ValueError(f"{len(fields)} fields")
        return fields[2]
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("file_name"), str):
        raise ValueError("no file_name")
    return as_bytes(value["file_name"]).decode()
