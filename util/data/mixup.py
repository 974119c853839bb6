"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) on the batch, and the soft targets of the loss."""

import math

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels int64 (B,) -> distributions float32 (B, K): 1 - smoothing on the label, smoothing / K everywhere."""
    return F.one_hot(labels, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def cutmix_box(rng: np.random.Generator, height: int, width: int, lam: float) -> tuple[int, int, int, int]:
    """Returns a box (top, bottom, left, right) of about (1 - lam) of the area, its centre uniform, cut at the edges."""
    half_h, half_w = int(height * math.sqrt(1.0 - lam)) // 2, int(width * math.sqrt(1.0 - lam)) // 2
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    return max(0, y - half_h), min(height, y + half_h), max(0, x - half_w), min(width, x + half_w)


class Mixer:
    """Mixes each batch with itself in reverse order: images (B, 3, H, W), labels (B,) -> images, targets (B, K).

    mixup, cutmix: alphas of Beta(alpha, alpha), 0 is off; switch_prob: probability of cutmix when both are on;
    prob: probability that a batch is mixed at all.
    """

    def __init__(
        self, *, mixup: float, cutmix: float, prob: float, switch_prob: float, num_classes: int, smoothing: float
    ) -> None:
        self.mixup = mixup
        self.cutmix = cutmix
        self.prob = prob
        self.switch_prob = switch_prob
        self.num_classes = num_classes
        self.smoothing = smoothing

    def draw(self, rng: np.random.Generator) -> tuple[bool, float]:
        """Returns whether to use cutmix, and the weight of the image itself."""
        if not (self.mixup or self.cutmix) or rng.random() >= self.prob:
            return False, 1.0
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < self.switch_prob)
        alpha = self.cutmix if use_cutmix else self.mixup
        return use_cutmix, float(rng.beta(alpha, alpha))

    def __call__(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        targets = soft_targets(labels, self.num_classes, self.smoothing)
        use_cutmix, lam = self.draw(rng)
        if lam == 1.0:
            return images, targets
        height, width = images.shape[2], images.shape[3]
        if use_cutmix:
            top, bottom, left, right = cutmix_box(rng, height, width, lam)
            lam = 1.0 - (bottom - top) * (right - left) / (height * width)  # what the cut box really left
            inside = paddle.zeros([1, 1, height, width], dtype="bool")
            inside[:, :, top:bottom, left:right] = True
            images = paddle.where(inside, images.flip(0), images)
        else:
            images = images * lam + images.flip(0) * (1.0 - lam)
        return images, targets * lam + targets.flip(0) * (1.0 - lam)
