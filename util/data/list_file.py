"""List files: a line `relative/path label` an image."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from util.data.class_names import MAX_REPORTED
from util.data.image_list import ImageList
from util.errors import DataError, MissingInputError, listed
from util.files import kind_of

_LABEL = re.compile(r"\s*0{0,50}[0-9]{1,9}\s*")
_LONG_LABEL = re.compile(r"\s*0*[1-9][0-9]{9,}\s*")

# What a file's first bytes say it is, when it is no list.
_NO_LISTS = {
    b"\x1f\x8b": "compressed by gzip, not a list: unpack it first (gunzip)",
    b"PK\x03\x04": "a zip archive, not a list: unpack it first (unzip)",
    b"\xff\xfe": "UTF-16, not UTF-8: save it as UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8: save it as UTF-8",
}


def read_list(path: Path, root: Path, *, num_classes: int | None = None, delimiter: str | None = None) -> ImageList:
    """Returns the images of a list file, paths relative to `root`, in the order of the lines.

    A line is split once, from the right, at white space or at `delimiter`. Blank lines, CRLF and a BOM are accepted,
    comments are not. num_classes: labels must be below it. All faults are collected into one DataError, as file:line.
    """
    paths: list[str] = []
    labels: list[int] = []
    lines: list[int] = []
    faults: list[tuple[int, str]] = []
    for number, line in _lines(path):
        fields = line.rsplit(delimiter, 1)
        fault = _line_fault(line, fields, num_classes)
        if fault:
            faults.append((number, fault + _hint(line)))
            continue
        paths.append(fields[0].strip())
        labels.append(int(fields[1]))
        lines.append(number)
    faults += _missing_files(root, paths, lines)
    faults += _labelled_twice(paths, labels, lines)
    if faults:
        told = (f"{path}:{number}: {fault}" for number, fault in sorted(faults))
        raise DataError(listed(told, MAX_REPORTED, separator="; "))
    if not paths:
        raise DataError(f"{path}: lists no images")
    return ImageList(root, paths, np.asarray(labels, np.int64), None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of the lines that are not blank, without a BOM and without white space at their ends.

    Bytes that are not UTF-8 come as surrogates. Anything but a regular file (a FIFO would block for ever) is refused.
    """
    try:
        if kind_of(path) in ("folder", "other"):
            raise DataError(f"{path}: is not a regular file")
        with open(path, "rb") as file:
            start = file.read(4)
            for magic, what in _NO_LISTS.items():
                if start.startswith(magic):
                    raise DataError(f"{path}: {what}")
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as text:
            for number, line in enumerate(text, start=1):
                stripped = line.strip()
                if stripped:
                    yield number, stripped
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None


def _line_fault(line: str, fields: list[str], num_classes: int | None) -> str | None:
    if not line.isascii() and any("\udc80" <= character <= "\udcff" for character in line):
        return f"not UTF-8, {line.encode(errors='surrogateescape')[:60]!r}"
    if len(fields) != 2:
        return f"expected `path label`, got {fields[0]!r}"
    name, label = fields
    if _LONG_LABEL.fullmatch(label):
        most = "999,999,999 at most" if num_classes is None else f"outside the {num_classes} classes"
        return f"label {label.strip()[:30]} is too large, {most}"
    if not _LABEL.fullmatch(label):
        return f"the label must be an integer of at least 0, got {label.strip()!r}"
    if num_classes is not None and int(label) >= num_classes:
        return f"label {int(label)} is outside the {num_classes} classes (0 to {num_classes - 1})"
    if not name or name.isspace():
        return f"expected `path label`, got the label {label.strip()} alone"
    if "\0" in name:
        return f"the path has a null character, {name!r}"
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        return f"the path must stay inside data_dir, got {name!r}"
    return None


def _hint(line: str) -> str:
    return " (a list has no comments: remove the line)" if line.startswith("#") else ""


def _labelled_twice(paths: list[str], labels: list[int], lines: list[int]) -> list[tuple[int, str]]:
    """An image may stand in a list several times, but not with several labels."""
    first_place: dict[str, int] = {}
    faults = []
    for i, name in enumerate(paths):
        plain = os.path.normpath(name) if "./" in name or "//" in name else name  # the rare ones, for its cost
        first = first_place.setdefault(plain, i)
        if labels[first] != labels[i]:
            faults.append((lines[i], f"{name} has label {labels[i]}, but {labels[first]} in line {lines[first]}"))
    return faults


def _missing_files(root: Path, paths: list[str], lines: list[int]) -> list[tuple[int, str]]:
    """What is not there, or is a folder. One listing a folder instead of a million calls of stat."""
    listings: dict[str, tuple[set[str], set[str]]] = {}
    faults = []
    for name, number in zip(paths, lines, strict=True):
        folder, _, file = name.rpartition("/")
        if folder not in listings:
            listings[folder] = _listing(root / folder)
        names, folders = listings[folder]
        if file not in names:
            faults.append((number, f"{root / name}: no such file{_hint(name)}"))
        elif file in folders:
            faults.append((number, f"{root / name}: is a folder, expected an image"))
    return faults


def _listing(folder: Path) -> tuple[set[str], set[str]]:
    """Returns all names in a folder, and those of folders; none where it cannot be listed."""
    names, folders = set(), set()
    with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            with contextlib.suppress(OSError):  # a link in a circle
                if entry.is_dir():
                    folders.add(entry.name)
    return names, folders
