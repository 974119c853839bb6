"""Exponential moving average of the weights."""

import copy

import paddle
from paddle import nn

from util.options import EmaOptions


class ModelEma:
    """A second model whose weights and BatchNorm statistics follow the first: ema = decay ema + (1 - decay) model.

    Built after the weights are loaded and shared between processes; updated once an optimizer update. Nothing counts
    in here, so a resumed run, which knows how many updates it made, goes on as if it had never stopped.
    """

    def __init__(self, model: nn.Layer, options: EmaOptions) -> None:
        self.options = options
        self.model = copy.deepcopy(model)
        self.model.eval()
        for parameter in self.model.parameters():
            parameter.stop_gradient = True
        own = self.model.state_dict()
        self._pairs = [(own[name], tensor) for name, tensor in model.state_dict().items()]

    def decay(self, past_updates: int) -> float:
        """Returns the decay of the update after `past_updates` others.

        With warm-up it is min(model_ema_decay, 1 - (1 + past_updates) ** (-2 / 3)), as in timm's ModelEmaV3 with its
        default gamma and power: the first update copies the model, and 0.9998 is reached after some 350,000. Without,
        it is model_ema_decay from the first update on; ModelEmaV3 copies the model at the first one there too.
        """
        decay = self.options.model_ema_decay
        if self.options.model_ema_warmup:
            decay = min(decay, 1.0 - (1.0 + past_updates) ** (-2.0 / 3.0))
        return decay

    @paddle.no_grad()
    def update(self, past_updates: int) -> None:
        """Moves the average one update towards the model, which has made `past_updates` updates before this one."""
        weight = paddle.full([], 1.0 - self.decay(past_updates))  # made once; every lerp_ would copy a float
        for average, tensor in self._pairs:
            average.lerp_(tensor, weight)
