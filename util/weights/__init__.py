"""Loading weights into a model, strictly, from every source that is understood.

    this project's checkpoints and exports; plain safetensors
    CvT-paddle, PaddleClas      .pd, .pdparams
    microsoft/CvT, timm         .pth, .bin, .safetensors
    Hugging Face                .bin, .safetensors
    MindCV                      .ckpt

What a file is, its content says, not its name. Layers: the file's format (`container`, `formats`, an export's
manifest), its names and layout (`names`), its fit to the model (`channels`, `positions`, `set_weights`). Imports no
paddle at module level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from util.deploy.bundle import load_bundle
from util.deploy.manifest import MANIFEST
from util.errors import MismatchError, MissingInputError, WeightsError
from util.files import kind_of
from util.weights.channels import adapt_channels, can_adapt
from util.weights.container import is_container, read_container
from util.weights.exported import read_parameters
from util.weights.formats import MAX_LISTED, detect_format, read_raw
from util.weights.names import to_official
from util.weights.positions import fit_positions
from util.weights.state import checked_state

if TYPE_CHECKING:
    from paddle import nn

__all__ = [
    "EMA", "MODEL", "Loaded", "LoadedWeights", "WeightsError", "apply_weights", "load_pretrained", "load_weights",
    "read_weights", "recognise", "set_numerics", "set_weights",
]  # fmt: skip

MODEL, EMA = "model/", "ema/"
HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors of one model by official name in Paddle's layout, and what is known about them.

    state: what a checkpoint or an export of this project says; empty for other files. preprocess: the part of the
    preprocessing that the file implies. numerics: what the model must be told by `set_numerics`, if that is known.
    origin: whose file it is. average_left: whether the file has averaged weights that are not these.
    """

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    numerics: dict[str, Any] = field(default_factory=dict)
    origin: str = "this project"
    average_left: bool = False

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images that a checkpoint was trained on, where it says so."""
        size = self.state.get("preprocess", {}).get("input_size")
        return None if size is None else (size[1], size[2])


def read_weights(path: str | Path, *, use_ema: bool = False) -> LoadedWeights:
    """Returns the weights in a file, or in the folder of an export.

    use_ema: the averaged ones; a WeightsError when there are none. A file that asks for code to be run is an
    UntrustedFileError, a damaged or unknown one a WeightsError.
    """
    path = Path(path)
    read = {"export": _read_export, "checkpoint": _read_checkpoint, "foreign": _read_foreign}[recognise(path)]
    weights = read(path, use_ema=use_ema)
    _check_head(weights.tensors, str(path))
    return weights


def recognise(path: Path) -> Literal["export", "checkpoint", "foreign"]:
    """Returns what a path holds, by its content, which is not verified yet.

    Nothing there, or what cannot be read, is a MissingInputError; what no known project writes, a WeightsError.
    """
    if _is_export(path):
        return "export"
    return "checkpoint" if detect_format(path) == "safetensors" and is_container(path) else "foreign"


def _is_export(path: Path) -> bool:
    """Whether a path is a folder, or a file of the folder, that export_model.py wrote."""
    if kind_of(path) == "folder":
        if kind_of(path / MANIFEST) == "nothing":
            raise MissingInputError(f"{path}: is a folder, without {MANIFEST} of an exported model; name a file in it")
        return True
    return path.name == MANIFEST or (path.suffix == ".pdiparams" and kind_of(path.with_name(MANIFEST)) != "nothing")


def _read_export(path: Path, *, use_ema: bool) -> LoadedWeights:
    if use_ema:
        raise WeightsError(f"{path}: an export holds one set of weights; leave out --use_ema")
    program = load_bundle(path).program()
    manifest = program.manifest
    state = {
        "model": {"name": manifest.model, "num_classes": manifest.num_classes},
        "preprocess": manifest.preprocess,
        "classes": {"folders": None, "names": list(manifest.class_names)},
        "numerics": manifest.numerics,
        "card": asdict(manifest.card),
    }
    checked_state(state, str(path))
    tensors = read_parameters(program.params, manifest.parameters)
    return LoadedWeights(tensors, state, manifest.preprocess, manifest.numerics)


def _read_checkpoint(path: Path, *, use_ema: bool) -> LoadedWeights:
    container = read_container(path)
    state = checked_state(container.state, str(path))
    prefix = EMA if use_ema else MODEL
    tensors = {k.removeprefix(prefix): v for k, v in container.tensors.items() if k.startswith(prefix)}
    if not tensors:
        what = "averaged weights; leave out --use_ema" if use_ema else "model weights"
        raise WeightsError(f"{path}: holds no {what}")
    average_left = not use_ema and any(name.startswith(EMA) for name in container.tensors)
    return LoadedWeights(
        tensors, state, state["preprocess"], state.get("numerics", {}), average_left=average_left
    )  # fmt: skip


def _read_foreign(path: Path, *, use_ema: bool) -> LoadedWeights:
    raw = read_raw(path)
    if use_ema and raw.averaged is None:
        raise WeightsError(f"{path}: has no averaged weights; leave out --use_ema")
    official = to_official(raw.averaged if use_ema and raw.averaged is not None else raw.tensors, source=str(path))
    origin = f"{raw.format} file, {official.origin}"
    average_left = not use_ema and raw.averaged is not None and raw.averaged is not raw.tensors
    return LoadedWeights(
        official.tensors, {}, dict(official.preprocess), dict(official.numerics), origin, average_left
    )  # fmt: skip


def _check_head(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Refuses a classification head that fits no number of classes."""
    weight, bias = (tensors.get(name) for name in HEAD)
    shapes = {name: list(tensors[name].shape) for name in HEAD if name in tensors}
    is_matrix = weight is None or (weight.ndim == 2 and weight.size > 0)
    is_vector = bias is None or (bias.ndim == 1 and bias.size > 0)
    if not is_matrix or not is_vector or (weight is not None and bias is not None and weight.shape[1] != len(bias)):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise WeightsError(
            f"{source}: damaged: expected head.weight [features, classes] and head.bias [classes], got {found}"
        )


def set_weights(
    model: "nn.Layer",
    tensors: Mapping[str, np.ndarray],
    *,
    source: str,
    replaceable: Sequence[str] = (),
    absent: Sequence[str] = (),
) -> list[str]:
    """Copies tensors into a model, all or nothing.

    replaceable: names of which a wrongly shaped tensor is left out instead (a head for other classes). absent: names
    that the file need not have (a head). The names that kept the model's values are returned. Any other difference is
    a WeightsError with the missing, unexpected and wrongly shaped names.
    """
    own = model.state_dict()
    wrong = [k for k in own if k in tensors and tuple(own[k].shape) != tuple(tensors[k].shape)]
    left_out = [k for k in own if (k in wrong and k in replaceable) or (k not in tensors and k in absent)]
    problems = {
        "missing": [k for k in own if k not in tensors and k not in left_out],
        "unexpected": [k for k in tensors if k not in own],
        "not floating point": [k for k in own if k in tensors and tensors[k].dtype.kind != "f"],
        "wrong shape": [
            f"{k} {list(tensors[k].shape)} instead of {list(own[k].shape)}" for k in wrong if k not in left_out
        ],
    }
    if any(problems.values()):
        lines = (
            f"{kind} ({len(names)}): {', '.join(names[:MAX_LISTED])}{', ...' if len(names) > MAX_LISTED else ''}"
            for kind, names in problems.items()
            if names
        )
        raise WeightsError(f"{source} does not fit the model\n  " + "\n  ".join(lines))
    for name, parameter in own.items():
        if name not in left_out:
            parameter.set_value(np.ascontiguousarray(tensors[name]).astype(np.float32, copy=False))
    return left_out


def set_numerics(model: "nn.Layer", numerics: Mapping[str, Any], *, source: str) -> None:
    """Tells a model how the weights want to be computed, where a file says it; otherwise the model stays as it is."""
    if numerics:
        _check_numerics(model, numerics, source)
        model.set_numerics(**numerics)


def _check_numerics(model: "nn.Layer", numerics: Mapping[str, Any], source: str) -> None:
    if numerics and not model.numerics():
        raise WeightsError(f"{source}: says {dict(numerics)}, of which this model knows nothing")


def apply_weights(model: "nn.Layer", weights: LoadedWeights, *, source: str) -> list[str]:
    """Does to a model what `load_weights` promises, with weights that were read."""
    tensors, notes = fit_positions(model, weights.tensors, image_size=weights.image_size)
    _check_numerics(model, weights.numerics, source)
    set_weights(model, tensors, source=source)
    set_numerics(model, weights.numerics, source=source)
    return notes


def load_weights(model: "nn.Layer", path: str | Path) -> list[str]:
    """Loads a file's weights, strictly; a WeightsError lists missing, unexpected and wrongly shaped names.

    Tables of positions are fitted to the model's image size; a line about each that was is returned. The model computes
    as the weights were trained from then on (`set_numerics`).
    """
    return apply_weights(model, read_weights(path), source=str(path))


@dataclass(frozen=True)
class Loaded:
    """What `load_pretrained` did not take from the file as it is: names of parameters, and notes on positions."""

    new_head: list[str]
    adapted: list[str]
    headless: bool = False  # the file has no head at all
    positions: list[str] = field(default_factory=list)
    preprocess: dict[str, Any] = field(default_factory=dict)  # what the file implies
    average_left: bool = False  # the file has averaged weights, too

    def __str__(self) -> str:
        why = "are not in the file" if self.headless else "had another shape"
        head = f"; a new head: {', '.join(self.new_head)} {why}" if self.new_head else ""
        channels = f"; for another number of channels: {', '.join(self.adapted)}" if self.adapted else ""
        return head + channels + "".join(f"; {note}" for note in self.positions)


def load_pretrained(
    model: "nn.Layer", path: str | Path, *, name: str | None = None, holds: str | None = None
) -> Loaded:
    """Loads weights to start from.

    A head for other classes, or of a file that has none at all (a backbone), keeps its initialisation. A first
    convolution for another number of input channels is made from the file's (`adapt_channels`), a table of positions
    is resampled to the model's image size. Any other difference is a WeightsError, as in `set_weights`; a
    MismatchError if the file says that it is for another model than `name`.

    holds: the model of a file that does not say it itself.
    """
    weights = read_weights(path)
    tensors, notes = fit_positions(model, weights.tensors, image_size=weights.image_size)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    bridged = [name for name in shapes if name in tensors and can_adapt(tensors[name], shapes[name])]
    adapted = bridged if len(bridged) == 1 else []  # several of them: another model, not other images
    for first in adapted:
        tensors[first] = adapt_channels(tensors[first], shapes[first][1])
    headless = not any(name in tensors for name in HEAD)
    same_features = "head.weight" in shapes.keys() & tensors.keys() and (
        tensors["head.weight"].shape[0] == shapes["head.weight"][0]
    )
    try:
        new_head = set_weights(
            model,
            tensors,
            source=str(path),
            replaceable=HEAD if same_features else (),  # of other features: another model, not other classes
            absent=HEAD if headless else (),
        )
    except WeightsError as error:
        saved = weights.state.get("model", {}).get("name", holds)
        if None in (saved, name) or saved == name:
            raise
        raise MismatchError(f"{path} holds {saved}, whose weights are not those of {name}: {error}") from None
    set_numerics(model, weights.numerics, source=str(path))
    return Loaded(
        new_head,
        adapted,
        headless=headless and bool(new_head),
        positions=notes,
        preprocess=weights.preprocess,
        average_left=weights.average_left,
    )
