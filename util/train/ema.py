"""Exponential moving average of the weights."""

import copy

import paddle
from paddle import nn


class ModelEma:
    """A second model whose weights and BatchNorm statistics follow the first: ema = decay ema + (1 - decay) model.

    Built after the weights are loaded and shared between processes; updated once an optimizer update.
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model)
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.stop_gradient = True
        own = self.model.state_dict()
        self._pairs = [(own[name], tensor) for name, tensor in model.state_dict().items()]

    @paddle.no_grad()
    def update(self) -> None:
        """Moves the average one update towards the model."""
        for average, tensor in self._pairs:
            average.lerp_(tensor, 1.0 - self.decay)
