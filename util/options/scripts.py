"""What only one of the scripts takes."""

from dataclasses import dataclass
from typing import Literal

from util.errors import UsageError
from util.options.base import check, check_text, setting


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """evaluation"""

    checkpoints: tuple[str, ...] = setting(
        (),
        "instead of --resume: several checkpoints, one after the other; files, folders, globs",
        scope="machine",
        yaml=False,
    )
    output: str | None = setting(None, "write each image's result to this .jsonl or .csv", scope="machine", yaml=False)
    report: str | None = setting(
        None,
        "folder for tables and pictures: per-class accuracy, confusion matrix, calibration",
        scope="machine",
        yaml=False,
    )
    allow_missing: bool = setting(
        False, "count unreadable images as wrong, and say how many, instead of stopping", scope="machine", yaml=False
    )
    subset: str | None = setting(
        None,
        "let the model choose among fewer classes: folders (those that the split has), or a file with a class a line",
        scope="machine",
        yaml=False,
    )
    real_labels: str | None = setting(
        None,
        "file with ImageNet's ReaL labels (real.json): also print the accuracy by them",
        scope="machine",
        yaml=False,
    )
    flip: bool = setting(False, "mean of each image's and its mirror image's logits", scope="machine", yaml=False)


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """prediction"""

    infer_imgs: tuple[str, ...] = setting(
        (), "images: files, folders (recursive), globs, @list.txt", scope="machine", yaml=False
    )
    output: str | None = setting(
        None, "write results to this .jsonl or .csv instead of standard output", scope="machine", yaml=False
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """export"""

    output: str | None = setting(None, "folder for the exported files", scope="machine", yaml=False)
    dynamic_size: bool = setting(False, "leave height and width open", scope="machine", yaml=False)
    fold: bool = setting(
        True,
        "fold what is constant into weights; without, slower, and the export can be read back for weights",
        scope="machine",
        yaml=False,
    )
    format: Literal["paddle", "onnx"] = setting(
        "paddle", "onnx: also write model.onnx, for ONNX Runtime and others", scope="machine", yaml=False
    )
    int8: str | None = setting(
        None,
        "folder of pictures like those to come: also write model.int8.onnx, calibrated with half of them, compared on "
        "the rest",
        scope="machine",
        yaml=False,
    )
    int8_images: int = setting(512, "at most so many pictures of the folder of --int8", scope="machine", yaml=False)

    def __post_init__(self) -> None:
        check_text("output", self.output)
        check_text("int8", self.int8)
        check(self.int8_images >= 2, "int8_images", "at least 2", self.int8_images)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """conversion of weights"""

    source: str | None = setting(
        None, "weights of any supported project: a file, an export's folder, a published name", scope="machine",
        yaml=False,
    )  # fmt: skip
    output: str | None = setting(None, "new file, .safetensors", scope="machine", yaml=False)


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """inference"""

    model_dir: str | None = setting(None, "folder with an exported model", scope="machine", yaml=False)
    model_file: str | None = setting(None, "exported program: .json, .pdmodel or .onnx", scope="machine", yaml=False)
    params_file: str | None = setting(
        None, "its parameters, .pdiparams; none: beside the program", scope="machine", yaml=False
    )
    input_file: tuple[str, ...] = setting(
        (), "images: files, folders (recursive), globs, @list.txt", scope="machine", yaml=False
    )
    output: str | None = setting(
        None,
        "write results to this .jsonl or .csv instead of standard output; without --continue it is replaced",
        scope="machine",
        yaml=False,
    )
    continue_job: bool = setting(
        False,
        "go on where a job with this --output stopped; begin where there is none",
        flags=("--continue",),
        scope="machine",
        yaml=False,
    )
    num_workers: int = setting(
        2, "threads that read and decode images; 0: none, one after the other", flags=("-j",), scope="machine",
        yaml=False,
    )  # fmt: skip
    engine: Literal["auto", "paddle", "openvino", "onnxruntime"] = setting(
        "auto",
        "what runs the program; auto: the fastest that is there and takes it; openvino: the package, else Paddle's own",
        scope="machine",
        yaml=False,
    )
    precision: Literal["fp32", "bf16", "int8"] = setting(
        "fp32",
        "arithmetic: bf16 needs AVX512_BF16 or AMX, int8 an export with --int8",
        scope="machine",
        yaml=False,
    )
    onednn: bool = setting(
        True, "use oneDNN in Paddle Inference on CPU", flags=("--enable_mkldnn",), scope="machine", yaml=False
    )

    def __post_init__(self) -> None:
        for name in ("model_dir", "model_file", "params_file"):
            check_text(name, getattr(self, name))
        check(0 <= self.num_workers <= 1024, "num_workers", "in [0, 1024]", self.num_workers)
        if self.continue_job and self.output is None:
            raise UsageError("--continue needs --output, the file to go on with")
