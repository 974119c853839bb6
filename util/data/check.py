"""Decodes every image of a data set once, and writes an index for each split, which training then reads.

    python -m util.data.check DIR [--split train --split val] [--num_workers N] [--output FOLDER]
    python -m util.data.check DIR --cls_label_path_train LIST --cls_label_path_val LIST
    python -m util.data.check DIR --verify

DIR/<split>.index.safetensors holds the images, their labels, and each file's size and sha256. Images that cannot be
read are listed with the reason in <split>.bad_images.tsv beside it, and the exit code is 65. --verify reads all files
again and names those that have changed. Imports no paddle.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType

import numpy as np

from util.data.bad_list import check_bad_list, remove_bad_list, write_bad_list
from util.data.checked import Checked, summary, warn_of_twins
from util.data.image_list import ImageList
from util.data.index import FileFacts, check_folders, check_index_place, has_index, index_path, read_index, write_index
from util.data.inspection import FileFact, inspect_files
from util.data.lost import first_missing
from util.data.splits import find_list, load_split
from util.errors import (
    TERMINATED,
    DataError,
    MissingInputError,
    OutputError,
    ResumableError,
    Stopped,
    UsageError,
    listed,
    run_script,
)
from util.files import as_field
from util.libraries import tqdm
from util.log import start_logging
from util.options.data import LoaderOptions
from util.settings import tool_parser

MAX_NAMED = 20  # files named on standard error
SECONDS_BETWEEN_LINES = 30.0  # of progress, where there is no terminal


def check_split(images: ImageList, *, split: str, num_workers: int, timeout: float, log: logging.Logger) -> Checked:
    """Reads and decodes every image of a split. timeout: seconds for one image, where processes read."""
    count = len(images)
    lengths, digests = np.full(count, -1, np.int64), np.zeros((count, 32), np.uint8)
    dimensions = np.zeros((count, 2), np.int64)
    reasons: dict[int, str] = {}
    facts = inspect_files(images, num_workers=num_workers, decode=True, timeout=timeout)
    for index, fact in _with_progress(facts, len(images), split=split, log=log):
        lengths[index], digests[index] = fact.size, np.frombuffer(fact.digest, np.uint8)
        dimensions[index] = fact.width, fact.height
        if fact.reason is not None:
            reasons[index] = fact.reason
    return Checked(split, images, FileFacts(lengths, digests, dict(sorted(reasons.items()))), dimensions)


def _with_progress(
    facts: Generator[tuple[int, FileFact], None, None], count: int, *, split: str, log: logging.Logger
) -> Generator[tuple[int, FileFact], None, None]:
    """Yields what `inspect_files` does, with a bar on a terminal and a line now and then elsewhere."""
    began = last = time.monotonic()
    with contextlib.closing(facts), tqdm(total=count, desc=split, unit="image", leave=False, disable=None) as bar:
        for done, found in enumerate(facts, start=1):
            bar.update()
            now = time.monotonic()
            if bar.disable and now - last > SECONDS_BETWEEN_LINES:
                last = now
                log.info(f"{split}: {done:,} of {count:,} images, {done / (now - began):,.0f} a second")
            yield found
    seconds = max(time.monotonic() - began, 1e-3)
    log.info(f"{split}: {count:,} images read in {seconds:,.1f} s, {count / seconds:,.0f} a second")


# --- verifying


def verify_split(
    folder: Path, root: Path, split: str, *, num_workers: int, timeout: float, log: logging.Logger
) -> list[str]:
    """Returns `path: what` of each file that is not what it was when its index in `folder` was written."""
    path = index_path(folder, split)
    if not has_index(path, root):
        raise MissingInputError(f"{path}: no such index; write it first: without --verify")
    index = read_index(path, root)
    check_folders(index)
    changed = []
    facts = inspect_files(index.images, num_workers=num_workers, decode=False, timeout=timeout)
    for i, fact in _with_progress(facts, len(index.images), split=split, log=log):
        if fact.digest != index.files.digests[i].tobytes():
            changed.append((i, fact.reason or "is not what it was"))
    return [f"{as_field(index.images.path(i))}: {reason}" for i, reason in sorted(changed)]


# --- the command


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser("util.data.check", __doc__)
    add = parser.add_argument
    add("data_dir", metavar="DIR", type=Path, help="the data set, as train.py takes it")
    add("--split", action="append", metavar="NAME", help="folder under DIR, repeatable (default: train and val)")
    for split in ("train", "val"):
        add(f"--cls_label_path_{split}", metavar="LIST", help=f"list file of {split}, as train.py takes it")
    add("--delimiter", help="what separates path and label in a list file (default: white space)")
    add("--num_workers", "-j", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one a core)")
    add(
        "--data_timeout", metavar="SECONDS", type=float,
        help="a process that needs longer for one image is named, and ends the command "
        f"(default: {LoaderOptions.data_timeout:g})",
    )  # fmt: skip
    add("--output", metavar="FOLDER", type=Path, help="where to write the index (default: DIR)")
    add("--bad_list", metavar="TSV", type=Path, help="file for unreadable images (default: beside the index)")
    add("--verify", action="store_true", help="compare all files with the index, and write nothing")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.num_workers <= 1024:
        raise UsageError(f"--num_workers must be in [0, 1024]; got {arguments.num_workers}")
    if not arguments.data_dir.exists():
        raise MissingInputError(f"{arguments.data_dir}: no such data folder")
    _refuse_without_effect(arguments)
    if arguments.data_timeout is None:
        arguments.data_timeout = LoaderOptions.data_timeout
    if not arguments.data_timeout > 0:
        raise UsageError(f"--data_timeout must be positive; got {arguments.data_timeout}")
    return arguments


def _refuse_without_effect(arguments: argparse.Namespace) -> None:
    """Raises a UsageError for an option that would change nothing, since another one is there."""
    if arguments.verify:
        for name in ("bad_list", "delimiter", "cls_label_path_train", "cls_label_path_val"):
            if getattr(arguments, name) is not None:
                raise UsageError(
                    f"--{name} has no effect with --verify, which writes nothing and takes the images from the index; "
                    f"leave out --{name}, or --verify to check anew"
                )
    for split in ("train", "val"):
        if _list_option(arguments, split) is not None and split not in (arguments.split or (split,)):
            raise UsageError(
                f"--cls_label_path_{split} has no effect: {split} is not among the splits to check; "
                f"add --split {split}, or leave the list out"
            )
    if arguments.data_timeout is not None and arguments.num_workers == 0:
        raise UsageError(
            "--data_timeout has no effect with --num_workers 0, where nobody watches; leave out one of them"
        )


def _splits(arguments: argparse.Namespace) -> list[str]:
    """Returns the splits to check: those named, else those of train and val that there are."""
    if arguments.split:
        return list(dict.fromkeys(arguments.split))
    root = arguments.data_dir
    indexed = arguments.output or root if arguments.verify else root
    there = {
        split: (root / split).is_dir()
        or _list_option(arguments, split) is not None
        or os.path.lexists(index_path(indexed, split))
        for split in ("train", "val")
    }
    found = [split for split, is_there in there.items() if is_there]
    if not found:
        raise MissingInputError(f"{root}: has neither train nor val; name its splits with --split")
    return found


def _list_option(arguments: argparse.Namespace, split: str) -> str | None:
    return getattr(arguments, f"cls_label_path_{split}") if split in ("train", "val") else None


def _check_writable(folder: Path, splits: Sequence[str]) -> None:
    for split in splits:
        check_index_place(index_path(folder, split))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(prefix=".tmp-", dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be written: {error.strerror}; --output FOLDER puts the index elsewhere"
        ) from None


def _refuse_lost(checked: Checked) -> None:
    """Raises a ResumableError if images could not be read because their folder went away; an index would lie."""
    for i in checked.files.reasons:
        missing = first_missing(checked.images.holder(i)) if checked.files.sizes[i] < 0 else None
        if missing is not None:
            raise ResumableError(f"{missing}: is not there any more; no index of {checked.split} was written")


def _check_and_write(arguments: argparse.Namespace, split: str, folder: Path, log: logging.Logger) -> Checked:
    """Checks a split and writes its index."""
    root, option = arguments.data_dir, _list_option(arguments, split)
    scanned = time.time_ns()
    images = load_split(str(root), split, list_path=option, delimiter=arguments.delimiter, use_index=False)
    if images.pixels is not None:
        raise UsageError(f"{images.root}: archives of CIFAR are verified when they are read, and need no index")
    if images.shards is not None:
        raise UsageError(f"{root}: tar shards of {split} have an index of their own: python -m util.data.shard --help")
    checked = check_split(
        images, split=split, num_workers=arguments.num_workers, timeout=arguments.data_timeout, log=log
    )
    _refuse_lost(checked)
    path = index_path(folder, split)
    write_index(
        path,
        images,
        checked.files,
        split=split,
        scanned=scanned,
        list_file=find_list(root, split, option),
        list_option=None if option is None else f"--cls_label_path_{split}",
        delimiter=arguments.delimiter,
    )
    log.info(summary(checked))
    log.info(f"{split}: index in {path}")
    return checked


def _name(lines: Sequence[str]) -> None:
    """Names files on standard error, the first of them."""
    named = listed(lines, MAX_NAMED, separator="\n  ")
    tqdm.write(f"  {named}", file=sys.stderr)


def _bad_list_path(folder: Path, split: str) -> Path:
    index = index_path(folder, split)
    return index.with_name(index.name.replace(".index.safetensors", ".bad_images.tsv"))


def _check(arguments: argparse.Namespace, log: logging.Logger, *, written: list[str]) -> None:
    """Checks all splits. written: gets the name of each whose index is written."""
    folder = arguments.output or arguments.data_dir
    splits = _splits(arguments)
    lists = [find_list(arguments.data_dir, split, _list_option(arguments, split)) for split in splits]
    if arguments.delimiter is not None and not any(lists):
        raise UsageError("--delimiter has no effect: no list file is read; leave it out, or name a list")
    _check_writable(folder, splits)
    named = arguments.bad_list
    for path in [_bad_list_path(folder, split) for split in splits] if named is None else [named]:
        check_bad_list(path)
    found: list[Checked] = []
    for split in splits:
        found.append(_check_and_write(arguments, split, folder, log))
        written.append(split)
        place = _bad_list_path(folder, split)
        if arguments.bad_list is None and found[-1].bad:
            write_bad_list(place, found[-1].bad)
        elif arguments.bad_list is None:
            remove_bad_list(place)
    for number, one in enumerate(found, start=1):
        warn_of_twins(one, one, log)
        for other in found[number:]:
            warn_of_twins(one, other, log)
    bad = [row for checked in found for row in checked.bad]
    if named is not None:
        write_bad_list(named, bad)
    if bad:
        _name([f"{as_field(path)}: {as_field(reason)}" for path, reason in bad])
        where = named or " and ".join(str(_bad_list_path(folder, checked.split)) for checked in found if checked.bad)
        total = sum(len(c.images) for c in found)
        raise DataError(
            f"{len(bad):,} of {total:,} images cannot be read, all listed in {where}; repair or remove them, and check "
            "again"
        )


@contextlib.contextmanager
def _ending_on_sigterm(left: Callable[[], str]) -> Iterator[None]:
    """Makes SIGTERM end what it interrupts, as Ctrl-C does, with a line. left: says what is there then."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough, and the workers are still to be ended
        raise Stopped(f"stopped by {signal.Signals(number).name}; {left()}", exit_code=TERMINATED)

    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _verify(arguments: argparse.Namespace, log: logging.Logger) -> None:
    folder = arguments.output or arguments.data_dir
    changed = [
        line
        for split in _splits(arguments)
        for line in verify_split(
            folder,
            arguments.data_dir,
            split,
            num_workers=arguments.num_workers,
            timeout=arguments.data_timeout,
            log=log,
        )
    ]
    if changed:
        _name(changed)
        raise DataError(f"{len(changed):,} files are not what they were when they were checked; restore them")
    log.info("all files are what they were when they were checked")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    log = start_logging(is_main=True)
    written: list[str] = []
    if arguments.verify:
        with _ending_on_sigterm(lambda: "not all files were compared"):
            _verify(arguments, log)
        return
    with _ending_on_sigterm(
        lambda: f"written is the index of {' and '.join(written)}" if written else "no index was written"
    ):
        _check(arguments, log, written=written)


if __name__ == "__main__":
    run_script(main)
