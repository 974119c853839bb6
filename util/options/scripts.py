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
    draw: str | None = setting(
        None, "folder to write each picture to, with its best classes below it, as .png", scope="machine", yaml=False
    )

    def __post_init__(self) -> None:
        check_text("draw", self.draw)


@dataclass(frozen=True, kw_only=True)
class FontOptions:
    """font of pictures"""

    font: str | None = setting(
        None, "font file to write names with; none: Pillow's, or one that is installed and has their characters",
        scope="machine", yaml=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VisualizeOptions:
    """pictures of what a model looks at"""

    infer_imgs: tuple[str, ...] = setting(
        (), "images: files, folders (recursive), globs, @list.txt", scope="machine", yaml=False
    )
    output: str = setting("output/visualize", "folder for the pictures", scope="machine", yaml=False)
    kind: tuple[Literal["class_attention", "rollout", "grad_cam"], ...] = setting(
        (), "which maps; none: all", scope="machine", yaml=False
    )
    class_id: int | None = setting(
        None, "class that Grad-CAM explains; none: the best of each image", scope="machine", yaml=False
    )
    alpha: float = setting(
        0.6, "what part the colours of a map have in a picture, from 0 to 1", scope="machine", yaml=False
    )
    save_maps: bool = setting(False, "also write the maps as numbers, .npz", scope="machine", yaml=False)

    def __post_init__(self) -> None:
        check_text("output", self.output)
        check(0.0 <= self.alpha <= 1.0, "alpha", "in [0, 1]", self.alpha)
        check(self.class_id is None or self.class_id >= 0, "class_id", "at least 0", self.class_id)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """export"""

    output: str | None = setting(None, "folder for the exported files, or one .zip", scope="machine", yaml=False)
    dynamic_size: bool = setting(False, "leave height and width open", scope="machine", yaml=False)
    fold: bool = setting(
        True,
        "fold what is constant into weights; without, slower, and the export can be read back for weights",
        scope="machine",
        yaml=False,
    )
    format: Literal["paddle", "onnx", "triton"] = setting(
        "paddle",
        "onnx: also write model.onnx, for ONNX Runtime and others; triton: that in a model repository",
        scope="machine",
        yaml=False,
    )
    attention: bool = setting(
        False,
        "give programs a second output: the last block's attention of the class token, a map for each image",
        scope="machine",
        yaml=False,
    )
    licence: str | None = setting(
        None, "licence of the weights, for the model card; none: what their publisher says", scope="machine", yaml=False
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
        check_text("licence", self.licence)
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
class EngineOptions:
    """exported model"""

    model_dir: str | None = setting(None, "exported model: folder, or a zip of it", scope="machine", yaml=False)
    model_file: str | None = setting(None, "exported program: .json, .pdmodel or .onnx", scope="machine", yaml=False)
    params_file: str | None = setting(
        None, "its parameters, .pdiparams; none: beside the program", scope="machine", yaml=False
    )
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
        if self.model_dir is not None and self.model_file is not None:
            raise UsageError("give the exported model with either --model_dir FOLDER or --model_file PROGRAM")

    @property
    def place(self) -> str:
        """Returns where the exported model is."""
        place = self.model_file if self.model_dir is None else self.model_dir
        if place is None:
            raise UsageError("no model: name an export with --model_dir FOLDER or --model_file PROGRAM")
        return place


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """inference"""

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

    def __post_init__(self) -> None:
        check(0 <= self.num_workers <= 1024, "num_workers", "in [0, 1024]", self.num_workers)
        if self.continue_job and self.output is None:
            raise UsageError("--continue needs --output, the file to go on with")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """serving"""

    host: str = setting("127.0.0.1", "address to listen at; 0.0.0.0: all, for a container", scope="machine", yaml=False)
    port: int = setting(8000, "port; 0: a free one", scope="machine", yaml=False)
    api_key_file: str | None = setting(
        None,
        "file with the key that clients must send; else the variable PADDLE_CVT_API_KEY; else none",
        scope="machine",
        yaml=False,
    )
    engines: int = setting(1, "processes that compute, which share the CPU threads", scope="machine", yaml=False)
    max_batch: int = setting(16, "images that are computed together, at most", scope="machine", yaml=False)
    decode_threads: int = setting(2, "threads that decode images", scope="machine", yaml=False)
    max_queue: int = setting(
        128, "images that wait beside those being computed, at most; more are refused", scope="machine", yaml=False
    )
    deadline: float = setting(10.0, "seconds from a request to its answer, at most", scope="machine", yaml=False)
    drain: float = setting(8.0, "seconds to finish what was accepted, after SIGTERM", scope="machine", yaml=False)
    max_connections: int = setting(512, "open connections, at most", scope="machine", yaml=False)
    max_body: int = setting(10, "MiB of a request", scope="machine", yaml=False)
    max_images: int = setting(16, "images of a request", scope="machine", yaml=False)
    max_pixels: int = setting(40_000_000, "pixels of an image", scope="machine", yaml=False)
    log_requests: bool = setting(True, "log a line of JSON a request", scope="machine", yaml=False)

    def __post_init__(self) -> None:
        check_text("host", self.host)
        check_text("api_key_file", self.api_key_file)
        check(0 <= self.port <= 65535, "port", "in [0, 65535]", self.port)
        for name, most in (
            ("engines", 256), ("max_batch", 1024), ("decode_threads", 256), ("max_queue", 100_000),
            ("max_connections", 100_000), ("max_body", 1024), ("max_images", 1024), ("max_pixels", 178_956_970),
        ):  # fmt: skip
            check(1 <= getattr(self, name) <= most, name, f"in [1, {most}]", getattr(self, name))
        for name in ("deadline", "drain"):
            check(0.1 <= getattr(self, name) <= 3600.0, name, "in [0.1, 3600]", getattr(self, name))
