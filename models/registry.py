"""Model names, what each name implies, and `create_model`."""

import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paddle import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model's name implies about its input; the scripts use it where nothing else is said."""

    input_size: tuple[int, int, int] = (3, 224, 224)  # C, H, W
    crop_pct: float = 0.875
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


class UnknownModelError(ValueError):
    """No model has that name; the message lists those that there are."""

    exit_code = 2  # of a script that was asked for it


@dataclass(frozen=True)
class _Entry:
    family: type[nn.Layer]
    variant: Callable[[], dict[str, Any]]
    info: ModelInfo


_ENTRIES: dict[str, _Entry] = {}
_SPELLINGS: dict[str, str] = {}  # other spellings -> name


def register_model(
    family: type[nn.Layer], info: ModelInfo, *, spellings: tuple[str, ...] = ()
) -> Callable[[Callable[[], dict[str, Any]]], Callable[[], dict[str, Any]]]:
    """Registers a variant: a function named as the model that returns the family's arguments that differ.

    spellings: other ways to write the name, which `canonical_name` understands.
    """

    def add(variant: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        name = variant.__name__
        if any(n in _ENTRIES or n in _SPELLINGS for n in (name, *spellings)):
            raise ValueError(f"model {name!r} is registered twice")
        _ENTRIES[name] = _Entry(family, variant, info)
        _SPELLINGS.update(dict.fromkeys(spellings, name))
        return variant

    return add


def _natural_key(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def list_models(pattern: str = "*") -> list[str]:
    """Returns the model names that match a shell-style pattern (`cvt_13*`), in natural order."""
    return sorted(fnmatch.filter(_ENTRIES, pattern), key=_natural_key)


def canonical_name(name: str) -> str:
    """Returns the name as `list_models` has it, for any accepted spelling; other names are returned as they are."""
    return _SPELLINGS.get(name, name)


def _entry(name: str) -> _Entry:
    name = canonical_name(name)
    if name not in _ENTRIES:
        near = list_models(f"{name}*")[:1] or difflib.get_close_matches(name, _ENTRIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownModelError(f"unknown model {name!r}; {hint}known models: {', '.join(list_models())}")
    return _ENTRIES[name]


def model_info(name: str) -> ModelInfo:
    """Returns what `name` implies about the input. An unknown name is a ValueError that lists the known ones."""
    return _entry(name).info


def model_defaults(name: str) -> dict[str, Any]:
    """Returns `model_info(name)` as a dict, for code that must not import this package."""
    return asdict(model_info(name))


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | tuple[int, int] | None = None,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    features_only: bool = False,
    **overrides: Any,
) -> nn.Layer:
    """Builds the model `name` with freshly initialised weights.

    num_classes: size of the head; 0 leaves the head out and returns the pooled features (B, C).
    img_size: side, or (height, width), that the model is built for; None is what the name implies.
    drop_path_rate: None is the variant's own rate.
    features_only: the model returns a list of feature maps (B, C, H, W), one a stage, instead of logits.
    overrides: any other argument of the family's constructor; an unknown one is a ValueError that lists the known.
    """
    entry = _entry(name)
    known = inspect.signature(entry.family.__init__).parameters.keys() - {"self"}
    unknown = sorted(overrides.keys() - known)
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(unknown)}; it takes: {', '.join(sorted(known))}")
    if img_size is None:
        img_size = entry.info.input_size[1:]
    arguments = entry.variant() | {
        "num_classes": num_classes,
        "img_size": (img_size, img_size) if isinstance(img_size, int) else tuple(img_size),
        "in_chans": in_chans,
        "drop_rate": drop_rate,
        "features_only": features_only,
    }
    if drop_path_rate is not None:
        arguments["drop_path_rate"] = drop_path_rate
    return entry.family(**(arguments | overrides))
