"""What happens to an image before the model sees it, resolved once and stored with checkpoints and exports."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from util.data.backends import Backend
from util.data.transforms import RESAMPLE, CropMode, EvalTransform, Interpolation, Part, eval_transform, seen_part
from util.errors import UsageError
from util.options import PreprocessOptions

MAX_SIDE = 10_000  # pixels
CHANNELS = (1, 3)
MAX_NUMBER = 1e6  # far above any mean or standard deviation


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Evaluation preprocessing; `eval_transform` explains the fields."""

    input_size: tuple[int, int, int]  # C, H, W; one channel is grey, three are R G B
    crop_pct: float
    crop_mode: CropMode
    interpolation: Interpolation
    mean: tuple[float, ...]  # C values
    std: tuple[float, ...]  # C values

    def __post_init__(self) -> None:
        size = self.input_size
        if len(size) != 3 or not all(type(n) is int and 0 < n <= MAX_SIDE for n in size):
            raise ValueError(f"input_size is channels, height, width up to {MAX_SIDE}; got {size}")
        if size[0] not in CHANNELS:
            raise ValueError(f"images have 1 channel (grey) or 3; got {size[0]}")
        if self.interpolation not in RESAMPLE or self.crop_mode not in ("center", "squash"):
            raise ValueError(f"unknown interpolation {self.interpolation!r} or crop_mode {self.crop_mode!r}")
        numbers = (self.crop_pct, *self.mean, *self.std)
        if not all(isinstance(n, int | float) and abs(n) < MAX_NUMBER for n in numbers):  # NaN is not
            raise ValueError(f"crop_pct, mean and std must be finite numbers; got {numbers}")
        if not (0.0 < self.crop_pct <= 1.0 and len(self.mean) == len(self.std) == size[0] and min(self.std) > 0):
            raise ValueError(
                f"crop_pct is in (0, 1], mean and std have {size[0]} values, std is positive; got {numbers}"
            )

    def __str__(self) -> str:
        size = " x ".join(map(str, self.input_size))
        crop = "squash" if self.crop_mode == "squash" else f"centre crop {self.crop_pct:g}"
        return f"{size}, {crop}, {self.interpolation}, mean {self.mean}, std {self.std}"

    def transform(self, *, image_backend: Backend = "pil") -> EvalTransform:
        """Returns f(image) -> float32 (C, H, W); image: what the backend's `open` takes."""
        return eval_transform(**asdict(self), image_backend=image_backend)

    def seen_part(self, source: tuple[int, int]) -> Part:
        """Returns which part of a picture of (height, width) the model sees; `transforms.seen_part` says how."""
        return seen_part(source, input_size=self.input_size, crop_pct=self.crop_pct, crop_mode=self.crop_mode)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Returns what `to_plain` wrote; a missing or unknown name, or a wrong value, is a ValueError."""
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            missing, unknown = ", ".join(sorted(known - values.keys())), ", ".join(sorted(values.keys() - known))
            raise ValueError(f"missing: {missing or 'nothing'}; unknown: {unknown or 'nothing'}")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        for name in ("input_size", "mean", "std"):
            if not isinstance(given[name], tuple):
                raise ValueError(f"{name} must be a list of numbers; got {given[name]!r}")
        for name in ("crop_mode", "interpolation"):
            if not isinstance(given[name], str):
                raise ValueError(f"{name} must be a text; got {given[name]!r}")
        return cls(**given)

    def to_plain(self) -> dict[str, Any]:
        """Returns JSON- and YAML-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def resolve_preprocessing(options: PreprocessOptions, *implied: Mapping[str, Any]) -> Preprocessing:
    """Returns the options where given, else what the last of `implied` that says something says.

    implied: what the model's name implies, then what the checkpoint says. An input_size without channels keeps theirs.
    With another number of channels than theirs, a mean and std that are not given become the average of theirs for
    grey, as in timm, and stand three times for R G B. Given ones of another length than the channels are a UsageError.
    """
    values: dict[str, Any] = {}
    for source in implied:
        values |= {f.name: source[f.name] for f in fields(Preprocessing) if f.name in source}
    channels = values["input_size"][0]
    values |= {k: v for k, v in asdict(options).items() if v is not None}
    size = tuple(values["input_size"])
    values["input_size"] = {1: (channels, *size, *size), 2: (channels, *size), 3: size}[len(size)]
    channels = values["input_size"][0]
    for name in ("mean", "std"):
        is_given = getattr(options, name) is not None
        values[name] = _for_channels(name, channels, values[name], is_given=is_given)
    if values["crop_mode"] == "squash" and options.crop_pct not in (None, 1.0):
        raise UsageError(f"crop_pct {options.crop_pct} has no effect with crop_mode squash; leave one of them out")
    return Preprocessing.from_plain(values)


def describe_differences(said: Mapping[str, Any], used: Preprocessing, names: Sequence[str]) -> list[str]:
    """Returns a text for each of the names of which weights say something else than is used; silence is agreement."""
    found = []
    for name in names:
        value = getattr(used, name)
        wanted = tuple(said[name]) if isinstance(said.get(name), list | tuple) else said.get(name, value)
        if wanted != value:
            found.append(f"{name} {_flag(wanted)}, here it is {_flag(value)}; --{name} {_flag(wanted)} keeps it")
    return found


def _flag(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _for_channels(name: str, channels: int, numbers: Sequence[float], *, is_given: bool) -> tuple[float, ...]:
    if len(numbers) == channels:
        return tuple(numbers)
    if is_given:
        raise UsageError(
            f"{name} takes one number a channel, {channels} for these images; got {len(numbers)}: change it, or the "
            "channels in --input_size"
        )
    return (round(sum(numbers) / len(numbers), 6),) * channels
