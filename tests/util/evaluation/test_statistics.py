"""Accuracy by class, confusion and calibration against loops over the images."""

import math

import numpy as np
import pytest

from tests.image_results import make_results
from util.evaluation.results import ImageResults
from util.evaluation.statistics import calibration, class_statistics, confusion_pairs

RESULTS = make_results(400, 12)


def test_figures_are_means_over_images() -> None:
    right = [label in top for label, top in zip(RESULTS.labels, RESULTS.top_ids, strict=True)]
    found = RESULTS.metrics()
    assert found.images == 400
    assert found.top1 == pytest.approx(100 * np.mean([p == y for p, y in zip(RESULTS.predicted, RESULTS.labels)]))  # noqa: B905
    assert found.top5 == pytest.approx(100 * np.mean(right))
    assert found.loss == pytest.approx(-np.log(RESULTS.label_scores).mean())


def test_renumbering_changes_names_alone() -> None:
    classes = np.arange(12) * 10 + 3
    found = RESULTS.renumbered(classes)
    np.testing.assert_array_equal(found.labels, RESULTS.labels * 10 + 3)
    np.testing.assert_array_equal(found.top_ids, RESULTS.top_ids * 10 + 3)
    assert found.metrics() == RESULTS.metrics()


def test_confusion_has_every_image_and_no_zeros() -> None:
    full = np.zeros((12, 12), int)
    for label, predicted in zip(RESULTS.labels, RESULTS.predicted, strict=True):
        full[label, predicted] += 1
    pairs = confusion_pairs(RESULTS)
    assert pairs.tolist() == [[i, j, full[i, j]] for i in range(12) for j in range(12) if full[i, j]]
    assert 12 < len(pairs) < 144


def test_classes_one_by_one() -> None:
    classes = np.array([*range(12), 40])  # and one that was never seen
    found = class_statistics(RESULTS, classes)
    for row, number in enumerate(classes):
        own = np.flatnonzero(RESULTS.labels == number)
        assert found.images[row] == len(own)
        if not len(own):
            assert math.isnan(found.top1[row])
            assert math.isnan(found.top5[row])
            assert (found.confused_with[row], found.confused_images[row]) == (-1, 0)
            continue
        assert found.top1[row] == pytest.approx(100 * np.mean(RESULTS.predicted[own] == number))
        assert found.top5[row] == pytest.approx(100 * np.mean((RESULTS.top_ids[own] == number).any(axis=1)))
        wrong = [p for p in RESULTS.predicted[own].tolist() if p != number]
        most = max(wrong.count(p) for p in set(wrong))
        assert found.confused_with[row] == min(p for p in set(wrong) if wrong.count(p) == most)
        assert found.confused_images[row] == most
    assert (found.images == 0).sum() == 2


def test_calibration_against_the_definition() -> None:
    found = calibration(RESULTS)
    confidence, correct = RESULTS.top_scores[:, 0], RESULTS.predicted == RESULTS.labels
    ece = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        assert found.images[m - 1] == inside.sum()
        if not inside.any():
            assert math.isnan(found.accuracy[m - 1])
            continue
        assert found.confidence[m - 1] == pytest.approx(100 * confidence[inside].mean())
        assert found.accuracy[m - 1] == pytest.approx(100 * correct[inside].mean())
        ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(100 * ece)
    assert found.ece > 1
    np.testing.assert_allclose(found.edges, np.arange(16) / 15 * 100)


def test_bins_are_closed_above() -> None:
    scores = np.array([[1.0], [0.5], [0.25], [0.2500001], [1e-9]])
    zeros = np.zeros(5, np.int64)
    found = calibration(ImageResults(zeros, zeros[:, None], scores, scores[:, 0], zeros), num_bins=4)
    assert found.images.tolist() == [2, 2, 0, 1]


def test_a_model_whose_confidence_is_its_accuracy_has_no_error() -> None:
    right = np.array([1, 1, 1, 0])  # three of four, with a score of three quarters
    scores = np.full((4, 1), 0.75)
    found = calibration(ImageResults(right, np.ones((4, 1), np.int64), scores, scores[:, 0], scores[:, 0]))
    assert found.ece == pytest.approx(0, abs=1e-12)
