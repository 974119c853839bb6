"""Loading weights into a model, strictly.

Sources so far: checkpoints of this project, and plain safetensors files with the official parameter names in Paddle's
layout. Imports no paddle at module level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.data.preprocessing import Preprocessing
from util.errors import MismatchError, WeightsError
from util.weights.container import is_container, peek_state, read_container, read_plain

if TYPE_CHECKING:
    from paddle import nn

__all__ = ["Loaded", "LoadedWeights", "WeightsError", "load_pretrained", "load_weights", "read_weights", "set_weights"]

MODEL, EMA = "model/", "ema/"
MAX_CLASSES = 1_000_000
MAX_PERCENT = 100.001  # rounding
HEAD = ("head.weight", "head.bias")
MAX_LISTED = 8


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors of one model by parameter name, and what the file says about it (empty for a plain file)."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]


def read_weights(path: str | Path, *, use_ema: bool = False) -> LoadedWeights:
    """Returns the weights in a file.

    use_ema: the averaged ones; a WeightsError when there are none.
    """
    path = Path(path)
    if path.suffix != ".safetensors" and path.is_file():
        raise WeightsError(f"{path}: expected a .safetensors file written by this project")
    if not is_container(path):
        if use_ema:
            raise WeightsError(f"{path}: a plain weights file has no averaged weights; leave out --use_ema")
        plain = _paddle_names(read_plain(path))
        _check_head(plain, str(path))
        return LoadedWeights(plain, {})
    container = read_container(path)
    if not isinstance(container.state, dict) or not container.state:  # empty would mean a plain file
        checked_state(container.state, str(path))
    prefix = EMA if use_ema else MODEL
    tensors = {k.removeprefix(prefix): v for k, v in container.tensors.items() if k.startswith(prefix)}
    if not tensors:
        what = "averaged weights; leave out --use_ema" if use_ema else "model weights"
        raise WeightsError(f"{path}: holds no {what}")
    _check_head(tensors, str(path))
    return LoadedWeights(tensors, container.state)


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


def checked_state(state: Any, source: str) -> dict[str, Any]:
    """Returns what a checkpoint says about its model if it has the form that training writes; else a WeightsError."""
    fault = _state_fault(state)
    if fault is not None:
        raise WeightsError(f"{source}: not a usable checkpoint: {fault}")
    return state


def peek_checked_state(path: Path) -> dict[str, Any]:
    """Returns what a file says about its model, its content not verified; empty if this is not of the right form."""
    state = peek_state(path)
    return state if _state_fault(state) is None else {}


def _state_fault(state: Any) -> str | None:
    """Returns what is wrong with a checkpoint's state, which may be any JSON."""
    if not isinstance(state, dict):
        return f"expected named entries about the model, got {_brief(state)}"
    for part in ("model", "preprocess", "classes"):
        if part not in state:
            return f"it says nothing about {part}"
    for part in ("model", "preprocess", "classes", "progress", "made_by"):
        if not isinstance(state.get(part, {}), dict):
            return f"{part} must be named entries, got {_brief(state[part])}"
    name, num_classes = state["model"].get("name"), state["model"].get("num_classes")
    if not (isinstance(name, str) and type(num_classes) is int and 0 < num_classes <= MAX_CLASSES):
        return f"model {_brief(name)} with {_brief(num_classes)} classes"
    try:
        Preprocessing.from_plain(state["preprocess"])
    except ValueError as error:
        return f"preprocess: {error}"
    if not isinstance(state.get("made_by", {}).get("command", ""), str):
        return f"made_by command must be a text, got {_brief(state['made_by']['command'])}"
    return _classes_fault(state["classes"], num_classes) or _progress_fault(state.get("progress", {}))


def _classes_fault(classes: dict[str, Any], num_classes: int) -> str | None:
    folders, names = classes.get("folders"), classes.get("names")
    for what, values in (("names", names), ("folders", folders if folders is not None else names)):
        if not (isinstance(values, list) and all(isinstance(v, str) for v in values)):
            return f"class {what} are not a list of texts"
        if len(values) != num_classes:
            return f"{len(values)} class {what} for {num_classes} classes"
    return "a class folder stands twice" if folders is not None and len(set(folders)) < len(folders) else None


def _progress_fault(progress: dict[str, Any]) -> str | None:
    for name in ("epoch", "update", "best_update", "best_update_ema"):
        if type(progress.get(name, 0)) is not int:
            return f"progress {name} must be a whole number, got {_brief(progress[name])}"
    for name in ("best_acc1", "best_acc1_ema"):
        value = progress.get(name, 0.0)
        if not isinstance(value, int | float) or not -1 <= value <= MAX_PERCENT:
            return f"progress {name} must be in percent, or -1, got {_brief(value)}"
    return None


def _brief(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _paddle_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives BatchNorm's statistics Paddle's names; PyTorch's counter of batches has no counterpart."""
    return {
        name.replace(".running_mean", "._mean").replace(".running_var", "._variance"): tensor
        for name, tensor in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }


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
        )
        raise WeightsError(f"{source} does not fit the model\n  " + "\n  ".join(lines))
    for name, parameter in own.items():
        if name not in left_out:
            parameter.set_value(np.ascontiguousarray(tensors[name]).astype(np.float32, copy=False))
    return left_out


@dataclass(frozen=True)
class Loaded:
    """What `load_pretrained` did not take from the file as it is: names of parameters."""

    new_head: list[str]
    adapted: list[str]
    headless: bool = False  # the file has no head at all

    def __str__(self) -> str:
        why = "are not in the file" if self.headless else "had another shape"
        head = f"; a new head: {', '.join(self.new_head)} {why}" if self.new_head else ""
        return head + (f"; for another number of channels: {', '.join(self.adapted)}" if self.adapted else "")


def load_pretrained(model: "nn.Layer", path: str | Path, *, name: str | None = None) -> Loaded:
    """Loads weights to start from.

    A head for other classes, or of a file that has none at all (a backbone), keeps its initialisation. A first
    convolution for another number of input channels is made from the file's (`adapt_channels`). Any other difference
    is a WeightsError, as in `set_weights`; a MismatchError if the file says that it is for another model than `name`.
    """
    weights = read_weights(path)
    if weights.state:
        checked_state(weights.state, str(path))
    tensors = weights.tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    bridged = [name for name in shapes if name in tensors and _can_adapt(tensors[name], shapes[name])]
    adapted = bridged if len(bridged) == 1 else []  # several of them: another model, not other images
    for name in adapted:
        tensors[name] = adapt_channels(tensors[name], shapes[name][1])
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
        saved = weights.state.get("model", {}).get("name")
        if None in (saved, name) or saved == name:
            raise
        raise MismatchError(f"{path} holds {saved}, whose weights are not those of {name}: {error}") from None
    return Loaded(new_head, adapted, headless=headless and bool(new_head))


def _can_adapt(weight: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a weight is a convolution's that differs from `shape` (out, in, kh, kw) in `in` alone, and bridgeably."""
    if weight.dtype.kind != "f" or weight.ndim != 4 or len(shape) != 4 or weight.shape[1] == shape[1]:
        return False
    same_otherwise = (weight.shape[0], *weight.shape[2:]) == (shape[0], *shape[2:])
    return same_otherwise and (shape[1] == 1 or shape[1] > weight.shape[1])


def adapt_channels(weight: np.ndarray, channels: int) -> np.ndarray:
    """Returns a convolution's weights (out, in, kh, kw) for another number of input channels: one, or more than `in`.

    For one they are summed over `in`; for more they are repeated in order, each divided by how often it stands. So a
    grey picture, the same in all channels, gets the response that it had before.
    """
    weight = weight.astype(np.float32, copy=False)
    if channels == 1:
        return weight.sum(axis=1, keepdims=True)
    source = np.arange(channels) % weight.shape[1]
    times = np.bincount(source)[source].astype(np.float32)
    return weight[:, source] / times[:, None, None]


def load_weights(model: "nn.Layer", path: str | Path) -> None:
    """Loads a file's weights, strictly; a WeightsError lists missing, unexpected and wrongly shaped names."""
    set_weights(model, read_weights(path).tensors, source=str(path))
