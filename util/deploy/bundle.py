"""An exported model, as a folder or one zip of it: what `export_model.py` writes and infer, serve and bench read.

    model.json      program in Paddle 3's format          model.pdiparams   parameters of both programs
    model.pdmodel   program in Paddle 2's format          export.json       hashes, input, preprocessing, classes, card
    model.onnx      with --format onnx                    model.int8.onnx   with --int8; both hold their own weights

The manifest is checked before any native code reads a program: Paddle Inference answers with random numbers when the
parameters are missing, and with other numbers when a bit of them is flipped. Imports no paddle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util.deploy.archive import SUFFIX, unpack
from util.deploy.manifest import MANIFEST, Manifest, file_sha256, read_manifest
from util.errors import MissingInputError, UsageError, WeightsError
from util.files import kind_of

PROGRAMS = ("model.json", "model.pdmodel")
PARAMS = "model.pdiparams"
ONNX = "model.onnx"
INT8 = "model.int8.onnx"
INFERENCE_YML = "inference.yml"  # as PaddleX and PaddleClas name theirs
HINTS = {ONNX: "export_model.py --format onnx", INT8: "export_model.py --int8 CALIBRATION_FOLDER"}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an export holds: the names of its programs, and whether they are folded for deployment."""

    names: frozenset[str] = frozenset({*PROGRAMS, ONNX, INT8})
    is_folded: bool = True


@dataclass(frozen=True, kw_only=True)
class Program:
    """A verified program with its parameters; an ONNX program holds its own, and `params` is that file."""

    path: Path
    params: Path
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An exported model. Its manifest is verified; a program is when it is asked for.

    given: name of the program that the user named; None for the whole export. params: the parameters that he named.
    """

    folder: Path
    manifest: Manifest
    given: str | None = None
    params: Path | None = None

    @property
    def contents(self) -> Contents:
        """Returns what there is to choose from."""
        present = frozenset(n for n in (*PROGRAMS, ONNX, INT8) if kind_of(self.folder / n) != "nothing")
        return Contents(names=present, is_folded=not self.manifest.parameters)

    def program(self, names: Sequence[str] = PROGRAMS) -> Program:
        """Returns the program that the user named, or else the first of `names` that is there, verified.

        A hash that differs from the manifest's, or what is no regular file, is a WeightsError; an export without any of
        the programs a MissingInputError.
        """
        if self.given is None or self.given.endswith(".pdiparams"):
            present = [name for name in names if kind_of(self.folder / name) != "nothing"]
            path = self.folder / (present or names)[0]
        else:
            path = self.folder / self.given
        if path.suffix == ".onnx" and self.params is not None:
            raise UsageError(f"{path.name} holds its own parameters; leave out --params_file")
        if path.name in HINTS and kind_of(path) == "nothing":
            raise MissingInputError(f"{path}: no such file; export it with {HINTS[path.name]}")
        own = path if path.suffix == ".onnx" else path.with_suffix(".pdiparams")
        program = Program(path=path, params=self.params or own, manifest=self.manifest)
        for file in (program.path, program.params):
            self._verify(file)
        return program

    def _verify(self, file: Path) -> None:
        expected = self.manifest.sha256.get(file.name)
        if file_sha256(file) != expected:
            known = ", ".join(self.manifest.sha256)
            reason = f"is not one of {known}" if expected is None else "is damaged, or of another export"
            raise WeightsError(f"{file} {reason}: its sha256 is not what {self.folder / MANIFEST} says; export again")


def load_bundle(place: str | Path, *, params: str | Path | None = None) -> Bundle:
    """Returns an exported model, its manifest verified.

    place: the folder, a zip of it, or a file of the folder: then that program is the one to run. params: other
    parameters than those beside the program, which must be named. A missing manifest is a MissingInputError; a damaged
    or edited one a WeightsError.
    """
    place = Path(place)
    folder, given = place, None
    kind = kind_of(place)
    if kind == "nothing" and kind_of(place.parent / MANIFEST) == "nothing":
        raise MissingInputError(f"{place}: no such file or folder")
    if place.suffix == SUFFIX and kind == "file":
        folder = unpack(place)
    elif kind != "folder":
        folder, given = place.parent, None if place.name == MANIFEST else place.name
    if params is not None and (given is None or given.endswith(".pdiparams")):
        raise UsageError("--params_file goes with --model_file PROGRAM, not with a whole export")
    params = None if params is None else Path(params)
    return Bundle(folder=folder, manifest=read_manifest(folder), given=given, params=params)
