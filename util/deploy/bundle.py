"""The folder that `export_model.py` writes and `infer.py` reads. Imports no paddle.

    model.json      program in Paddle 3's format          model.pdiparams   parameters of both programs
    model.pdmodel   program in Paddle 2's format          export.json       hashes, input, preprocessing, classes
    model.onnx      with --format onnx                    model.int8.onnx   with --int8; both hold their own weights

The manifest is checked before any native code reads a program: Paddle Inference answers with random numbers when the
parameters are missing, and with other numbers when a bit of them is flipped.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from util.data.preprocessing import Preprocessing
from util.errors import MismatchError, MissingInputError, UsageError, WeightsError
from util.files import kind_of

MANIFEST = "export.json"
PROGRAMS = ("model.json", "model.pdmodel")
PARAMS = "model.pdiparams"
ONNX = "model.onnx"
INT8 = "model.int8.onnx"
VERSION = 3  # since 2, the manifest has a hash of its own; since 3, programs may be folded
READ_VERSIONS = (2, 3)
HINTS = {ONNX: "export_model.py --format onnx", INT8: "export_model.py --int8 CALIBRATION_FOLDER"}
OWN_HASH = "manifest_sha256"
MAX_MANIFEST = 64 << 20  # bytes; those of the models here have some ten thousand


def _check_regular(path: Path) -> None:
    """Refuses what could be opened but not read to an end: a FIFO waits for ever, a device has no end."""
    if kind_of(path) in ("folder", "other"):
        raise WeightsError(f"{path}: is not a regular file")


def file_sha256(path: Path) -> str:
    """Returns a file's sha256; one that cannot be read is a MissingInputError, a FIFO or a device a WeightsError."""
    _check_regular(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `export.json` says.

    input_shape has null for an open axis: (batch, channels, height, width). parameters are the structured names of the
    tensors in `model.pdiparams`, in its order; null for what is not a weight; none at all if weights were folded, and
    are no checkpoint's any more. numerics: the model's. int8: how `model.int8.onnx` was calibrated and how often its
    best class is fp32's; empty without it.
    """

    model: str
    input_shape: tuple[int | None, ...]
    input_dtype: str
    num_classes: int
    class_names: tuple[str, ...]
    preprocess: dict[str, Any]
    sha256: dict[str, str]
    versions: dict[str, str]
    numerics: dict[str, str | float] = field(default_factory=dict)
    parameters: tuple[str | None, ...] = ()
    int8: dict[str, int | float] = field(default_factory=dict)
    output: str = "logits"
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Writes the manifest, with a hash of its own content."""
        values = asdict(self)
        text = json.dumps(values | {OWN_HASH: content_sha256(values)}, indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def check(self) -> None:
        """Raises a ValueError where values do not have the form that the export writes."""
        if len(self.input_shape) != 4 or not all(n is None or type(n) is int for n in self.input_shape):
            raise ValueError(f"input_shape {self.input_shape}")
        size = self.preprocessing().input_size
        if any(n not in (None, given) for n, given in zip(self.input_shape[1:], size, strict=True)):
            raise ValueError(f"input_shape {self.input_shape} for images {size}")
        if len(self.class_names) != self.num_classes or not all(isinstance(n, str) for n in self.class_names):
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        if not isinstance(self.sha256, dict):
            raise ValueError("sha256 is not a table of files")
        if not all(name is None or isinstance(name, str) for name in self.parameters):
            raise ValueError("parameters are not names")
        if not isinstance(self.int8, dict):
            raise ValueError("int8 is not a table of figures")

    def preprocessing(self) -> Preprocessing:
        """Returns the preprocessing that the model was exported with."""
        return Preprocessing.from_plain(self.preprocess)


def content_sha256(values: dict[str, Any]) -> str:
    """Returns the sha256 of a manifest's fields but the hash itself, as JSON with sorted keys and no spaces.

    It finds damage, and slips of who edits the file: two names of weights swapped would fit the model as well. It is no
    signature: whoever changes the file on purpose can write the hash anew.
    """
    content = {name: value for name, value in values.items() if name != OWN_HASH}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read_fields(path: Path) -> dict[str, Any]:
    """Returns the fields of a manifest that is of this version and the content that was written."""
    _check_regular(path)
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST:
            raise WeightsError(f"{path}: damaged: {size} bytes; a manifest has at most {MAX_MANIFEST}")
        values = json.loads(path.read_bytes().decode())
        own = content_sha256(values) if isinstance(values, dict) else None
    except WeightsError:
        raise
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file; export the model with export_model.py") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: damaged: not JSON") from None
    if own is None:
        raise WeightsError(f"{path}: damaged: expected an object of JSON")
    version = values.get("version")
    if version not in READ_VERSIONS:
        known = " and ".join(map(str, READ_VERSIONS))
        raise WeightsError(f"{path}: written in version {str(version)[:20]}; this code reads {known}: export again")
    if values.pop(OWN_HASH, None) != own:
        raise WeightsError(f"{path}: damaged or edited: its content does not have its {OWN_HASH}; export again")
    return values


def read_manifest(folder: Path) -> Manifest:
    """Returns a bundle's manifest, its own hash verified.

    A missing one is a MissingInputError; a damaged, edited, older or newer one, or what is no regular file, a
    WeightsError.
    """
    path = folder / MANIFEST
    values = _read_fields(path)
    try:
        lists = {name: tuple(values[name]) for name in ("input_shape", "class_names", "parameters")}
        manifest = Manifest(**values | lists)
        manifest.preprocessing()
        manifest.check()
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged: {error}") from None
    return manifest


@dataclass(frozen=True)
class Bundle:
    """A verified program with its parameters and manifest; an ONNX program holds its own, and `params` is that file."""

    program: Path
    params: Path
    manifest: Manifest


def program_name(model_file: str | None) -> str | None:
    """Returns the name of the program or parameters that --model_file is; None for a whole export: folder, manifest."""
    if model_file is None or Path(model_file).name == MANIFEST or kind_of(Path(model_file)) == "folder":
        return None
    return Path(model_file).name


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an export holds: the names of its files, and whether its programs are folded for deployment."""

    names: frozenset[str] = frozenset({*PROGRAMS, ONNX, INT8})
    is_folded: bool = True


def look_into(model_dir: str | None, model_file: str | None) -> Contents:
    """Returns what the export holds that --model_dir or --model_file names, before anything but its manifest is read.

    What `open_bundle` will refuse counts as an export with everything.
    """
    if (model_dir is None) == (model_file is None):
        return Contents()
    folder = Path(str(model_dir if model_file is None else model_file))
    if model_file is not None and kind_of(folder) != "folder":
        folder = folder.parent
    if kind_of(folder) != "folder" or kind_of(folder / MANIFEST) == "nothing":
        return Contents()
    manifest = read_manifest(folder)
    present = frozenset(name for name in (*PROGRAMS, ONNX, INT8) if kind_of(folder / name) != "nothing")
    return Contents(names=present, is_folded=not manifest.parameters)


def open_bundle(
    model_dir: str | None, model_file: str | None, params_file: str | None, *, programs: Sequence[str] = PROGRAMS
) -> Bundle:
    """Finds and verifies an exported model.

    model_dir: the export folder; or model_file, a program in it, and optionally params_file. programs: names of which
    the first that a folder has is taken. A hash that differs from the manifest's, or what is no regular file, is a
    WeightsError; a folder without any of the programs a MissingInputError.
    """
    if (model_dir is None) == (model_file is None):
        raise UsageError("give the exported model with either --model_dir FOLDER or --model_file PROGRAM")
    if model_file is not None and kind_of(Path(model_file)) == "folder":
        model_dir, model_file = model_file, None
    elif model_file is not None and Path(model_file).name == MANIFEST:
        model_dir, model_file = str(Path(model_file).parent), None
    if model_dir is not None:
        folder = Path(model_dir)
        kind = kind_of(folder)
        if kind != "folder":
            reason = "no such folder" if kind == "nothing" else "is a file; give it with --model_file"
            raise MissingInputError(f"{folder}: {reason}")
        if params_file is not None:
            raise UsageError("--params_file goes with --model_file, not with --model_dir")
        program = next((folder / p for p in programs if kind_of(folder / p) != "nothing"), folder / programs[0])
    else:
        program = Path(str(model_file))
        if program.suffix == ".pdiparams":
            beside = (program.with_name(name) for name in programs)
            program = next((path for path in beside if kind_of(path) != "nothing"), program)
    if program.suffix == ".onnx" and params_file is not None:
        raise UsageError(f"{program.name} holds its own parameters; leave out --params_file")
    params = Path(params_file) if params_file is not None else _params_of(program)
    manifest = read_manifest(program.parent)
    if program.name in HINTS and kind_of(program) == "nothing":
        raise MissingInputError(f"{program}: no such file; export it with {HINTS[program.name]}")
    for path in (program, params):
        expected = manifest.sha256.get(path.name)
        if file_sha256(path) != expected:
            known = ", ".join(manifest.sha256)
            reason = f"is not one of {known}" if expected is None else "is damaged, or of another export"
            raise WeightsError(
                f"{path} {reason}: its sha256 is not what {program.parent / MANIFEST} says; export again"
            )
    return Bundle(program, params, manifest)


def _params_of(program: Path) -> Path:
    return program if program.suffix == ".onnx" else program.with_suffix(".pdiparams")


def check_input_size(manifest: Manifest, preprocessing: Preprocessing) -> None:
    """Refuses images of a size that the program was not exported for; Paddle would accept them silently."""
    for name, exported, given in zip("CHW", manifest.input_shape[1:], preprocessing.input_size, strict=True):
        if exported is not None and exported != given:
            raise MismatchError(
                f"the model was exported for {name} = {exported}, not {given}; leave out --input_size, or export with "
                "--dynamic_size"
            )
