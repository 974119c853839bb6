"""What happens to an image before the model sees it, resolved once and stored with checkpoints and exports."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from util.data.transforms import EvalTransform, Interpolation, eval_transform
from util.errors import UsageError
from util.options import PreprocessOptions


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Evaluation preprocessing; `eval_transform` explains the fields."""

    input_size: tuple[int, int, int]  # C, H, W
    crop_pct: float
    crop_mode: Literal["center", "squash"]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def transform(self) -> EvalTransform:
        """Returns f(image) -> float32 (3, H, W)."""
        return eval_transform(**asdict(self))

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Returns what `to_plain` wrote; a missing or unknown name is a TypeError."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    def to_plain(self) -> dict[str, Any]:
        """Returns JSON- and YAML-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def resolve_preprocessing(options: PreprocessOptions, *implied: Mapping[str, Any]) -> Preprocessing:
    """Returns the options where given, else what the last of `implied` that says something says.

    implied: what the model's name implies, then what the checkpoint says.
    """
    values: dict[str, Any] = {}
    for source in implied:
        values |= {f.name: source[f.name] for f in fields(Preprocessing) if f.name in source}
    values |= {k: v for k, v in asdict(options).items() if v is not None}
    size = tuple(values["input_size"])
    values["input_size"] = {1: (3, *size, *size), 2: (3, *size), 3: size}[len(size)]
    if values["crop_mode"] == "squash" and options.crop_pct not in (None, 1.0):
        raise UsageError(f"crop_pct {options.crop_pct} has no effect with crop_mode squash; leave one of them out")
    return Preprocessing.from_plain(values)
