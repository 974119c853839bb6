"""`inference.yml`, in which PaddleX and PaddleClas keep what a program's images and classes are: written, and read.

    Global: {model_name: NAME}
    PreProcess: {transform_ops: [ResizeImage: {...}, CropImage: {...}, NormalizeImage: {...}, ToCHWImage: null]}
    PostProcess: {Topk: {topk: 5, label_list: [...]}}

Both tools want the program as `inference.json` or `inference.pdmodel`, the parameters as `inference.pdiparams`, square
crops, and RGB. In an export's folder these names are second ones of its files, and take no room on the disk. Sources:
PaddleX 3.7 (paddlex/inference/models/image_classification) and PaddleClas 2.6 (deploy/python/preprocess.py). Imports no
paddle.
"""

import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.data.preprocessing import Preprocessing
from util.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from util.deploy.bundle import INFERENCE_YML as FILE
from util.deploy.manifest import Manifest
from util.errors import WeightsError
from util.files import read_text
from util.libraries import yaml

MAX_FILE = 16 << 20  # bytes; a thousand names of classes take some ten thousand
LINKS = {"inference.json": "model.json", "inference.pdmodel": "model.pdmodel", "inference.pdiparams": "model.pdiparams"}
TOPK = 5
# PaddleX runs no models but those that it knows. Of these names it makes nothing but "an image classifier"
PADDLEX_NAME = "CLIP_vit_base_patch16_224"
_PADDLEX_RESIZE = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos4"}
_RESIZE = {"nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic",
           "lanczos": "lanczos", "lanczos4": "lanczos"}  # fmt: skip
_OPS = ("DecodeImage", "ResizeImage", "CropImage", "NormalizeImage", "ToCHWImage")
_ARGUMENTS = {
    "DecodeImage": {"to_rgb", "channel_first", "to_np"},
    "ResizeImage": {"size", "resize_short", "interpolation", "backend", "return_numpy"},
    "CropImage": {"size"},
    "NormalizeImage": {"scale", "mean", "std", "order", "channel_num", "output_fp16"},
    "ToCHWImage": set[str](),
}
_MARK = "written by export_model.py"
_FRACTION = re.compile(r"\s*([0-9.]+)\s*(?:/\s*([0-9.]+)\s*)?")


def write_inference_yml(folder: Path, manifest: Manifest) -> bool:
    """Writes the file beside a program, and returns whether it can say what the manifest does; if not, it is left out.

    It cannot for grey images, nor for a crop whose sides differ.
    """
    pre = manifest.preprocessing()
    channels, height, width = pre.input_size
    resize: dict[str, Any] = {"backend": "pil", "interpolation": _PADDLEX_RESIZE[pre.interpolation]}
    ops: list[dict[str, Any]] = [{"ResizeImage": resize}]
    if channels != 3 or (pre.crop_mode == "center" and height != width):
        return False
    if pre.crop_mode == "squash":
        resize["size"] = [width, height]
    else:
        resize["resize_short"] = math.floor(height / pre.crop_pct)
        ops.append({"CropImage": {"size": height}})
    normalise = {"mean": list(pre.mean), "std": list(pre.std), "scale": 1 / 255, "order": "", "channel_num": 3}
    values = {
        "Global": {"model_name": PADDLEX_NAME},
        "PreProcess": {"transform_ops": [*ops, {"NormalizeImage": normalise}, {"ToCHWImage": None}]},
        "PostProcess": {"Topk": {"topk": TOPK, "label_list": list(manifest.class_names)}},
    }
    text = f"""# {manifest.model}, {_MARK}: what PaddleX and PaddleClas need to run this folder.
# model_name: PaddleX runs names that it knows alone. This one makes it an image classifier; the weights are not CLIP's.
# Scores there are the model's {manifest.output}, as neither tool takes a softmax; infer.py's are probabilities.
{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}"""
    (folder / FILE).write_text(text, encoding="utf-8")
    return True


def link_programs(folder: Path) -> list[str]:
    """Gives the files of an export the names that the other tools look for, and returns these. Raises an OSError.

    Symbolic links would break in archives and in many a copy. Where the disk knows no others, the files are copied.
    """
    for name, own in LINKS.items():
        try:
            os.link(folder / own, folder / name)
        except OSError:
            shutil.copyfile(folder / own, folder / name)
    return list(LINKS)


@dataclass(frozen=True, kw_only=True)
class InferenceYml:
    """What such a file says.

    preprocess: values of Preprocessing. class_names: None if it names none. resized_by_pillow: whether the other tool
    has the pixels of this project; OpenCV's are others. is_ours: whether it is of an export of this project.
    """

    preprocess: dict[str, Any]
    class_names: tuple[str, ...] | None
    resized_by_pillow: bool
    is_ours: bool = False


def read_inference_yml(path: Path) -> InferenceYml:
    """Returns what the file says; what it says that is not known here, or damage, is a WeightsError."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise WeightsError(f"{path}: is too long; at most {MAX_FILE} bytes are read")
    except OSError:
        pass  # said by read_text
    text = read_text(path)
    try:
        values = yaml.load(text, Loader=_Loader)
        ops = _ops(values["PreProcess"]["transform_ops"])
        return InferenceYml(
            preprocess=_checked(_sizes(ops) | _statistics(ops["NormalizeImage"])),
            class_names=_class_names(values.get("PostProcess")),
            resized_by_pillow=str(ops["ResizeImage"].get("backend")).lower() == "pil",
            is_ours=_MARK in text.partition("\n")[0],
        )
    except _UnknownError as error:
        raise WeightsError(f"{path}: {error}; give the preprocessing on the command line, without this file") from None
    except (yaml.YAMLError, RecursionError, KeyError, TypeError, AttributeError, ValueError, ArithmeticError):
        raise WeightsError(f"{path}: is not in the form of PaddleX and PaddleClas") from None


class _UnknownError(ValueError):
    """The file says something that is not known here."""


class _Loader(yaml.SafeLoader):
    """Takes aliases, which PaddleX writes, but does not join mappings: a few lines could fill the memory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("mappings are joined")


def _ops(values: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the operations' arguments by their names; others, or another order, are an _UnknownError."""
    ops: dict[str, dict[str, Any]] = {}
    for value in values:
        ((name, arguments),) = value.items()
        if name not in _OPS:
            raise _UnknownError(f"the transform {str(name)[:60]!r} is not known here")
        ops[name] = arguments or {}
        unknown = ops[name].keys() - _ARGUMENTS[name]
        if unknown:
            raise _UnknownError(f"{name} with {sorted(map(str, unknown))[0][:60]!r} is not known here")
    names = [name for name in _OPS if name in ops]
    needed = {"ResizeImage", "NormalizeImage", "ToCHWImage"}
    if not needed <= ops.keys() or list(ops) != names or len(values) != len(ops):
        raise _UnknownError(f"the transforms must be {', '.join(_OPS)}, in this order, the first and third if wanted")
    decode = ops.get("DecodeImage", {})
    if decode.get("to_rgb", True) is not True or decode.get("channel_first", False) is not False:
        raise _UnknownError("DecodeImage gives another order of channels than R G B, or of axes")
    return ops


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Returns values that a preprocessing can have."""
    try:
        Preprocessing(**values)
    except ValueError as error:
        raise _UnknownError(str(error)) from None
    return values


def _sizes(ops: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns input_size, crop_mode, crop_pct and interpolation."""
    resize = ops["ResizeImage"]
    backend = str(resize.get("backend", "cv2")).lower()
    name = str(resize.get("interpolation") or "bilinear").lower()  # for both tools and both backends
    if name not in _RESIZE or backend not in ("cv2", "pil"):
        raise _UnknownError(f"ResizeImage with {name[:60]!r} of {backend[:60]!r} is not known here")
    short, given = resize.get("resize_short"), resize.get("size")
    crop = None if "CropImage" not in ops else _pair(ops["CropImage"]["size"])
    if short is not None and crop is not None and crop[0] == crop[1] <= _positive(short):
        size, crop_mode, crop_pct = crop, "center", _part(crop[0], short)
    elif short is None and given is not None and crop in (None, _pair(given)):
        size, crop_mode, crop_pct = _pair(given), "squash", 1.0
    else:
        raise _UnknownError(
            "expected ResizeImage with resize_short and a CropImage that is square and no larger, or ResizeImage with "
            "size alone"
        )
    values = {"crop_mode": crop_mode, "crop_pct": crop_pct, "interpolation": _RESIZE[name]}
    return values | {"input_size": (3, size[1], size[0])}  # the tools have width, height


def _part(crop: int, short: int) -> float:
    """Returns the crop_pct that makes the short side `short` again, whatever the rounding."""
    exact = crop / short
    return exact if math.floor(crop / exact) == short else crop / (short + 0.5)


def _positive(value: object) -> int:
    if type(value) is not int or value <= 0:
        raise _UnknownError(f"a size is a positive integer; got {str(value)[:60]!r}")
    return value


def _pair(value: object) -> tuple[int, int]:
    """Returns width and height."""
    width, height = value if isinstance(value, list) else (value, value)
    return _positive(width), _positive(height)


def _statistics(normalise: dict[str, Any]) -> dict[str, Any]:
    """Returns mean and std of pixels in [0, 1]; the tools have (pixel * scale - mean) / std."""
    if normalise.get("order", "") not in ("", "hwc") or normalise.get("channel_num", 3) != 3:
        raise _UnknownError("NormalizeImage takes another order of axes, or other channels than R G B")
    if normalise.get("output_fp16", False) is not False:
        raise _UnknownError("NormalizeImage gives float16")
    scale = 255 * _number(normalise.get("scale", 1 / 255))
    scale = 1.0 if abs(scale - 1) < 1e-5 else scale  # 0.00392157 is meant to be 1/255
    found = {}
    for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        numbers = [float(number) / scale for number in normalise.get(name) or usual]
        if len(numbers) != 3:
            raise _UnknownError(f"NormalizeImage has {len(numbers)} numbers as {name}, expected 3")
        found[name] = tuple(numbers)
    return found


def _number(value: object) -> float:
    """Returns a number, or a fraction in words; PaddleClas evaluates such as `1.0/255.0`."""
    match = _FRACTION.fullmatch(str(value)) if isinstance(value, str) else None
    number = float(match[1]) / float(match[2] or 1) if match else value
    if type(number) not in (int, float) or not 0 < float(number) < math.inf:  # type: ignore[arg-type]
        raise _UnknownError(f"NormalizeImage with the scale {str(value)[:60]!r} is not known here")
    return float(number)  # type: ignore[arg-type]


def _class_names(post: dict[str, Any] | None) -> tuple[str, ...] | None:
    """Returns the names of the classes, if there are any."""
    post = {name: value for name, value in (post or {}).items() if name not in ("main_indicator", "SavePreLabel")}
    if post.keys() - {"Topk"}:
        raise _UnknownError(f"the post-processing {str(sorted(map(str, post))[0])[:60]!r} is not known here")
    names = (post.get("Topk") or {}).get("label_list")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise _UnknownError("Topk has a label_list that is no list of names")
    return tuple(map(str, names))
