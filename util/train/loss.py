"""The losses of soft targets, in float32 whatever the precision of the model."""

import functools
from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from util.options import LossOptions

Loss = Callable[[Tensor, Tensor], Tensor]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, K) with target distributions (B, K) -> scalar."""
    logits = logits.astype("float32")
    log_prob = logits - paddle.logsumexp(logits, axis=-1, keepdim=True)  # log_softmax stops at -64 on a CPU
    return -paddle.sum(targets * log_prob, axis=-1).mean()


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, threshold: float | None, sum_classes: bool) -> Tensor:
    """Binary cross-entropy of each class's logit with its target in [0, 1], both (B, K) -> scalar, the batch's mean.

    Of ResNet strikes back (Wightman et al. 2021, arXiv 2110.00476, section 2.2); as timm's BinaryCrossEntropy.

    threshold: targets above it count as 1, all others as 0; None takes them as they are.
    sum_classes: sum over the classes instead of their mean.
    """
    if threshold is not None:
        targets = (targets > threshold).astype("float32")
    losses = F.binary_cross_entropy_with_logits(logits.astype("float32"), targets, reduction="none")
    return losses.sum(-1).mean() if sum_classes else losses.mean()


def make_loss(options: LossOptions) -> Loss:
    """Returns the loss of logits (B, K) and targets (B, K), which the mixer has smoothed already."""
    if not options.bce_loss:
        return soft_cross_entropy
    return functools.partial(binary_cross_entropy, threshold=options.bce_target_thresh, sum_classes=options.bce_sum)
