"""What a model says about every image of a split.

N images, K classes, k = min(5, K).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import paddle
from paddle import Tensor

from util.data.dataset import BadImage
from util.distributed import World
from util.errors import DataError
from util.metrics import Metrics, best_classes


@dataclass(frozen=True)
class ImageResults:
    """Results in the order of the split's images. Scores are probabilities in [0, 1].

    An image that could not be read, if that is allowed, has its label, the best classes -1, and NaN for all else.
    """

    labels: np.ndarray  # int64 (N,)
    top_ids: np.ndarray  # int64 (N, k), the best class first
    top_scores: np.ndarray  # float64 (N, k)
    label_scores: np.ndarray  # float64 (N,)
    losses: np.ndarray  # float64 (N,), cross-entropy
    unreadable: tuple[BadImage, ...] = ()  # by path

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The best classes, int64 (N,)."""
        return self.top_ids[:, 0]

    @property
    def is_readable(self) -> np.ndarray:
        """Which images could be read, bool (N,)."""
        return self.top_ids[:, 0] >= 0

    @property
    def hits(self) -> np.ndarray:
        """Where the best classes are the label, bool (N, k)."""
        return self.top_ids == self.labels[:, None]

    def metrics(self) -> Metrics:
        """Returns top-1, top-5 and loss. The sum is in the order of the images, whatever process had which.

        An unreadable image is wrong in top-1 and top-5, and not in the loss, which is a mean over the others.
        """
        top1, top5 = int(self.hits[:, 0].sum()), int(self.hits.sum())
        losses = self.losses[self.is_readable]
        found = Metrics.from_sums(images=len(losses), top1=top1, top5=top5, loss=float(losses.sum()))
        if not self.unreadable:
            return found
        return replace(found, images=len(self), top1=100 * top1 / len(self), top5=100 * top5 / len(self))

    def renumbered(self, classes: np.ndarray) -> "ImageResults":
        """Returns the results with class i called `classes[i]`: a subset's positions become the model's classes."""
        top_ids = np.where(self.top_ids < 0, -1, classes[self.top_ids])
        return replace(self, labels=classes[self.labels], top_ids=top_ids)


class ImageCollector:
    """Keeps a process's results on the device; nothing is copied to the host before `compute`."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Adds a batch: logits (B, K), labels and indices int64 (B,)."""
        best = best_classes(logits)  # (B, k)
        precise = logits.astype("float64")
        total = paddle.logsumexp(precise, axis=1, keepdim=True)  # (B, 1); F.log_softmax is many times slower on CPU
        of_best = paddle.take_along_axis(precise, best, axis=1) - total  # (B, k), logarithms of scores
        of_label = (paddle.take_along_axis(precise, labels.unsqueeze(1), axis=1) - total)[:, 0]  # (B,)
        self._batches.append((indices, labels, best, of_best.exp(), of_label))

    def compute(
        self,
        world: World,
        *,
        num_images: int,
        unreadable: Sequence[BadImage] = (),
        all_labels: np.ndarray | None = None,
    ) -> ImageResults:
        """Returns the results of all processes in the order of the images.

        unreadable: those of this process. all_labels: of the split, int64 (num_images,), if some may be unreadable;
        else each image must have come once. If none could be read, it is a DataError.
        """
        mine = [paddle.concat(list(parts)).numpy() for parts in zip(*self._batches, strict=True)]
        everyone = world.gather((mine, list(unreadable)))
        batches = [theirs for theirs, _ in everyone if theirs]  # a process may have had no image
        bad = sorted((image for _, theirs in everyone for image in theirs), key=lambda image: image.path)
        if not batches:
            raise DataError(f"none of the {num_images} images can be read; the first: {bad[0].path}: {bad[0].reason}")
        indices, labels, best, scores, log_scores = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert len(np.unique(indices)) == len(indices) == num_images - len(bad), "every image once"
        everything = ImageResults(
            labels=_scattered(labels, indices, num_images, fill=-1) if all_labels is None else all_labels,
            top_ids=_scattered(best, indices, num_images, fill=-1),
            top_scores=_scattered(scores, indices, num_images, fill=np.nan),
            label_scores=_scattered(np.exp(log_scores), indices, num_images, fill=np.nan),
            losses=_scattered(-log_scores, indices, num_images, fill=np.nan),
            unreadable=tuple(bad),
        )
        everything.metrics()  # refuses what is not finite
        return everything


def _scattered(values: np.ndarray, indices: np.ndarray, count: int, *, fill: float) -> np.ndarray:
    """Returns `values` at these places of an array of `count` rows, and `fill` at the others."""
    spread = np.full((count, *values.shape[1:]), fill, values.dtype)
    spread[indices] = values
    return spread
