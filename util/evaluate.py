"""Evaluating a model on a labelled split."""

from collections.abc import Iterable

import paddle
from paddle import nn
from tqdm import tqdm

from util.data.loader import Batch, refuse_bad_images
from util.distributed import World
from util.metrics import Metrics, MetricSums


@paddle.no_grad()
def evaluate(model: nn.Layer, batches: Iterable[Batch], world: World, *, num_batches: int) -> Metrics:
    """Returns exact top-1, top-5 and loss over all processes; every image counts once.

    An unreadable image is a DataError: accuracy over fewer images would not be the split's.
    """
    training = model.training
    model.eval()
    sums = MetricSums()
    for images, labels, _, bad in tqdm(
        batches, "eval", total=num_batches, leave=False, disable=None if world.is_main else True
    ):
        refuse_bad_images(bad)
        sums.update(model(images), labels)
    if training:
        model.train()
    return sums.compute(world)
