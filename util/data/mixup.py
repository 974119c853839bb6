"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) on the batch, as timm's, and the soft targets of the loss.

Nothing is written into a part of a tensor: where Paddle's views are copies (FLAGS_use_stride_kernel=0) such a write can
be lost. The ratios and boxes of a batch are drawn with numpy and go to the device in one small tensor.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

Mode = Literal["batch", "pair", "elem", "half"]


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels int64 (B,) -> distributions float32 (B, K): 1 - smoothing on the label, smoothing / K everywhere."""
    return F.one_hot(labels, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def cutmix_box(rng: np.random.Generator, height: int, width: int, lam: float) -> tuple[int, int, int, int]:
    """Returns a box (top, bottom, left, right) of about (1 - lam) of the area, its centre uniform, cut at the edges."""
    h, w = int(height * math.sqrt(1.0 - lam)), int(width * math.sqrt(1.0 - lam))
    y, x = int(rng.integers(0, height)), int(rng.integers(0, width))
    return max(0, y - h // 2), min(height, y + (h + 1) // 2), max(0, x - w // 2), min(width, x + (w + 1) // 2)


def minmax_box(
    rng: np.random.Generator, height: int, width: int, minmax: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Returns a box (top, bottom, left, right) inside the image, each side a random part of the image's in `minmax`."""

    def draw_length(side: int) -> int:
        low, high = int(side * minmax[0]), int(side * minmax[1])
        return int(rng.integers(low, max(low + 1, high)))  # `high` itself is left out, as in timm, unless it is `low`

    h, w = draw_length(height), draw_length(width)
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    return top, top + h, left, left + w


def _first(x: Tensor, count: int) -> Tensor:
    return x if count == len(x) else x[:count]


class Mix(NamedTuple):
    """How an image is mixed with its partner: the partner fills the box, and blends in around it."""

    keep: float = 1.0  # part of the image in the result, and of its label in the target
    blend: float = 1.0  # weight of the image outside the box: `keep` for mixup, 1 for cutmix
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


class Mixer:
    """Mixes a batch with itself in reverse order: images (B, C, H, W), labels (B,) -> images, float32 targets (B, K).

    mixup, cutmix: alphas of Beta(alpha, alpha), 0 is off; cutmix_minmax: bounds of the cut box's sides as parts of the
    image's, which turn cutmix on and replace its alpha; switch_prob: probability of cutmix when both are on; prob:
    probability that a batch, pair or image is mixed at all.
    mode: `batch` draws one ratio for all images, `pair` one for each image and its partner, `elem` one for each image.
    `half` returns the first B // 2 images, each mixed with a partner of the second half that is not used otherwise. The
    middle image of an odd batch stays as it is, or is left out by `half`, unless it is alone.
    """

    def __init__(
        self,
        *,
        mixup: float,
        cutmix: float,
        cutmix_minmax: tuple[float, float] | None,
        prob: float,
        switch_prob: float,
        mode: Mode,
        num_classes: int,
        smoothing: float,
    ) -> None:
        self.mixup = mixup
        self.cutmix = cutmix if cutmix_minmax is None else 1.0
        self.cutmix_minmax = cutmix_minmax
        self.prob = prob
        self.switch_prob = switch_prob
        self.mode = mode
        self.num_classes = num_classes
        self.smoothing = smoothing

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Mix:
        """Returns how one batch, pair or image is mixed."""
        if not (self.mixup or self.cutmix) or rng.random() >= self.prob:
            return Mix()
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < self.switch_prob)
        alpha = self.cutmix if use_cutmix else self.mixup
        lam = float(rng.beta(alpha, alpha))
        if not use_cutmix:
            return Mix(keep=lam, blend=lam)
        if self.cutmix_minmax is None:
            top, bottom, left, right = cutmix_box(rng, height, width, lam)
        else:
            top, bottom, left, right = minmax_box(rng, height, width, self.cutmix_minmax)
        keep = 1.0 - (bottom - top) * (right - left) / (height * width)  # what the cut box really leaves
        return Mix(keep, 1.0, top, bottom, left, right)

    def draw_all(self, rng: np.random.Generator, batch: int, height: int, width: int) -> np.ndarray:
        """Returns the rows of a `Mix` for each image of the result, or one row for all of them, float64 (n, 6)."""
        if self.mode == "batch":
            mixes = [self.draw(rng, height, width)]
        elif self.mode == "elem":
            mixes = [self.draw(rng, height, width) for _ in range(batch)]
        else:
            mixes = [self.draw(rng, height, width) for _ in range(batch // 2)]
            if self.mode == "pair":
                mixes = [*mixes, *[Mix()] * (batch % 2), *reversed(mixes)]
        return np.asarray(mixes or [Mix()])

    def __call__(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        batch, _, height, width = images.shape
        targets = soft_targets(labels, self.num_classes, self.smoothing)
        mixes = self.draw_all(rng, batch, height, width)
        keep, blend, boxes = mixes[:, 0], mixes[:, 1], mixes[:, 2:]
        count = batch // 2 if self.mode == "half" and batch > 1 else batch
        if (keep == 1.0).all():
            return _first(images, count), _first(targets, count)
        partners, partner_targets = _first(images.flip(0), count), _first(targets.flip(0), count)
        images, targets = _first(images, count), _first(targets, count)
        columns = np.column_stack([keep, 1.0 - keep, blend, 1.0 - blend, boxes]).astype(np.float32)
        table = paddle.to_tensor(columns).reshape([len(mixes), -1, 1, 1, 1])  # all that goes to the device
        keep_self, keep_other, own, other, top, bottom, left, right = table.unbind(axis=1)  # (n, 1, 1, 1) each
        if (blend != 1.0).any():
            images = images * own + partners * other
        if (boxes[:, 1] > boxes[:, 0]).any():
            rows = paddle.arange(height, dtype="float32").reshape([1, 1, -1, 1])
            across = paddle.arange(width, dtype="float32").reshape([1, 1, 1, -1])
            inside = (rows >= top) & (rows < bottom) & (across >= left) & (across < right)  # (n, 1, H, W)
            images = paddle.where(inside, partners, images)
        return images, targets * keep_self.reshape([-1, 1]) + partner_targets * keep_other.reshape([-1, 1])
