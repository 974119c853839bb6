"""What `export.json` says of an exported model, with a hash of its own. Imports no paddle."""

import hashlib
import json
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from util.data.preprocessing import Preprocessing
from util.errors import MismatchError, MissingInputError, WeightsError
from util.files import kind_of

MANIFEST = "export.json"
# since 2, it has a hash of its own; since 3, programs may be folded; since 4, there is a model card; since 5, there may
# be an attention map
VERSION = 5
READ_VERSIONS = (2, 3, 4, 5)
OWN_HASH = "manifest_sha256"
MAX_SIDE = 1 << 16  # of an image, of a map, and images of a batch
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


def _is_side(value: object) -> bool:
    return type(value) is int and 0 < value < MAX_SIDE


def _is_plain(value: object) -> bool:
    """Whether a value is text that can be printed on a line."""
    return isinstance(value, str) and not any(unicodedata.category(c) in ("Cc", "Cs") and c != "\t" for c in value)


@dataclass(frozen=True, kw_only=True)
class Card:
    """The model card: where the weights come from, under whose terms, and how good they are. None: nobody has said.

    top1, top5: accuracy in percent; measured: on which images, and by whom.
    """

    source: str | None = None
    licence: str | None = None
    top1: float | None = None
    top5: float | None = None
    measured: str | None = None

    def check(self) -> None:
        """Raises a ValueError where a value is of the wrong type."""
        texts, figures = (self.source, self.licence, self.measured), (self.top1, self.top5)
        if not all(text is None or isinstance(text, str) for text in texts):
            raise ValueError(f"card: texts {texts}")
        if not all(figure is None or (type(figure) in (int, float) and 0 <= figure <= 100) for figure in figures):
            raise ValueError(f"card: accuracies {figures}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `export.json` says.

    input_shape has null for an open axis: (batch, channels, height, width). parameters are the structured names of the
    tensors in `model.pdiparams`, in its order; null for what is not a weight; none at all if weights were folded, and
    are no checkpoint's any more. numerics: the model's. int8: how `model.int8.onnx` was calibrated and how often its
    best class is fp32's; empty without it. output: of the programs; `probabilities` only of other projects' exports.
    attention: rows and columns of the attention map that the programs return after the logits, float32 (batch, rows,
    columns); None: they return the logits alone.
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
    card: Card = Card()
    output: Literal["logits", "probabilities"] = "logits"
    attention: tuple[int, ...] | None = None
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Writes the manifest, with a hash of its own content."""
        values = asdict(self)
        text = json.dumps(values | {OWN_HASH: content_sha256(values)}, indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def check(self) -> None:
        """Raises a ValueError where values do not have the form that the export writes."""
        if len(self.input_shape) != 4 or not all(n is None or _is_side(n) for n in self.input_shape):
            raise ValueError(f"input_shape {self.input_shape}")
        if not _is_plain(self.model) or not set(self.model).isdisjoint("/\\"):
            raise ValueError(f"model {self.model!r}")
        size = self.preprocessing().input_size
        if any(n not in (None, given) for n, given in zip(self.input_shape[1:], size, strict=True)):
            raise ValueError(f"input_shape {self.input_shape} for images {size}")
        if len(self.class_names) != self.num_classes or not all(map(_is_plain, self.class_names)):
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        if not isinstance(self.sha256, dict):
            raise ValueError("sha256 is not a table of files")
        if not all(name is None or isinstance(name, str) for name in self.parameters):
            raise ValueError("parameters are not names")
        if not isinstance(self.int8, dict):
            raise ValueError("int8 is not a table of figures")
        if self.output not in ("logits", "probabilities"):
            raise ValueError(f"output {self.output!r}")
        grid = self.attention
        if grid is not None and (len(grid) != 2 or not all(map(_is_side, grid))):
            raise ValueError(f"attention {grid}")
        self.card.check()

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Manifest":
        """Returns the manifest of plain values, as JSON has them."""
        lists = ("input_shape", "class_names", "parameters")
        if not all(isinstance(values[name], list | tuple) for name in lists):
            raise ValueError(f"{', '.join(lists)} are not all lists")
        parts = {name: tuple(values[name]) for name in lists}
        if values.get("attention") is not None:
            parts["attention"] = tuple(values["attention"])
        return cls(**values | parts | {"card": Card(**values.get("card", {}))})

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
        known = " to ".join(map(str, (READ_VERSIONS[0], READ_VERSIONS[-1])))
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
        manifest = Manifest.from_plain(values)
        manifest.preprocessing()
        manifest.check()
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged: {error}") from None
    return manifest


def check_input_size(manifest: Manifest, preprocessing: Preprocessing) -> None:
    """Refuses images of a size that the program was not exported for; Paddle would accept them silently."""
    for name, exported, given in zip("CHW", manifest.input_shape[1:], preprocessing.input_size, strict=True):
        if exported is not None and exported != given:
            raise MismatchError(
                f"the model was exported for {name} = {exported}, not {given}; leave out --input_size, or export with "
                "--dynamic_size"
            )
