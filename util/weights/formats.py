"""Weights files of other projects, recognised by content: which format, and which of its entries are the weights.

Where the state dict lies is up to who wrote the file:

- at the top: `paddle.save(model.state_dict())` (PaddleClas, PaddleViT, `.pdparams`), microsoft/CvT's published models
  and `model_best.pth`, Hugging Face's `.bin`, timm's published models, safetensors and MindSpore always;
- CvT-paddle's `checkpoint-*.pd`: under `model`, its average under `model_ema`, beside `optimizer`, `scaler`,
  `epoch` and `args`, an argparse.Namespace (util/misc.py, `save_model`);
- microsoft/CvT's `checkpoint.pth`: under `state_dict`, beside `optimizer` and `model`, which is the model's name
  (lib/utils/utils.py, `save_checkpoint_on_master`);
- timm's checkpoints: under `state_dict`, the average under `state_dict_ema` (utils/checkpoint_saver.py); DeiT's and
  ConViT's releases: under `model`, the average under `model_ema`.

Formats without checksums (safetensors, pickles, MindSpore without `crc_check`) load a changed byte within a tensor
without noticing; PyTorch's archives and MindSpore's with it are verified. No format can have code run: `pickles`.
Imports no paddle.
"""

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from util.errors import DamagedFileError, MissingInputError, UserError, WeightsError
from util.weights.mindspore_file import ENCRYPTED, looks_like_mindspore, read_mindspore
from util.weights.paddle_file import PARAMETER_NAMES, as_tensor, read_paddle
from util.weights.safetensors_file import read_safetensors
from util.weights.stored import StoredTensor
from util.weights.torch_file import read_torch

Format = Literal["safetensors", "paddle", "torch", "mindspore"]

MODEL_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "network", "params")
AVERAGE_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict", "ema", "ema_model", "params_ema")
MAX_NAME = 300
MAX_LISTED = 8
_SMALL = 1 << 20

_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # the first pickle of PyTorch's format before 1.6
_OLD_TORCH = (
    "written in PyTorch's format from before 1.6, which is not read: load it with PyTorch and save it once more with "
    "torch.save, or its state dict with safetensors.torch.save_file"
)
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras?)",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    b"<": "a page of HTML or XML, not the file itself; download it again",
    ENCRYPTED: "encrypted by MindSpore (enc_key); load it there and save it without a key",
}


@dataclass(frozen=True)
class RawWeights:
    """Arrays as the file names and lays them out: floating point as float32, anything else as it is.

    averaged: the moving average that is kept beside them. A file that has only this holds it as `tensors`, too.
    """

    tensors: dict[str, np.ndarray]
    averaged: dict[str, np.ndarray] | None
    format: Format


def read_raw(path: Path) -> RawWeights:
    """Returns the weights in a file of any format but this project's checkpoints (`container`).

    UntrustedFileError for a file that asks for more than data, DamagedFileError for one that is not what its format
    promises, WeightsError for a format or content that is not supported, MissingInputError for no file.
    """
    with _opened(path) as data:
        kind = _detect(data)
        root = _READERS[kind](data)
        model, average = pick_state_dicts(root) if kind in ("torch", "paddle") else (state_dict(root, "the file"), None)
        wanted = [*model.values(), *(average or {}).values()]
        total = sum(tensor.size * tensor.itemsize for tensor in wanted)
        if total > 2 * len(data) + _SMALL:  # tensors may share their bytes; a file may not multiply by it
            raise DamagedFileError(f"its tensors claim {total} bytes, the file has {len(data)}")
        try:
            arrays = {name: tensor.to_numpy() for name, tensor in model.items()}
            if average is None or average is model:
                return RawWeights(arrays, None if average is None else arrays, kind)
            return RawWeights(arrays, {name: tensor.to_numpy() for name, tensor in average.items()}, kind)
        except MemoryError:
            raise WeightsError(f"its tensors need {total / 1e9:.1f} GB of memory, which there is not") from None


def detect_format(path: Path) -> Format:
    """Returns the format that a file's first bytes show; a WeightsError for any other."""
    with _opened(path) as data:
        return _detect(data)


@contextmanager
def _opened(path: Path) -> Iterator[memoryview]:
    """Gives a file's bytes, which stay on the disk until they are needed; errors within get its name in front.

    Whatever is kept must be copied: the file may change, or end, after this.
    """
    try:
        if not path.is_file():
            raise MissingInputError("no such file" if not path.exists() else "is not a file")
        if path.stat().st_size == 0:
            raise DamagedFileError("is empty")
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield memoryview(content)
    except UserError as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _detect(data: memoryview) -> Format:
    start = bytes(data[:512])
    if start[8:9] == b"{":
        return "safetensors"
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return "torch"
    if start[257:262] == b"ustar" or (start.startswith(b"\x80") and _TORCH_MAGIC in start[:32]):
        raise WeightsError(_OLD_TORCH)
    # a pickle of protocol 2 or later says so; one of 0 or 1 begins with a mark, a container or a name
    if start.startswith(b"\x80") or (start[0] in b"(]})c" and data[-1:] == b"."):
        return "paddle"
    for magic, what in _OTHERS.items():
        if start.startswith(magic):
            raise WeightsError(what)
    if looks_like_mindspore(data):
        return "mindspore"
    raise WeightsError(
        f"not a weights file of a known format ({', '.join(get_args(Format))}): begins with {start[:8]!r}"
    )


_READERS: dict[Format, Callable[[memoryview], Any]] = {
    "safetensors": read_safetensors,
    "paddle": read_paddle,
    "torch": read_torch,
    "mindspore": read_mindspore,
}


def pick_state_dicts(root: Any) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor] | None]:
    """Returns the state dict in what a file holds, and the average beside it.

    A WeightsError when there is none, or when several entries could be meant.
    """
    if not isinstance(root, dict):
        raise WeightsError(f"holds {_kind(root)}, expected tensors by name")
    models, averages = _candidates(root, MODEL_KEYS), _candidates(root, AVERAGE_KEYS)
    tensors = {key: tensor for key, value in root.items() if (tensor := as_tensor(value)) is not None}
    nested = [*models, *averages]
    if not nested:
        if tensors:
            return state_dict(root, "the file"), None
        entries = ", ".join(repr(key)[:80] for key in list(root)[:MAX_LISTED]) or "nothing"
        raise WeightsError(f"holds no weights: expected tensors by name, or {', '.join(MODEL_KEYS)}; got {entries}")
    # single numbers are accuracies and such, integers a generator's state
    loose = [key for key, tensor in tensors.items() if tensor.is_float and tensor.size > 1]
    for rivals in (list(models), list(averages), [nested[0], *loose]):
        if len(rivals) > 1:
            names = ", ".join(repr(key)[:80] for key in rivals[:MAX_LISTED])
            raise WeightsError(f"{names} could each be the weights: keep one of them in the file")
    unusable = [key for key in MODEL_KEYS if key in root]
    if averages and not models and unusable:
        raise WeightsError(
            f"{next(iter(averages))!r} holds weights, but {unusable[0]!r} does not: keep the one that is meant"
        )
    average = next((state_dict(value, key) for key, value in averages.items()), None)
    model = next((state_dict(value, key) for key, value in models.items()), average)
    assert model is not None
    return model, average


def _candidates(root: dict[Any, Any], keys: tuple[str, ...]) -> dict[str, dict[Any, Any]]:
    """Returns which of the entries hold tensors by name, themselves or one of theirs (`{"model": {"module": ...}}`)."""
    found = {}
    for key in keys:
        value = root.get(key)
        if not isinstance(value, dict):
            continue
        if any(as_tensor(entry) is not None for entry in value.values()):
            found[key] = value
            continue
        inner = [value[k] for k in MODEL_KEYS if isinstance(value.get(k), dict) and value[k]]
        if len(inner) == 1 and any(as_tensor(entry) is not None for entry in inner[0].values()):
            found[key] = inner[0]
    return found


def state_dict(entries: dict[Any, Any], where: str) -> dict[str, StoredTensor]:
    """Returns tensors by name; a WeightsError if something else is among them, but for what Paddle adds."""
    result: dict[str, StoredTensor] = {}
    for key, value in entries.items():
        if key == PARAMETER_NAMES:
            continue
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        tensor = as_tensor(value)
        is_name = isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable() and name not in result
        if not is_name or tensor is None:
            raise WeightsError(f"{where} holds {str(key)[:80]!r}, {_kind(value)}, among the weights: not a state dict")
        result[name] = tensor
    if not result:
        raise WeightsError(f"{where} holds no tensors")
    return result


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    name = type(value).__name__
    return _KINDS.get(name, f"an entry of type {name}")


_KINDS = {
    "StoredTensor": "a tensor", "PickledArray": "an array", "LongText": "a text", "Global": "a function or a class",
    "Inert": "an object", "str": "a text",
}  # fmt: skip
