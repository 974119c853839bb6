"""From a weights file to a model that is ready to use, for eval, predict and export."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from util.data.class_names import readable_names
from util.data.preprocessing import Preprocessing, describe_differences, resolve_preprocessing
from util.deploy.manifest import Card
from util.errors import MismatchError, UsageError, WeightsError
from util.options import ModelOptions, PreprocessOptions, WeightsOptions
from util.weights import LoadedWeights, apply_weights, read_weights
from util.weights.download import find_weights
from util.weights.sources import Source

if TYPE_CHECKING:
    from paddle import nn


class Registry(Protocol):
    """What the package `models` is to this module, which must not import it; the scripts hand it over."""

    def create_model(
        self, name: str, *, num_classes: int, img_size: tuple[int, int], in_chans: int
    ) -> "nn.Layer": ...  # fmt: skip

    def model_defaults(self, name: str) -> dict[str, Any]: ...

    def canonical_name(self, name: str) -> str: ...


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode with what belongs to it."""

    model: "nn.Layer"
    name: str
    num_classes: int
    preprocessing: Preprocessing
    class_folders: list[str] | None  # names of the training folders; None when training read a list
    class_names: list[str]  # what to call the classes
    card: Card  # where the weights are from, and how good they are


class UnnamedModelError(UsageError):
    """Neither the weights file nor `--model` says which model it is."""


def _choose_name(option: str | None, saved: str | None, source: str) -> str:
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
        names = ", ".join(list(weights.tensors)[:4])
        raise WeightsError(
            f"{source} has no classification head: expected head.weight and head.bias among its {len(weights.tensors)} "
            f"tensors, got {names}, ..."
        )
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


def _find(options: WeightsOptions, registry: Registry) -> tuple[str, Path, Source | None]:
    """Returns what the user named, the file, and where it is published if `--pretrained` gave a published name."""
    if options.resume is not None and options.pretrained is not None:
        raise UsageError("give either --resume or --pretrained")
    if options.resume is not None:
        return options.resume, Path(options.resume), None
    if options.pretrained is None:
        raise UsageError("no weights: give a checkpoint with --resume CHECKPOINT, or a weights file with --pretrained")
    return (options.pretrained, *find_weights(options.pretrained, canonical_name=registry.canonical_name))


def restore(
    weights_options: WeightsOptions,
    model_options: ModelOptions,
    preprocess_options: PreprocessOptions,
    *,
    use_ema: bool,
    names_file: str | None,
    registry: Registry,
) -> Trained:
    """Builds the model that a weights file is for, loads it strictly, and resolves its preprocessing.

    Without a weights file this refuses: nothing is ever computed with random weights. A model, a number of classes or
    of channels that differs from the file's is a MismatchError. For another image size than the file's, tables of
    positions are resampled.
    """
    source, path, published = _find(weights_options, registry)
    weights = read_weights(path, use_ema=use_ema)
    saved = weights.state.get("model", {}).get("name") if published is None else published.model
    saved = None if saved is None else registry.canonical_name(saved)
    option = None if model_options.model is None else registry.canonical_name(model_options.model)
    name = _choose_name(option, saved, source)
    num_classes = _choose_num_classes(model_options.num_classes, weights, source)
    implied, known = registry.model_defaults(name), {} if published is None else published.preprocess
    preprocessing = resolve_preprocessing(preprocess_options, implied, weights.preprocess, known)
    channels, *img_size = preprocessing.input_size
    _check_channels(channels, weights, source)
    model = registry.create_model(name, num_classes=num_classes, img_size=(img_size[0], img_size[1]), in_chans=channels)
    log = logging.getLogger("run.weights")
    for note in (weights.origin, *apply_weights(model, weights, source=source)):
        log.info(f"{source}: {note}")
    if weights.average_left:
        log.warning(f"{source} holds averaged weights, too, which --use_ema would take")
    said = {**({} if published is None else implied), **weights.preprocess, **known}
    for difference in describe_differences(
        said, preprocessing, ("mean", "std", "crop_pct", "crop_mode", "interpolation")
    ):
        log.warning(f"{source} was made for {difference}")
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
        card=_card(path, weights, published, use_ema=use_ema),
    )


def _card(path: Path, weights: LoadedWeights, published: Source | None, *, use_ema: bool) -> Card:
    """Returns what is known of the weights: from their publisher, their export, or the run that trained them."""
    if published is not None:
        by = None if published.measured_by is None else f"ImageNet-1k validation, by {published.measured_by}"
        return Card(
            source=f"{published.origin}, {published.url}",
            licence=published.licence,
            top1=published.top1,
            top5=published.top5,
            measured=by,
        )
    if "card" in weights.state:
        return Card(**weights.state["card"])
    progress, suffix = weights.state.get("progress", {}), "_ema" if use_ema else ""
    best = progress.get(f"best_acc1{suffix}", -1.0)
    if best < 0 or progress.get(f"best_update{suffix}") != progress.get("update"):
        return Card(source=path.name)
    return Card(source=path.name, top1=round(best, 3), measured="evaluation split of its training")
