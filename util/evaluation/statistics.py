"""Accuracy by class, which classes are taken for which, and whether confidence means what it says."""

from dataclasses import dataclass

import numpy as np

from util.evaluation.results import ImageResults

NUM_BINS = 15  # as in Guo et al.


@dataclass(frozen=True)
class ClassStatistics:
    """Accuracies of C classes, in percent; NaN where a class has no image."""

    class_ids: np.ndarray  # int64 (C,)
    images: np.ndarray  # int64 (C,)
    top1: np.ndarray  # float64 (C,)
    top5: np.ndarray  # float64 (C,)
    confused_with: np.ndarray  # int64 (C,), the wrong class that its images got most often; -1: none
    confused_images: np.ndarray  # int64 (C,), how many got it


def confusion_pairs(results: ImageResults) -> np.ndarray:
    """Returns the entries of the confusion matrix that are not zero: int64 (P, 3) of true, predicted, images; sorted.

    The full matrix of many classes is nearly all zeros. Unreadable images are left out.
    """
    pairs = np.stack([results.labels, results.predicted], axis=1)[results.is_readable]
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.concatenate([pairs, counts[:, None]], axis=1)


def class_statistics(results: ImageResults, class_ids: np.ndarray) -> ClassStatistics:
    """Returns the statistics of these classes, which must be sorted and include every label and every prediction.

    Of several classes that it is confused with equally often, the first counts. Unreadable images are wrong.
    """
    place = np.searchsorted(class_ids, results.labels)
    images = np.bincount(place, minlength=len(class_ids))
    confused_with, confused_images = np.full(len(class_ids), -1), np.zeros(len(class_ids), np.int64)
    for true, predicted, count in confusion_pairs(results):
        row = int(np.searchsorted(class_ids, true))
        if predicted != true and count > confused_images[row]:
            confused_with[row], confused_images[row] = predicted, count
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as promised
        top1, top5 = (
            100 * np.bincount(place, weights=hit, minlength=len(class_ids)) / images
            for hit in (results.hits[:, 0], results.hits.any(axis=1))
        )
    return ClassStatistics(class_ids, images, top1, top5, confused_with, confused_images)


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy in bins of equal width, in percent; NaN where a bin is empty."""

    edges: np.ndarray  # float64 (bins + 1,)
    images: np.ndarray  # int64 (bins,)
    confidence: np.ndarray  # float64 (bins,), mean of the best class's score
    accuracy: np.ndarray  # float64 (bins,)
    ece: float


def calibration(results: ImageResults, num_bins: int = NUM_BINS) -> Calibration:
    """Returns the bins, and the expected calibration error, equations 3 and 5 of Guo et al., arXiv 1706.04599.

    Bin m holds the confidences above (m - 1) / M up to m / M. The error is the mean over images of the distance
    between accuracy and confidence of their bin. Unreadable images are left out: nothing is known of them.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    is_readable = results.is_readable
    confidence, correct = results.top_scores[is_readable, 0], results.hits[is_readable, 0]
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    images = np.bincount(place, minlength=num_bins)
    sums = [np.bincount(place, weights=values, minlength=num_bins) for values in (confidence, correct)]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as promised
        mean_confidence, accuracy = (100 * total / images for total in sums)
    ece = 100 * float(np.abs(sums[0] - sums[1]).sum()) / len(confidence)
    return Calibration(100 * edges, images, mean_confidence, accuracy, ece)
