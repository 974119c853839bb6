"""What a model says about every image of a split.

N images, K classes, k = min(5, K).
"""

from dataclasses import dataclass, replace

import numpy as np
import paddle
from paddle import Tensor

from util.distributed import World
from util.metrics import Metrics, best_classes


@dataclass(frozen=True)
class ImageResults:
    """Results in the order of the split's images. Scores are probabilities in [0, 1]."""

    labels: np.ndarray  # int64 (N,)
    top_ids: np.ndarray  # int64 (N, k), the best class first
    top_scores: np.ndarray  # float64 (N, k)
    label_scores: np.ndarray  # float64 (N,)
    losses: np.ndarray  # float64 (N,), cross-entropy

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """The best classes, int64 (N,)."""
        return self.top_ids[:, 0]

    @property
    def hits(self) -> np.ndarray:
        """Where the best classes are the label, bool (N, k)."""
        return self.top_ids == self.labels[:, None]

    def metrics(self) -> Metrics:
        """Returns top-1, top-5 and loss. The sum is in the order of the images, whatever process had which."""
        top1, top5 = int(self.hits[:, 0].sum()), int(self.hits.sum())
        return Metrics.from_sums(images=len(self), top1=top1, top5=top5, loss=float(self.losses.sum()))

    def renumbered(self, classes: np.ndarray) -> "ImageResults":
        """Returns the results with class i called `classes[i]`: a subset's positions become the model's classes."""
        return replace(self, labels=classes[self.labels], top_ids=classes[self.top_ids])


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

    def compute(self, world: World, *, num_images: int) -> ImageResults:
        """Returns the results of all processes in the order of the images, each of which must have come once."""
        mine = [paddle.concat(list(parts)).numpy() for parts in zip(*self._batches, strict=True)]
        everyone = [theirs for theirs in world.gather(mine) if theirs]  # a process may have had no image
        indices, labels, best, scores, log_scores = (np.concatenate(parts) for parts in zip(*everyone, strict=True))
        order = np.argsort(indices, kind="stable")
        assert np.array_equal(indices[order], np.arange(num_images)), "every image once"
        log_scores = log_scores[order]
        results = ImageResults(
            labels=labels[order],
            top_ids=best[order],
            top_scores=scores[order],
            label_scores=np.exp(log_scores),
            losses=-log_scores,
        )
        results.metrics()  # refuses what is not finite
        return results
