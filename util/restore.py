"""From a weights file to a model that is ready to use, for eval, predict and export."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from util.data.dataset import readable_names
from util.data.preprocessing import Preprocessing, resolve_preprocessing
from util.errors import MismatchError, UsageError, WeightsError
from util.options import ModelOptions, PreprocessOptions, WeightsOptions
from util.weights import LoadedWeights, checked_state, read_weights, set_weights

if TYPE_CHECKING:
    from paddle import nn


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode with what belongs to it."""

    model: "nn.Layer"
    name: str
    num_classes: int
    preprocessing: Preprocessing
    class_folders: list[str] | None  # names of the training folders; None when training read a list
    class_names: list[str]  # what to call the classes


class UnnamedModelError(UsageError):
    """Neither the weights file nor `--model` says which model it is."""


def _choose_name(option: str | None, weights: LoadedWeights, source: str) -> str:
    saved = weights.state.get("model", {}).get("name")
    if option is not None and saved is not None and option != saved:
        raise MismatchError(f"{source} holds {saved}, not {option}; use --model {saved} or leave it out")
    name = option or saved
    if name is None:
        raise UnnamedModelError(f"{source} does not say which model it is for; name it with --model")
    return name


def _choose_num_classes(option: int | None, weights: LoadedWeights, source: str) -> int:
    saved = weights.state.get("model", {}).get("num_classes")
    if saved is None and "head.bias" in weights.tensors:
        saved = len(weights.tensors["head.bias"])
    if saved is None:
        raise WeightsError(f"{source} has no classification head")
    if option is not None and option != saved:
        raise MismatchError(f"{source} has {saved} classes, not {option}; leave out --num_classes")
    return int(saved)


def _check_channels(channels: int, weights: LoadedWeights, source: str) -> None:
    saved = weights.state.get("preprocess", {}).get("input_size", [channels])[0]
    if channels != saved:
        raise MismatchError(
            f"{source} is for images of {saved} x height x width, not {channels} x height x width; leave the channels "
            "out of --input_size"
        )


def chosen_weights(weights: WeightsOptions, on_command_line: frozenset[str]) -> WeightsOptions:
    """Returns the weights to use: `--resume` replaces the `pretrained` of a recipe, not that of the command line."""
    if weights.resume is not None and "pretrained" not in on_command_line:
        return replace(weights, pretrained=None)
    return weights


def restore(
    weights_options: WeightsOptions,
    model_options: ModelOptions,
    preprocess_options: PreprocessOptions,
    *,
    use_ema: bool,
    names_file: str | None,
    create_model: Callable[..., "nn.Layer"],
    model_defaults: Callable[[str], dict[str, Any]],
) -> Trained:
    """Builds the model that a weights file is for, loads it strictly, and resolves its preprocessing.

    create_model, model_defaults: the registry's, handed over by the script. Without a weights file this refuses:
    nothing is ever computed with random weights. A model, a number of classes or of channels that differs from the
    file's is a MismatchError.
    """
    if weights_options.resume is not None and weights_options.pretrained is not None:
        raise UsageError("give either --resume or --pretrained")
    source = weights_options.resume or weights_options.pretrained
    if source is None:
        raise UsageError("no weights: give a checkpoint with --resume CHECKPOINT, or a weights file with --pretrained")
    weights = read_weights(source, use_ema=use_ema)
    if weights.state:
        checked_state(weights.state, source)
    name = _choose_name(model_options.model, weights, source)
    num_classes = _choose_num_classes(model_options.num_classes, weights, source)
    preprocessing = resolve_preprocessing(preprocess_options, model_defaults(name), weights.state.get("preprocess", {}))
    channels, *img_size = preprocessing.input_size
    _check_channels(channels, weights, source)
    model = create_model(name, num_classes=num_classes, img_size=tuple(img_size), in_chans=channels)
    set_weights(model, weights.tensors, source=source)
    model.eval()
    classes = weights.state.get("classes", {})
    folders = classes.get("folders")
    names = classes.get("names") if names_file is None else None
    return Trained(
        model=model,
        name=name,
        num_classes=num_classes,
        preprocessing=preprocessing,
        class_folders=folders,
        class_names=names or readable_names(folders, num_classes, names_file),
    )
