"""Splits a folder of class folders into training and validation images, by writing lists; no image is moved or copied.

    python -m util.data.split FOLDER [--val 0.1] [--seed 42] [--output DIR] [--force]

FOLDER holds `<class>/<image>`. Written are `train_list.txt` and `val_list.txt`, lines `path label` with paths relative
to FOLDER and classes numbered by sorted folder names, and `class_names.txt`, lines `id name`. Imports no paddle.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util.data.image_list import ImageList
from util.data.splits import MAX_REPORTED, scan_folder
from util.errors import DataError, MissingInputError, OutputError, SaveError, UsageError, listed, run_script
from util.log import start_logging
from util.settings import tool_parser

TRAIN, VAL, NAMES = "train_list.txt", "val_list.txt", "class_names.txt"


@dataclass(frozen=True)
class Split:
    """Both lists as lines `path label`, and the names of the classes that have a single image, which is in training."""

    train: list[str]
    val: list[str]
    class_names: list[str]
    single: list[str]


def split_folder(folder: Path, *, val: float, seed: int) -> Split:
    """Divides the images of each class folder.

    val: part of each class that is for validation, rounded, but at least one image and never all; a class with a single
    image keeps it for training. Which images follows from the seed and their paths alone, so that adding some leaves
    most of the others where they are.
    """
    images = _scan(folder)
    names = images.class_names or []
    by_class: list[list[str]] = [[] for _ in names]
    for path, label in zip(images.paths, images.labels, strict=True):
        by_class[label].append(path)
    for_validation: set[str] = set()
    for paths in by_class:
        count = min(max(round(val * len(paths)), 1), len(paths) - 1)
        for_validation.update(sorted(paths, key=lambda path: _draw(path, seed))[:count])
    lines: dict[bool, list[str]] = {False: [], True: []}
    for label, paths in enumerate(by_class):
        for path in paths:
            lines[path in for_validation].append(f"{path} {label}")
    single = [name for name, paths in zip(names, by_class, strict=True) if len(paths) == 1]
    return Split(lines[False], lines[True], names, single)


def _scan(folder: Path) -> ImageList:
    """Returns the images of the class folders, their names checked: a line of a list must give them back."""
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: no such folder")
    train = folder / "train"
    if train.is_dir() and any(entry.is_dir() for entry in train.iterdir()):
        raise UsageError(f"{folder} is split already, it has class folders in {train}: train with train.py {folder}")
    images = scan_folder(folder, "")
    wrong = [path for path in (*(images.class_names or []), *images.paths) if not _fits_a_line(path)]
    if wrong:
        names = listed(map(repr, wrong), MAX_REPORTED)
        raise DataError(
            f"{folder}: {names} cannot stand in a list file (line break, white space at an end, or not UTF-8); rename"
        )
    return images


def _fits_a_line(name: str) -> bool:
    is_utf8 = name.encode("utf-8", "replace").decode("utf-8") == name
    return is_utf8 and name.splitlines() == [name] and name.strip() == name


def _draw(path: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {path}".encode()).digest()


def write_split(split: Split, output: Path, *, force: bool) -> None:
    """Writes the three files to the folder `output`, none unless all can be written beside their places first.

    One that is there already is an OutputError, unless `force`; a full disk is a SaveError.
    """
    texts = {
        TRAIN: split.train,
        VAL: split.val,
        NAMES: [f"{label} {name}" for label, name in enumerate(split.class_names)],
    }
    folders = [str(output / name) for name in texts if (output / name).is_dir()]
    if folders:
        raise OutputError(f"{', '.join(folders)}: a folder; remove it, or choose another --output")
    there = [str(output / name) for name in texts if os.path.lexists(output / name)]
    if there and not force:
        raise OutputError(f"{', '.join(there)}: already there; --force overwrites, --output DIR writes elsewhere")
    beside = {name: output / f".tmp-{os.getpid()}-{name}" for name in texts}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, lines in texts.items():
            beside[name].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for name in texts:
            beside[name].replace((output / name).resolve())  # a link stays one
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise SaveError(
                f"{output}: no list was written: {error.strerror}; make room or choose another --output, and run again"
            ) from None
        raise OutputError(f"{output}: cannot be written: {error.strerror}; choose another --output") from None
    finally:
        for path in beside.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser("util.data.split", __doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="holds a folder of images for each class")
    parser.add_argument("--val", type=float, default=0.1, help="part of each class for validation (default: 0.1)")
    parser.add_argument("--seed", type=int, default=42, help="chooses the images (default: 42)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where to write the lists (default: FOLDER)")
    parser.add_argument("--force", action="store_true", help="overwrite lists that are there")
    arguments = parser.parse_args(argv)
    if not 0.0 < arguments.val < 1.0:
        raise UsageError(f"--val must be above 0 and below 1; got {arguments.val}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    log = start_logging(is_main=True)
    split = split_folder(arguments.folder, val=arguments.val, seed=arguments.seed)
    output = arguments.output or arguments.folder
    if not split.val:
        raise DataError(f"{arguments.folder}: every class has a single image; none is left for validation")
    write_split(split, output, force=arguments.force)
    if split.single:
        names = listed(split.single, MAX_REPORTED)
        log.warning(f"a single image, which is for training, so that validation lacks these classes: {names}")
    log.info(
        f"{output}: {len(split.train):,} training and {len(split.val):,} validation images of "
        f"{len(split.class_names)} classes"
    )
    command = shlex.join(
        ["python", "train.py", str(arguments.folder), "--cls_label_path_train", str(output / TRAIN),
         "--cls_label_path_val", str(output / VAL), "--class_names", str(output / NAMES)]
    )  # fmt: skip
    log.info(f"train on them: {command} --config CONFIG")


if __name__ == "__main__":
    run_script(main)
