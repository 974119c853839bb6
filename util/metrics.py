"""Accuracy and loss as sums, divided once."""

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor

from util.distributed import World
from util.errors import NonFiniteLossError

TOP_K = 5


@dataclass(frozen=True)
class Metrics:
    """Result of an evaluation; accuracies in percent."""

    images: int
    top1: float
    top5: float
    loss: float

    @classmethod
    def from_sums(cls, *, images: int, top1: float, top5: float, loss: float) -> "Metrics":
        """Returns hits and loss divided by the number of images. A NaN or infinite loss is a NonFiniteLossError."""
        if not np.isfinite(loss):
            raise NonFiniteLossError(f"the loss over {images} images is {loss}: the weights give no finite logits")
        return cls(images=images, top1=100 * top1 / images, top5=100 * top5 / images, loss=loss / images)


def best_classes(logits: Tensor) -> Tensor:
    """Returns the min(5, K) best classes of logits (B, K): int64 (B, k), the best first."""
    return paddle.topk(logits, min(TOP_K, logits.shape[1]), axis=1)[1]


class MetricSums:
    """Adds up batches on the device; nothing is copied to the host before `compute`.

    Top-5 means top-k with k = min(5, number of classes).
    """

    def __init__(self) -> None:
        self.sums = paddle.zeros([3], dtype="float64")  # top-1 hits, top-5 hits, loss
        self.seen = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: logits (B, K), labels int64 (B,)."""
        hits = (best_classes(logits) == labels.unsqueeze(1)).astype("float64")  # (B, k)
        precise = logits.astype("float64")  # as in `ImageCollector`
        of_label = paddle.take_along_axis(precise, labels.unsqueeze(1), axis=1)[:, 0]
        losses = paddle.logsumexp(precise, axis=1) - of_label  # F.cross_entropy stops at 64 on a CPU
        self.sums += paddle.stack([hits[:, 0].sum(), hits.sum(), losses.sum()])
        self.seen += len(labels)

    def compute(self, world: World) -> Metrics:
        """Returns the metrics over all processes. A NaN or infinite loss is a NonFiniteLossError."""
        top1, top5, loss, seen = world.sum(np.append(self.sums.numpy(), self.seen)).tolist()
        return Metrics.from_sums(images=int(seen), top1=top1, top5=top5, loss=loss)
