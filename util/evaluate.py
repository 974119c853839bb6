"""Evaluating a model on a labelled split."""

from collections.abc import Iterable, Sequence

import paddle
from paddle import nn
from tqdm import tqdm

from util.data.loader import Batch, refuse_bad_images
from util.distributed import World
from util.metrics import Metrics, MetricSums


@paddle.no_grad()
def evaluate(models: Sequence[nn.Layer], batches: Iterable[Batch], world: World, *, num_batches: int) -> list[Metrics]:
    """Returns each model's exact top-1, top-5 and loss over all processes; every image is read and counted once.

    An unreadable image is a DataError: accuracy over fewer images would not be the split's.
    """
    training = [model.training for model in models]
    for model in models:
        model.eval()
    sums = [MetricSums() for _ in models]
    for images, labels, _, bad in tqdm(
        batches, "eval", total=num_batches, leave=False, disable=None if world.is_main else True
    ):
        refuse_bad_images(bad)
        for model, metric in zip(models, sums, strict=True):
            metric.update(model(images), labels)
    for model, was_training in zip(models, training, strict=True):
        if was_training:
            model.train()
    return [metric.compute(world) for metric in sums]
