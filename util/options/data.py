"""Where the images are, how they are loaded, and what every script does to them before the model."""

from dataclasses import dataclass
from typing import Literal

from util.options.base import check, setting


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """data"""

    data_dir: str = setting(
        "DATASET/imagenet",
        "root of the data set, or a CIFAR-10 or CIFAR-100 archive; also the first argument",
        scope="place",
    )
    val_split: str = setting("val", "folder under data_dir with the evaluation images", scope="place")
    cls_label_path_val: str | None = setting(
        None, "list file of the evaluation images, lines `path label`; paths are relative to data_dir", scope="place"
    )
    delimiter: str | None = setting(None, "what separates path and label in a list file; none: white space")

    def __post_init__(self) -> None:
        check(self.delimiter != "", "delimiter", "at least one character", "none at all")


@dataclass(frozen=True, kw_only=True)
class TrainDataOptions:
    """training data"""

    train_split: str = setting("train", "folder under data_dir with the training images", scope="place")
    cls_label_path_train: str | None = setting(
        None, "list file of the training images, lines `path label`; paths are relative to data_dir", scope="place"
    )
    num_samples: int | None = setting(
        None, "train on this many images, as evenly from all classes as they allow, chosen by the seed; none: all"
    )

    shard_window: int | None = setting(
        None, "tar shards: shuffle so many shards together, which reads them nearly in order; none: all of them"
    )
    bad_images: float = setting(
        0.001,
        "part of the training images that may be unreadable; another image stands in for each, and they are listed",
        scope="machine",
    )

    def __post_init__(self) -> None:
        window = self.shard_window
        check(window is None or window > 0, "shard_window", "at least 1", window)
        check(0.0 <= self.bad_images < 1.0, "bad_images", "in [0, 1)", self.bad_images)
        check(self.num_samples is None or self.num_samples > 0, "num_samples", "at least 1", self.num_samples)


@dataclass(frozen=True, kw_only=True)
class ClassNamesOptions:
    """class names"""

    class_names: str | None = setting(
        None, "file with a line `id name` for each class; none: the folders', or ImageNet's for 1000", scope="place"
    )


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """batch"""

    batch_size: int = setting(128, "images a process and forward pass", flags=("-b",))

    def __post_init__(self) -> None:
        check(self.batch_size > 0, "batch_size", "at least 1", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """loading"""

    num_workers: int = setting(
        4, "processes that load data; 0 loads in the main process", flags=("-j",), scope="machine"
    )
    shared_memory: bool = setting(
        True, "workers hand batches over in /dev/shm; --no_shared_memory where it is too small", scope="machine"
    )
    image_backend: Literal["pil", "fast"] = setting(
        "pil",
        "what decodes and resizes images to train on, or that eval.py evaluates: Pillow; or simplejpeg and "
        "cykooz.resizer, sooner, pixels a little different",
    )
    data_timeout: float = setting(
        600.0, "seconds to wait for a batch; then the run stops and names what is stuck", scope="machine"
    )

    def __post_init__(self) -> None:
        check(self.data_timeout > 0, "data_timeout", "positive", self.data_timeout)
        check(0 <= self.num_workers <= 1024, "num_workers", "in [0, 1024]", self.num_workers)


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """preprocessing; none: what the model or the checkpoint says"""

    input_size: tuple[int, ...] | None = setting(
        None, "side, or height width, or channels height width, in pixels; 1 channel is grey"
    )
    crop_pct: float | None = setting(None, "part of the resized image's side that the evaluation crop keeps")
    crop_mode: Literal["center", "squash"] | None = setting(
        None, "evaluation: resize the short side and crop the centre, or resize both sides and crop nothing"
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = setting(
        None, "how images are resized, in training and in evaluation"
    )
    mean: tuple[float, ...] | None = setting(None, "mean of R G B, or of grey, of pixels in [0, 1]")
    std: tuple[float, ...] | None = setting(None, "standard deviation of R G B, or of grey, of pixels in [0, 1]")

    def __post_init__(self) -> None:
        if self.input_size is not None:
            size = self.input_size
            in_range = 1 <= len(size) <= 3 and all(0 < n <= 10_000 for n in size)
            check(in_range, "input_size", "1 to 3 integers in [1, 10000]", size)
            check(len(size) < 3 or size[0] in (1, 3), "input_size", "1 or 3 channels when it has three integers", size)
        if self.crop_pct is not None:
            check(0.0 < self.crop_pct <= 1.0, "crop_pct", "in (0, 1]", self.crop_pct)
            fits = self.crop_mode != "squash" or self.crop_pct == 1.0
            check(fits, "crop_pct", "1 with crop_mode squash", self.crop_pct)
        for name in ("mean", "std"):
            value = getattr(self, name)
            check(value is None or len(value) in (1, 3), name, "3 numbers, or 1 for grey", value)
        if self.std is not None:
            check(all(s > 0 for s in self.std), "std", "positive", self.std)
