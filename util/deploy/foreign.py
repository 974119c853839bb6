"""A program of another project, which has no `export.json`: what it takes and gives is read from the program itself.

    X.pdmodel + X.pdiparams    Paddle 2, as PaddleClas exports it
    X.json + X.pdiparams       Paddle 3
    X.onnx                     which holds its weights

Nothing says which bytes the files should have. What can be verified is, before native code reads them: that they are
whole, that the parameters are those of the program in number, order, type and shape, what images it takes, how many
classes there are, and whether a softmax is still to be taken. The rest a user says, or an `inference.yml` beside it.
Imports no paddle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.data.class_names import read_class_names
from util.data.preprocessing import CHANNELS, Preprocessing, resolve_preprocessing
from util.deploy import onnx_graph, program_desc, program_json
from util.deploy.archive import SUFFIX
from util.deploy.bundle import INFERENCE_YML, Contents, Program
from util.deploy.manifest import MANIFEST, Manifest, file_sha256
from util.deploy.params_file import check_parameters
from util.deploy.program_graph import Graph, TensorType, output_of
from util.errors import MismatchError, MissingInputError, UsageError, WeightsError
from util.files import kind_of
from util.options import PreprocessOptions
from util.prediction import Output

if TYPE_CHECKING:
    from util.deploy.inference_yml import InferenceYml

READERS = {
    ".json": program_json.read_program,
    ".pdmodel": program_desc.read_program,
    ".onnx": onnx_graph.read_program,
}
USUAL_NAMES = ("inference.json", "inference.pdmodel", "inference.onnx")


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A verified program and what its images and classes are. notes: what a user should know, a line each."""

    program: Program
    preprocessing: Preprocessing
    notes: tuple[str, ...]

    @property
    def contents(self) -> Contents:
        """Returns what there is to choose from: this program, not folded here."""
        return Contents(names=frozenset({self.program.path.name}), is_folded=False)


def find_foreign(place: Path) -> Path | None:
    """Returns the program at a place that is no export of this project, or None for what `load_bundle` takes.

    place: a program, or a folder with one of the usual names.
    """
    kind = kind_of(place)
    folder = place if kind == "folder" else place.parent
    if kind == "nothing" or place.suffix == SUFFIX or place.name == MANIFEST or kind_of(folder / MANIFEST) != "nothing":
        return None
    if kind == "folder":
        return next((place / name for name in USUAL_NAMES if kind_of(place / name) != "nothing"), None)
    if place.suffix not in READERS:
        raise UsageError(f"{place}: is no program; name a {', '.join(READERS)} with --model_file")
    return place


def load_foreign(
    path: Path, *, params: str | Path | None, preprocess: PreprocessOptions, names_file: str | None
) -> Foreign:
    """Returns another project's program, verified as far as that can be.

    params: its parameters; None: those beside it. preprocess: what is given on the command line, before what an
    `inference.yml` beside the program says; what neither says is a UsageError. names_file: as `--class_names`.
    """
    is_onnx = path.suffix == ".onnx"
    if is_onnx and params is not None:
        raise UsageError(f"{path.name} holds its own parameters; leave out --params_file")
    params = path if is_onnx else Path(params) if params is not None else path.with_suffix(".pdiparams")
    sha256 = {path.name: file_sha256(path)}
    if params != path and kind_of(params) == "nothing":
        raise MissingInputError(f"{params}: no such file; name the parameters of {path.name} with --params_file")
    sha256[params.name] = file_sha256(params)

    graph = READERS[path.suffix](path)
    if not graph.parameters:
        raise WeightsError(f"{path}: holds no weights, so it is no trained model")
    if not is_onnx:
        check_parameters(params, graph.parameters)
    shape = _input_shape(path, graph)
    num_classes, output = _output(path, graph)

    yml = _beside(path)
    if yml is not None and yml.is_ours:
        raise MissingInputError(
            f"{path.parent / MANIFEST}: no such file, but the folder is an export of this project, and only that file "
            "says which bytes the others have; copy all of the export"
        )
    preprocessing = _preprocessing(path, preprocess, shape, yml)
    class_names, named_by = _class_names(path, num_classes, names_file, yml)
    manifest = Manifest(
        model=path.stem,
        input_shape=shape,
        input_dtype="float32",
        num_classes=num_classes,
        class_names=tuple(class_names),
        preprocess=preprocessing.to_plain(),
        sha256=sha256,
        versions={},
        output=output,
    )
    notes = [f"{path.name}: another project's program, which gives {output} of {num_classes} classes, {named_by}"]
    if yml is not None and not yml.resized_by_pillow:
        notes.append(
            f"{INFERENCE_YML}: resizes with OpenCV, here it is Pillow: scores differ a little from the other tool's"
        )
    return Foreign(
        program=Program(path=path, params=params, manifest=manifest), preprocessing=preprocessing, notes=tuple(notes)
    )


def _beside(path: Path) -> "InferenceYml | None":
    """Returns what an `inference.yml` beside a program says, if there is one; it alone needs PyYAML."""
    if kind_of(path.parent / INFERENCE_YML) == "nothing":
        return None
    from util.deploy.inference_yml import read_inference_yml

    return read_inference_yml(path.parent / INFERENCE_YML)


def reopen(place: str, params: str, manifest: dict[str, Any]) -> Program:
    """Returns a program that another process verified: its files must still be the same; else a WeightsError.

    manifest: plain values of the one that `load_foreign` made.
    """
    program = Program(path=Path(place), params=Path(params), manifest=Manifest.from_plain(manifest))
    for file in {program.path, program.params}:
        if file_sha256(file) != program.manifest.sha256[file.name]:
            raise WeightsError(f"{file}: has changed since it was verified")
    return program


def _one(path: Path, tensors: dict[str, TensorType], what: str) -> tuple[str, TensorType]:
    """Returns the one tensor that a program takes or gives, of float32."""
    if len(tensors) != 1:
        raise WeightsError(f"{path}: has {len(tensors)} {what}s; an image classifier has one")
    ((name, kind),) = tensors.items()
    if kind.dtype != "float32":
        raise WeightsError(f"{path}: its {what} is {kind}; expected float32")
    return name, kind


def _input_shape(path: Path, graph: Graph) -> tuple[int | None, ...]:
    _, kind = _one(path, graph.inputs, "input")
    if len(kind.shape) != 4 or kind.shape[1] not in CHANNELS or 0 in kind.shape:
        raise WeightsError(f"{path}: its input is {kind}; expected images (batch, 3 or 1, height, width)")
    return kind.shape


def _output(path: Path, graph: Graph) -> tuple[int, Output]:
    """Returns the number of classes, and whether a softmax is still to be taken."""
    name, kind = _one(path, graph.outputs, "output")
    if len(kind.shape) != 2 or not kind.shape[1]:
        raise WeightsError(f"{path}: its output is {kind}; expected (batch, classes)")
    try:
        return kind.shape[1], output_of(graph, name)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _preprocessing(
    path: Path, options: PreprocessOptions, shape: tuple[int | None, ...], yml: "InferenceYml | None"
) -> Preprocessing:
    """Returns what is given, else what the file says; the program itself tells channels, and a fixed size."""
    _, channels, height, width = shape
    implied: dict[str, Any] = {"crop_mode": "center"} | (yml.preprocess if yml is not None else {})
    if height is not None and width is not None:
        said = implied.setdefault("input_size", (channels, height, width))
    else:
        said = implied.get("input_size")
    if options.crop_mode == "squash":
        implied["crop_pct"] = 1.0
    names = ("input_size", "crop_pct", "interpolation", "mean", "std")
    missing = [name for name in names if name not in implied and getattr(options, name) is None]
    if missing:
        raise UsageError(
            f"{path}: nothing beside it says how its images are prepared; give {' '.join(f'--{n}' for n in missing)}"
        )
    implied |= {name: () for name in ("mean", "std") if name not in implied}
    preprocessing = resolve_preprocessing(options, implied | {"input_size": said or (channels, 1, 1)})
    if any(n not in (None, given) for n, given in zip(shape[1:], preprocessing.input_size, strict=True)):
        expected = " x ".join("?" if side is None else str(side) for side in shape[1:])
        raise MismatchError(
            f"{path}: takes images of {expected} (channels, height, width), but they would be prepared as "
            f"{' x '.join(map(str, preprocessing.input_size))}; change --input_size"
        )
    return preprocessing


def _class_names(
    path: Path, num_classes: int, names_file: str | None, yml: "InferenceYml | None"
) -> tuple[Sequence[str], str]:
    """Returns the names of the classes, and who gave them."""
    if names_file is not None:
        return read_class_names(Path(names_file), num_classes), f"named by {names_file}"
    if yml is None or yml.class_names is None:
        return [str(i) for i in range(num_classes)], "named by their numbers, as --class_names is not given"
    if len(yml.class_names) != num_classes:
        raise MismatchError(
            f"{path.parent / INFERENCE_YML}: names {len(yml.class_names)} classes, but {path.name} has {num_classes}; "
            "give --class_names FILE"
        )
    return yml.class_names, f"named by {INFERENCE_YML}"
