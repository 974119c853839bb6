"""Makes one HTML page of one or several runs: what they reached, how they got there, what went wrong on the way.

    python -m util.report output/train/cvt_13_224x224
    python -m util.report output/train/* --output comparison.html

Reads log.txt, train.log, events.jsonl, bad_images.tsv and args.yaml of a run's folder, as far as they are there; the
run may be going on. The page needs no network and no other file. An earlier report is written over, any other file is
not. Imports no paddle.
"""

import argparse
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from util.errors import DataError, MissingInputError, OutputError, UsageError, run_script
from util.files import kind_of
from util.log import start_logging
from util.report.page import GENERATOR, report_page
from util.report.run import read_run
from util.settings import tool_parser
from util.whole_files import create_folder, write_text

NAME = "report.html"
SUFFIX = ".html"
BEGINNING = 1000  # bytes in which GENERATOR is


def run_names(folders: Sequence[Path]) -> list[str]:
    """Returns a name a run: its folder's, or as much of the path as tells folders of the same name apart.

    It is what the bytes mean in UTF-8, whatever the locale is.
    """
    paths = [Path(os.path.abspath(folder)).parts for folder in folders]
    names = []
    for path in paths:
        length = 1
        while sum(other[-length:] == path[-length:] for other in paths) > 1 and length < len(path):
            length += 1
        names.append(os.fsencode("/".join(path[-length:])).decode("utf-8", "backslashreplace"))
    return names


def check_report_file(path: Path) -> None:
    """Refuses another suffix (UsageError), and what is no report or cannot be written (OutputError)."""
    if path.suffix != SUFFIX:
        raise UsageError(f"--output must end in {SUFFIX}; got {path}")
    if os.path.lexists(path) and not _is_report(path):
        raise OutputError(f"{path}: exists and is no report; choose another --output, or remove it")
    try:
        create_folder(Path(os.path.realpath(path)).parent)
    except OutputError as error:
        raise OutputError(f"{error}; choose another --output") from None


def _is_report(path: Path) -> bool:
    """Whether a file was written by this script, or is empty."""
    try:
        if kind_of(path) != "file":
            return False
        with path.open("rb") as file:
            beginning = file.read(BEGINNING)
    except (OSError, MissingInputError) as error:
        raise OutputError(f"{path}: cannot be written over: {error}; choose another --output") from None
    return not beginning or GENERATOR.encode() in beginning


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser("util.report", __doc__)
    parser.add_argument("runs", metavar="RUN_DIR", nargs="+", type=Path, help="folder of a run, which train.py names")
    parser.add_argument(
        "--output", metavar="HTML", type=Path, help=f"file to write (default: {NAME} in RUN_DIR, if there is only one)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    log = start_logging(is_main=True)
    folders = list({os.path.realpath(folder): folder for folder in reversed(arguments.runs)}.values())[::-1]
    if arguments.output is None and len(folders) > 1:
        raise UsageError(f"{len(folders)} runs: say with --output which file their report goes to")
    runs = []
    for folder, name in zip(folders, run_names(folders), strict=True):
        try:
            runs.append(read_run(folder, name))
        except DataError as error:
            if len(folders) == 1:
                raise
            log.warning(f"left out: {error}")
    if not runs:
        raise DataError(f"none of the {len(folders)} folders is a run")
    output = arguments.output or folders[0] / NAME
    check_report_file(output)
    write_text(output, report_page(runs, now=datetime.now(UTC)))
    for run in runs:
        log.info(f"{run.name}: {run.state()[1]}; {run.epochs_done} epochs done")
    log.info(f"report: {output}")


if __name__ == "__main__":
    run_script(main)
