"""A model seen differently: with its mirror image's opinion, or choosing among fewer classes."""

import numpy as np
import paddle
from paddle import Tensor, nn


class MirrorMean(nn.Layer):
    """Mean of the logits of each preprocessed image and of its left-right mirror image."""

    def __init__(self, model: nn.Layer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> logits (B, K)."""
        return (self.model(images) + self.model(paddle.flip(images, axis=[3]))) / 2


class Restricted(nn.Layer):
    """Logits of the chosen classes alone, so that softmax, best class and best five are among these."""

    def __init__(self, model: nn.Layer, classes: np.ndarray) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("classes", paddle.to_tensor(classes.astype(np.int64)), persistable=False)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> logits (B, number of chosen classes)."""
        return paddle.index_select(self.model(images), self.classes, axis=1)
