"""Results of an evaluation that never took place."""

import numpy as np

from util.evaluation.results import ImageResults


def make_results(num_images: int, num_classes: int, *, seed: int = 0) -> ImageResults:
    """Results of a model that is right about half the time, on images that not every class has."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, max(1, num_classes - 1), num_images)  # the last class has no image
    logits = rng.normal(0, 1.5, (num_images, num_classes))
    logits[np.arange(num_images), labels] += 2.0
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    top = np.argsort(-scores, axis=1)[:, :5]
    own = scores[np.arange(num_images), labels]
    return ImageResults(labels, top, np.take_along_axis(scores, top, axis=1), own, -np.log(own))
