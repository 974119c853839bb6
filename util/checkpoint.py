"""Looks into checkpoints, verifies them, makes them small, and averages them.

    python -m util.checkpoint list output/train/cvt_13_224x224
    python -m util.checkpoint verify output/train/*/checkpoint-best.safetensors
    python -m util.checkpoint strip CHECKPOINT --ema --output weights.safetensors
    python -m util.checkpoint average A.safetensors B.safetensors C.safetensors --output mean.safetensors

What strip and average write is for eval.py, predict.py, export_model.py, and train.py's --pretrained; a run cannot be
continued from it. Imports no paddle.
"""

import argparse
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from util.deploy.bundle import PARAMS
from util.deploy.manifest import MANIFEST, read_manifest
from util.errors import MismatchError, MissingInputError, UsageError, UserError, WeightsError, run_script
from util.files import check_new_file, kind_of
from util.settings import tool_parser
from util.tables import table_text
from util.weights import EMA, MODEL, read_weights
from util.weights.container import Container, is_container, read_container, write_container
from util.weights.state import checked_state, peek_checked_state

# of a checkpoint's state; `settings`, to resume, are not
KEPT = ("model", "preprocess", "classes", "numerics", "versions")
SUFFIX = ".safetensors"
COLUMNS = ("checkpoint", "model", "classes", "epoch", "update", "best top-1", "MB", "verified")
ALIGNMENT = "<" + ">" * 7


def collect_checkpoints(names: Sequence[str]) -> list[str]:
    """Returns the files that the names stand for: files, folders, globs; each file once.

    A folder stands for its *.safetensors; that of an export for itself, before any of those. The names' order stays;
    what a folder or a glob stands for is sorted. Nothing found, or what cannot be read, is a MissingInputError.
    """
    files: list[str] = []
    for name in names:
        if os.path.exists(name):
            found = [name]
        elif glob.has_magic(name):
            found = sorted(glob.glob(name, recursive=True))
        else:
            raise MissingInputError(f"{name}: no such file or folder")
        if not found:
            raise MissingInputError(f"{name}: nothing matches")
        for path in map(Path, found):
            files += map(str, _inside(path) if kind_of(path) == "folder" else [path])
    return list(dict.fromkeys(files))


def _inside(folder: Path) -> list[Path]:
    """Returns what a folder stands for."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise MissingInputError(f"{folder}: cannot be read: {error.strerror}") from None
    found = [folder / name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    if MANIFEST in names:
        found.insert(0, folder)
    if not found:
        below = next(folder.glob(f"*/*{SUFFIX}"), None)
        advice = "" if below is None else f"; its folders have some, such as {below.parent}"
        raise MissingInputError(f"{folder}: no {SUFFIX} files in this folder, and no export{advice}")
    return found


def read_checkpoint(path: Path) -> Container:
    """Returns a verified checkpoint that says what its weights are; a WeightsError otherwise."""
    container = read_container(path)
    checked_state(container.state, str(path))
    if not any(name.startswith(MODEL) for name in container.tensors):
        raise WeightsError(f"{path}: holds no model weights")
    return container


def check_usable(path: Path) -> None:
    """Reads a checkpoint, or the folder of an export, as a whole; a UserError says why it cannot be used."""
    if kind_of(path) == "folder":
        read_weights(path)
    else:
        read_checkpoint(path)


def _show_accuracy(progress: dict[str, Any]) -> str:
    """The best top-1 of the run so far, in percent; with a star when it was measured on the file's own weights."""
    best = progress.get("best_acc1")
    if best is None or best < 0:
        return "-"
    return f"{best:.2f}{'*' if progress.get('best_update') == progress.get('update') else ''}"


def describe(path: Path) -> tuple[str, ...]:
    """Returns a file's row of the table, fields as in `COLUMNS`."""
    model: dict[str, Any] = {}
    progress: dict[str, Any] = {}
    try:
        if kind_of(path) == "folder":
            manifest = read_manifest(path)
            model = {"name": manifest.model, "num_classes": manifest.num_classes}
        else:
            state = peek_checked_state(path)
            model, progress = state.get("model", {}), state.get("progress", {})
        verified = "yes" if kind_of(path) == "folder" or is_container(path) else "no hash"
        if verified == "yes":
            check_usable(path)
    except UserError:
        verified = "NO"
    found = (model.get("name"), model.get("num_classes"), progress.get("epoch"), progress.get("update"))
    cells = ["-" if value is None else _brief(" ".join(str(value).split())) for value in found]
    return (str(path), *cells, _show_accuracy(progress), _show_size(path), verified)


def _show_size(path: Path) -> str:
    """MB of a file, or of an export's parameters; a link to nothing has none."""
    try:
        return f"{(path / PARAMS if path.is_dir() else path).stat().st_size / 1e6:.1f}"
    except OSError:
        return "-"


def list_checkpoints(names: Sequence[str]) -> None:
    """Prints a table of what the files hold, each verified as a whole."""
    _say(table_text([COLUMNS, *(describe(Path(file)) for file in collect_checkpoints(names))], ALIGNMENT))


def verify(names: Sequence[str]) -> None:
    """Prints OK or the reason for each file.

    Any that is not whole and usable is a WeightsError at the end; a MissingInputError if none of them could be read.
    """
    files: list[str] = []
    for name in names:
        files += collect_checkpoints([name]) if os.path.isdir(name) else [name]
    bad: list[UserError] = []
    for file in files:
        try:
            check_usable(Path(file))
        except UserError as error:
            bad.append(error)
            reason = str(error)
            _say(reason if reason.startswith(file) else f"{file}: {reason}")
        else:
            _say(f"{file}: OK")
    if bad:
        kind = MissingInputError if all(isinstance(error, MissingInputError) for error in bad) else WeightsError
        raise kind(f"{len(bad)} of {len(files)} files cannot be used")


def _weights(container: Container, path: Path, *, ema: bool) -> dict[str, np.ndarray]:
    """Returns the model's tensors under the names of a checkpoint's own weights, whichever were chosen."""
    prefix = EMA if ema else MODEL
    tensors = {
        MODEL + name.removeprefix(prefix): value for name, value in container.tensors.items() if name.startswith(prefix)
    }
    if not tensors:
        raise WeightsError(f"{path}: holds no averaged weights; leave out --ema")
    return tensors


def _progress(state: dict[str, Any], *, ema: bool) -> dict[str, Any]:
    """Returns how far the run was, and the best accuracy of the chosen weights."""
    progress, suffix = state.get("progress", {}), "_ema" if ema else ""
    wanted = {"epoch": "epoch", "update": "update", "best_acc1": f"best_acc1{suffix}",
              "best_update": f"best_update{suffix}"}  # fmt: skip
    return {name: progress[source] for name, source in wanted.items() if source in progress}


def strip(file: str, *, ema: bool, output: str) -> None:
    """Writes the model's weights alone, with what eval, predict and export need.

    ema: the averaged weights, which become the model's.
    """
    target, path = check_new_file(output, suffix=SUFFIX), Path(file)
    container = read_checkpoint(path)
    state = {name: container.state[name] for name in KEPT if name in container.state}
    state["progress"] = _progress(container.state, ema=ema)
    state["made_by"] = {"command": "strip", "files": [path.name], "ema": ema}
    write_container(target, _weights(container, path, ema=ema), state)
    _say(f"{target}: {target.stat().st_size / 1e6:.1f} MB of {path.stat().st_size / 1e6:.1f} MB")


def _differences(first: Container, other: Container) -> list[str]:
    """Returns in what two checkpoints differ that must be equal to average their weights."""
    found = []
    for what in ("model", "preprocess", "classes", "numerics"):
        ours, theirs = first.state.get(what, {}), other.state.get(what, {})
        found += [
            f"{what} {key}: {_brief(ours.get(key))} and {_brief(theirs.get(key))}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
    return found


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shapes(tensors: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{list(value.shape)} {value.dtype}" for name, value in tensors.items()}


def mean_weights(files: Sequence[Path], *, ema: bool) -> tuple[dict[str, np.ndarray], Container]:
    """Returns the uniform mean of the files' weights, and the first file's content.

    BatchNorm's running statistics are averaged as the weights are. Sums are in float64; the mean has the files' own
    type. Integers must be equal. Another model, other classes, preprocessing or tensors are a MismatchError.
    """
    first = read_checkpoint(files[0])
    start = _weights(first, files[0], ema=ema)
    sums = {name: value.astype(np.float64) for name, value in start.items()}
    for path in files[1:]:
        other = read_checkpoint(path)
        differences = _differences(first, other)
        tensors = _weights(other, path, ema=ema)
        mine, theirs = _shapes(start), _shapes(tensors)
        differences += [
            f"{name}: {mine.get(name, 'missing')} and {theirs.get(name, 'missing')}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        differences += [
            f"{name}: whole numbers that differ"
            for name, value in start.items()
            if value.dtype.kind != "f" and name in tensors and not np.array_equal(value, tensors[name])
        ]
        if differences:
            more = f" (and {len(differences) - 5} more)" if len(differences) > 5 else ""
            raise MismatchError(f"{files[0]} and {path} cannot be averaged: {'; '.join(differences[:5])}{more}")
        for name, value in tensors.items():
            sums[name] += value
    return {name: (total / len(files)).astype(start[name].dtype) for name, total in sums.items()}, first


def average(files: Sequence[str], *, ema: bool, output: str) -> None:
    """Writes the uniform mean of several checkpoints' weights, as `mean_weights` says.

    The state's progress is that of the file with the most updates, without an accuracy: nobody has measured it yet.
    """
    target = check_new_file(output, suffix=SUFFIX)
    paths = [Path(file) for file in files]
    twice = [str(path) for i, path in enumerate(paths) if path.resolve() in [p.resolve() for p in paths[:i]]]
    if len(paths) < 2 or twice:
        raise UsageError(f"{twice[0]} is named twice" if twice else "average takes at least two files")
    tensors, first = mean_weights(paths, ema=ema)
    progress = max(
        (_progress(peek_checked_state(path), ema=ema) for path in paths), key=lambda found: found.get("update", -1)
    )
    state = {name: first.state[name] for name in KEPT if name in first.state}
    state["progress"] = {name: progress[name] for name in ("epoch", "update") if name in progress}
    state["made_by"] = {"command": "average", "files": [path.name for path in paths], "ema": ema}
    write_container(target, tensors, state)
    _say(f"{target}: mean of {len(paths)} checkpoints, {target.stat().st_size / 1e6:.1f} MB")


def _say(text: str) -> None:
    """Writes a result at once."""
    if sys.stdout is not None:
        sys.stdout.write(text.encode("utf-8", "backslashreplace").decode() + "\n")
        sys.stdout.flush()


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the four commands."""
    parser = tool_parser("util.checkpoint", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, writes: bool) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if writes:
            command.add_argument("--ema", action="store_true", help="the averaged weights (of --model_ema) instead")
            command.add_argument("--output", required=True, metavar="FILE", help="new .safetensors file")
        return command

    text = "a table of what checkpoints hold; best top-1 is the run's so far, * measured on these very weights"
    add("list", text, writes=False).add_argument("files", nargs="+", metavar="FILE", help="files, folders, globs")
    text = "read whole files and compare their sha256; the exit code is 65 if one cannot be used, 66 if it is missing"
    add("verify", text, writes=False).add_argument("files", nargs="+", metavar="FILE", help="files, folders")
    text = "write the model's weights alone, with what eval, predict and export need"
    add("strip", text, writes=True).add_argument("file", metavar="FILE", help="a checkpoint")
    text = "write the uniform mean of the weights and BatchNorm statistics of checkpoints of one model"
    add("average", text, writes=True).add_argument("files", nargs="+", metavar="FILE", help="at least two checkpoints")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = build_parser().parse_args(argv)
    if arguments.command == "list":
        list_checkpoints(arguments.files)
    elif arguments.command == "verify":
        verify(arguments.files)
    elif arguments.command == "strip":
        strip(arguments.file, ema=arguments.ema, output=arguments.output)
    else:
        average(arguments.files, ema=arguments.ema, output=arguments.output)


if __name__ == "__main__":
    run_script(main)
