"""Mixup and cutmix: soft targets say what the mixed images hold."""

from typing import Any

import numpy as np
import paddle
import pytest

from util.data.mixup import Mixer, cutmix_box, soft_targets

CLASSES = 5


def _mixer(**options: float) -> Mixer:
    defaults: dict[str, Any] = {
        "mixup": 0.0, "cutmix": 0.0, "prob": 1.0, "switch_prob": 0.5, "num_classes": CLASSES, "smoothing": 0.0,
    }  # fmt: skip
    return Mixer(**defaults | options)


def _mix(mixer: Mixer, batch: int, seed: int, size: tuple[int, int] = (20, 28)) -> tuple[np.ndarray, np.ndarray]:
    """Mixes a batch whose image i has the value i everywhere and the label i."""
    values = np.arange(batch, dtype=np.float32).reshape(batch, 1, 1, 1)
    images = paddle.to_tensor(np.broadcast_to(values, (batch, 3, *size)).copy())
    images, targets = mixer(images, paddle.arange(batch), np.random.default_rng(seed))
    return images.numpy(), targets.numpy()


def test_soft_targets() -> None:
    targets = soft_targets(paddle.to_tensor([2, 0]), 4, 0.1).numpy()
    np.testing.assert_allclose(targets, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]], rtol=1e-6)
    assert targets.dtype == np.float32


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_targets_are_what_the_images_hold(kind: str, batch: int) -> None:
    weights = []
    for seed in range(20):
        images, targets = _mix(_mixer(**{kind: 1.0}), batch, seed)
        np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)
        # The mean value of image i is lam * i + (1 - lam) * (its partner in the reversed batch).
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), targets @ np.arange(CLASSES), atol=1e-5)
        assert set(np.argwhere(targets[0] > 1e-6).ravel()) <= {0, batch - 1}
        weights.append(targets[0, 0])
    assert batch == 1 or np.std(weights) > 0.1  # a new lam for each batch


def test_cutmix_pastes_one_box_of_the_reversed_batch() -> None:
    images, targets = _mix(_mixer(cutmix=1.0), 4, seed=1)
    pasted = images[0, 0] == 3.0
    rows, columns = np.nonzero(pasted)
    assert pasted.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert set(np.unique(images[0])) == {0.0, 3.0}
    np.testing.assert_allclose(targets[0], [1 - pasted.mean(), 0, 0, pasted.mean(), 0], atol=1e-6)
    np.testing.assert_array_equal(images[1, 0] == 2.0, pasted)  # the same box for the whole batch


def test_cutmix_boxes_without_a_pixel_leave_images_and_targets() -> None:
    empty = 0
    for seed in range(200):
        images, targets = _mix(_mixer(cutmix=0.1), 2, seed, size=(6, 6))
        np.testing.assert_allclose(targets[0, 0], (images[0] == 0.0).mean(), atol=1e-6)
        empty += bool(targets[0, 0] == 1.0)
    assert empty > 20


def test_cutmix_box_has_its_share_of_the_area_and_stays_inside() -> None:
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(300):
        top, bottom, left, right = cutmix_box(rng, 40, 60, lam=0.75)
        assert 0 <= top <= bottom <= 40
        assert 0 <= left <= right <= 60
        areas.append((bottom - top) * (right - left))
    assert max(areas) == 20 * 30  # a quarter, unless an edge cuts it
    assert min(areas) >= 10 * 15


def test_mixing_is_with_the_reversed_batch() -> None:
    rng = np.random.default_rng(0)
    images = paddle.to_tensor(rng.standard_normal((3, 3, 4, 4)).astype(np.float32))
    mixed, targets = _mixer(mixup=1.0)(images, paddle.to_tensor([0, 1, 2]), np.random.default_rng(2))
    lam = float(targets[0, 0])
    assert 0.01 < lam < 0.99
    np.testing.assert_allclose(mixed.numpy(), lam * images.numpy() + (1 - lam) * images.numpy()[::-1], atol=1e-6)
    np.testing.assert_allclose(targets.numpy()[1], [0, 1, 0, 0, 0], atol=1e-6)  # the middle one with itself


def test_smoothing_is_mixed_too() -> None:
    _, targets = _mix(_mixer(mixup=1.0, smoothing=0.1), 2, seed=0)
    np.testing.assert_allclose(targets[:, 2:], 0.02, rtol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("options", [{"prob": 0.0, "mixup": 1.0, "cutmix": 1.0}, {}])
def test_off_returns_the_batch(options: dict[str, float]) -> None:
    for seed in range(10):
        images, targets = _mix(_mixer(**options), 3, seed)
        np.testing.assert_array_equal(images[:, 0, 0, 0], [0, 1, 2])
        np.testing.assert_array_equal(targets, np.eye(3, CLASSES))


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"mixup": 1.0, "cutmix": 1.0, "switch_prob": 0.0}, 0, 0),
        ({"mixup": 1.0, "cutmix": 1.0, "switch_prob": 1.0}, 400, 400),
        ({"mixup": 1.0, "cutmix": 1.0, "switch_prob": 0.25}, 70, 130),
        ({"mixup": 0.0, "cutmix": 1.0, "switch_prob": 0.0}, 400, 400),
        ({"mixup": 1.0, "cutmix": 0.0, "switch_prob": 1.0}, 0, 0),
    ],
)
def test_switch_prob_is_the_part_of_cutmix_when_both_are_on(options: dict[str, float], low: int, high: int) -> None:
    rng = np.random.default_rng(0)
    assert low <= sum(_mixer(**options).draw(rng)[0] for _ in range(400)) <= high


def test_prob_is_the_part_of_mixed_batches() -> None:
    rng = np.random.default_rng(0)
    assert 110 <= sum(_mixer(mixup=1.0, prob=0.3).draw(rng)[1] < 1.0 for _ in range(450)) <= 160


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 0.25 / 1.4), (8.0, 0.25 / 17)])
def test_lam_is_beta_distributed(alpha: float, variance: float) -> None:
    rng = np.random.default_rng(0)
    weights = [_mixer(mixup=alpha).draw(rng)[1] for _ in range(2000)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.04)
    assert np.var(weights) == pytest.approx(variance, rel=0.12)
