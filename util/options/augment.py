"""What training does to images, to batches and to targets."""

from dataclasses import dataclass
from typing import Literal

from util.options.base import check, setting


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """augmentation of an image (training only)"""

    aug: bool = setting(True, "augment; --no_aug resizes and crops the centre instead")
    train_crop_mode: Literal["rrc", "src"] = setting(
        "rrc", "random resized crop, or DeiT III's simple random crop: resize, pad 4 by reflection, crop"
    )
    scale: tuple[float, float] = setting((0.08, 1.0), "rrc: smallest and largest part of the image's area")
    ratio: tuple[float, float] = setting((3 / 4, 4 / 3), "rrc: smallest and largest width / height")
    train_interpolation: Literal["random", "bilinear", "bicubic", "lanczos", "nearest"] | None = setting(
        None, "how training images are resized; random: bilinear or bicubic, each time; none: as interpolation says"
    )
    hflip: float = setting(0.5, "probability of a left-right flip")
    vflip: float = setting(0.0, "probability of an up-down flip")
    color_jitter: float = setting(
        0.4, "strength of brightness, contrast and saturation jitter; off while aa is on, except with 3a"
    )
    color_jitter_prob: float = setting(1.0, "probability of the jitter")
    grayscale_prob: float = setting(0.0, "probability of grey")
    gaussian_blur_prob: float = setting(0.0, "probability of Gaussian blur")
    aa: str | None = setting(
        None,
        "automatic: rand-m9-mstd0.5-inc1, v0, v0r, original, originalr (also with -mstd0.5), augmix-m3-w3, "
        "3a, trivialaugwide",
    )
    aug_repeats: int = setting(0, "repeated augmentation: each image this many times an epoch, fewer images; 0: off")
    reprob: float = setting(0.0, "probability of random erasing")
    remode: Literal["const", "rand", "pixel"] = setting(
        "pixel", "what fills an erased box: zeros, one normal colour, a normal value for each pixel"
    )
    recount: int = setting(1, "largest number of erased boxes")
    recount_min: int = setting(1, "smallest number of erased boxes")
    rearea: tuple[float, float] = setting(
        (0.02, 1 / 3), "smallest and largest part of the area that is erased, all boxes together"
    )

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob", "reprob"):
            value = getattr(self, name)
            check(0.0 <= value <= 1.0, name, "a probability in [0, 1]", value)
        check(0.0 < self.scale[0] <= self.scale[1] <= 1.0, "scale", "0 < smallest <= largest <= 1", self.scale)
        check(0.0 < self.ratio[0] <= self.ratio[1], "ratio", "0 < smallest <= largest", self.ratio)
        check(0.0 < self.rearea[0] <= self.rearea[1] <= 1.0, "rearea", "0 < smallest <= largest <= 1", self.rearea)
        for name in ("color_jitter", "aug_repeats"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        check(1 <= self.recount <= 1000, "recount", "in [1, 1000]", self.recount)
        check(1 <= self.recount_min <= self.recount, "recount_min", "in [1, recount]", self.recount_min)


@dataclass(frozen=True, kw_only=True)
class MixOptions:
    """mixing of a batch (training only)"""

    mixup: float = setting(0.0, "alpha of mixup's Beta(alpha, alpha); 0: off")
    cutmix: float = setting(0.0, "alpha of cutmix's Beta(alpha, alpha); 0: off")
    cutmix_minmax: tuple[float, float] | None = setting(
        None, "cutmix with a box whose sides are these parts of the image's, at least and at most, instead of by alpha"
    )
    mixup_prob: float = setting(1.0, "probability that a batch, pair or image is mixed")
    mixup_switch_prob: float = setting(0.5, "probability of cutmix when both are on")
    mixup_mode: Literal["batch", "pair", "elem", "half"] = setting(
        "batch", "one ratio for the batch, each pair or each image; half: two images make one, the batch shrinks"
    )
    mixup_off_epoch: int = setting(0, "first epoch without mixing; 0: never off")

    def __post_init__(self) -> None:
        for name in ("mixup_prob", "mixup_switch_prob"):
            value = getattr(self, name)
            check(0.0 <= value <= 1.0, name, "a probability in [0, 1]", value)
        for name in ("mixup", "cutmix", "mixup_off_epoch"):
            check(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        mixes = self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None
        fits = mixes or self.mixup_mode != "half"
        check(fits, "mixup_mode", "batch, pair or elem without mixup and cutmix", self.mixup_mode)
        if self.cutmix_minmax is not None:
            low, high = self.cutmix_minmax
            check(0.0 <= low <= high <= 1.0, "cutmix_minmax", "0 <= smallest <= largest <= 1", self.cutmix_minmax)


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """loss"""

    smoothing: float = setting(0.1, "label smoothing")
    bce_loss: bool = setting(False, "binary cross-entropy of each class instead of softmax cross-entropy")
    bce_sum: bool = setting(False, "sum the binary losses over the classes instead of their mean")
    bce_target_thresh: float | None = setting(
        None, "binary loss: targets above this are 1, others 0; none: targets as they are"
    )

    def __post_init__(self) -> None:
        check(0.0 <= self.smoothing < 1.0, "smoothing", "in [0, 1)", self.smoothing)
        threshold = self.bce_target_thresh
        check(threshold is None or 0.0 <= threshold < 1.0, "bce_target_thresh", "in [0, 1)", threshold)
        for name in ("bce_sum", "bce_target_thresh"):
            value = getattr(self, name)
            check(self.bce_loss or value in (False, None), name, "off unless bce_loss is on", value)
