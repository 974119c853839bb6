"""The loss of soft targets."""

import paddle
import paddle.nn.functional as F
from paddle import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, K) with target distributions (B, K), in fp32 also under AMP -> scalar."""
    log_prob = F.log_softmax(logits.astype("float32"), axis=-1)
    return -paddle.sum(targets * log_prob, axis=-1).mean()
