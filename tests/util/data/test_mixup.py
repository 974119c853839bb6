"""Mixup and cutmix: soft targets say what the mixed images hold."""

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import paddle
import pytest

from tests.reference import picture
from tests.util.data.timm_policies import ARRAYS, UNLIKELY, distance, plain
from util.data.mixup import Mixer, cutmix_box, minmax_box, soft_targets
from util.data.transforms import train_transform
from util.options import MixOptions

CLASSES = 5


def _mixer(**options: Any) -> Mixer:
    defaults: dict[str, Any] = {
        "mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None, "prob": 1.0, "switch_prob": 0.5, "mode": "batch",
        "num_classes": CLASSES, "smoothing": 0.0,
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


MODES: tuple[Any, ...] = ("batch", "pair", "elem", "half")
KINDS: dict[str, dict[str, Any]] = {
    "mixup": {"mixup": 0.8},
    "cutmix": {"cutmix": 1.0},
    "minmax": {"cutmix_minmax": (0.2, 0.8)},
    "both": {"mixup": 0.8, "cutmix": 1.0, "switch_prob": 0.3, "prob": 0.9},
}


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_targets_are_what_the_images_hold(mode: str, kind: str, batch: int) -> None:
    weights = []
    for seed in range(12):
        images, targets = _mix(_mixer(mode=mode, **KINDS[kind]), batch, seed)
        assert len(images) == len(targets) == (max(1, batch // 2) if mode == "half" else batch)
        assert targets.dtype == images.dtype == np.float32
        np.testing.assert_allclose(targets.sum(axis=1), 1.0, rtol=1e-6)
        # The mean value of image i is lam * i + (1 - lam) * (its partner in the reversed batch).
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), targets @ np.arange(CLASSES), atol=1e-5)
        for i, target in enumerate(targets):
            assert set(np.argwhere(target > 1e-6).ravel()) <= {i, batch - 1 - i}
        weights.append(targets[0, 0])
    assert batch == 1 or np.std(weights) > 0.1  # a new lam for each batch


@pytest.mark.parametrize("kind", KINDS)
def test_ratios_are_shared_by_the_batch_by_pairs_or_not_at_all(kind: str) -> None:
    def ratios(mode: str) -> np.ndarray:
        _, targets = _mix(_mixer(mode=mode, num_classes=9, **KINDS[kind] | {"prob": 1.0}), 8, seed=3)
        return targets.max(axis=1).round(5) if mode == "half" else targets[np.arange(8), np.arange(8)].round(5)

    assert len(set(ratios("batch"))) == 1
    pairs = ratios("pair")
    np.testing.assert_array_equal(pairs, pairs[::-1])
    assert len(set(pairs)) >= 3  # of 4: boxes of whole pixels may be as large as another
    assert len(set(ratios("elem"))) >= 6
    assert len(set(ratios("half"))) >= 3


def test_half_uses_each_image_once() -> None:
    _, targets = _mix(_mixer(mode="half", mixup=1.0), 5, seed=0)
    assert [set(np.flatnonzero(t).tolist()) for t in targets] == [{0, 4}, {1, 3}]
    images, targets = _mix(_mixer(mode="half"), 5, seed=0)  # unmixed it still halves
    np.testing.assert_array_equal(images[:, 0, 0, 0], [0, 1])
    np.testing.assert_array_equal(targets, np.eye(2, CLASSES))


def test_pair_cuts_the_same_box_from_both() -> None:
    images, _ = _mix(_mixer(mode="pair", cutmix=1.0), 4, seed=1)
    for i in (0, 1):
        np.testing.assert_array_equal(images[i, 0] == 3 - i, images[3 - i, 0] == i)
        assert 0 < (images[i, 0] == i).mean() < 1
    assert not np.array_equal(images[0, 0] == 3, images[1, 0] == 2)


# --- the reference's distributions

MIXING_KINDS = [(kind, mode) for kind in KINDS for mode in MODES]


def _kept(kind: str, mode: Any, *, count: int = 4000) -> np.ndarray:
    """Returns how much of itself each of `count` images of 60 x 80 keeps."""
    rng, mixer = np.random.default_rng(0), _mixer(mode=mode, **KINDS[kind])
    kept: list[float] = []
    batch = 1 if mode == "batch" else 64
    while len(kept) < count:
        rows = mixer.draw_all(rng, batch, 60, 80)[:, 0]
        kept.extend(rows[:32] if mode == "pair" else rows)
    return np.array(kept[:count])


@pytest.mark.parametrize(("kind", "mode"), MIXING_KINDS)
def test_parts_that_images_keep_are_distributed_as_timms(kind: str, mode: str) -> None:
    kept = _kept(kind, mode)
    assert distance(kept, f"{kind}_{mode}") < UNLIKELY
    assert min(distance(kept, f"{other}_{mode}") for other in KINDS if other != kind) > UNLIKELY  # negative control


@pytest.mark.parametrize("kind", ["cutmix", "minmax"])
def test_boxes_lie_where_timms_do(kind: str) -> None:
    rng, mixer, pasted = np.random.default_rng(0), _mixer(**KINDS[kind]), np.zeros((60, 80))
    for _ in range(4000):
        _, _, top, bottom, left, right = mixer.draw_all(rng, 1, 60, 80)[0].astype(int)
        pasted[top:bottom, left:right] += 1 / 4000
    np.testing.assert_allclose(pasted[::6, ::8], ARRAYS[f"coverage|{kind}"], atol=0.045)  # 4 standard errors
    assert pasted[30, 40] > pasted[0, 0] + 0.1


@pytest.mark.parametrize("minmax", [(0.0, 0.0), (0.3, 0.3), (0.3, 0.31), (0.5, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("side", [1, 2, 7])
def test_minmax_boxes_of_small_images_stay_inside(side: int, minmax: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        top, bottom, left, right = minmax_box(rng, side, side + 3, minmax)
        assert 0 <= top <= bottom <= side
        assert 0 <= left <= right <= side + 3
        assert int(side * minmax[0]) <= bottom - top <= side * minmax[1]
    assert _mix(_mixer(cutmix_minmax=minmax), 2, 0, size=(side, side))[0].shape == (2, 3, side, side)


# --- options

CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mixup": ({}, {"mixup": 1.0}),
    "cutmix": ({}, {"cutmix": 1.0}),
    "cutmix_minmax": ({}, {"cutmix_minmax": (0.3, 0.6)}),
    "mixup_prob": ({"mixup": 1.0}, {"prob": 0.0}),
    "mixup_switch_prob": ({"mixup": 1.0, "cutmix": 1.0, "switch_prob": 0.0}, {"switch_prob": 1.0}),
    "mixup_mode": ({"mixup": 1.0}, {"mode": "elem"}),
}
ELSEWHERE = {"mixup_off_epoch"}  # chooses the mixer of an epoch


def test_every_mixing_option_is_in_the_table() -> None:
    assert {field.name for field in fields(MixOptions)} - ELSEWHERE == set(CHANGES)
    names = {name.removeprefix("mixup_") for name in CHANGES}
    assert set(inspect.signature(Mixer).parameters) == names | {"num_classes", "smoothing"}


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_changes_the_result(name: str) -> None:
    shared, change = CHANGES[name]
    before, after = _mix(_mixer(**shared), 4, 2), _mix(_mixer(**shared | change), 4, 2)
    assert not np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])


def test_defaults_are_timms() -> None:
    timm, ours = plain("defaults")["Mixup"], MixOptions()
    assert (ours.mixup_prob, ours.mixup_switch_prob) == (timm["prob"], timm["switch_prob"])
    assert (ours.mixup_mode, ours.cutmix, ours.cutmix_minmax) == (
        timm["mode"], timm["cutmix_alpha"], timm["cutmix_minmax"],
    )  # fmt: skip
    assert ours.mixup == 0.0  # of timm's training script: its class has 1


def test_minmax_turns_cutmix_on_and_shares_with_mixup() -> None:
    rng = np.random.default_rng(0)
    mixer = _mixer(mixup=1.0, cutmix_minmax=(0.3, 0.6), switch_prob=0.25)
    cut = sum(mixer.draw(rng, 40, 40).blend == 1.0 for _ in range(400))
    assert 70 <= cut <= 130


# --- Paddle's views


@pytest.fixture
def strided_views() -> Iterator[Any]:
    """Returns what switches FLAGS_use_stride_kernel, and switches it back at the end."""
    flag = "FLAGS_use_stride_kernel"
    before = paddle.get_flags([flag])
    yield lambda value: paddle.set_flags({flag: value})
    paddle.set_flags(before)


@pytest.mark.parametrize("batch", [4, 5])
@pytest.mark.parametrize("mode", MODES)
def test_flag_for_strided_views_changes_no_mixing(strided_views: Any, mode: str, batch: int) -> None:
    mixers = [_mixer(mode=mode, smoothing=0.1, **options) for options in KINDS.values()]
    results = []
    for flag in (False, True):
        strided_views(flag)
        results.append([_mix(mixer, batch, seed) for mixer in mixers for seed in range(4)])
    for (images, targets), (other_images, other_targets) in zip(*results, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(targets, other_targets)
    plain = np.arange(batch)[: batch // 2 if mode == "half" else batch]
    assert all(not np.allclose(images.mean(axis=(1, 2, 3)), plain) for images, _ in results[0][:12])  # they are mixed


def test_flag_for_strided_views_changes_no_erasing(strided_views: Any) -> None:
    transform = train_transform(input_size=24, reprob=1.0, remode="const", recount=3)
    results = []
    for flag in (False, True):
        strided_views(flag)
        results.append(paddle.to_tensor(transform(picture(40, 40), np.random.default_rng(0))).numpy())
    np.testing.assert_array_equal(*results)
    assert (results[0] == 0.0).mean() > 0.02


def test_flag_for_strided_views_loses_other_writes(strided_views: Any) -> None:
    """Negative control: the flag does something, to the writes that this project does not use."""
    sums = []
    for flag in (False, True):
        strided_views(flag)
        x = paddle.zeros([2, 3])
        x[0][1:] = 5.0
        sums.append(float(x.sum()))
    assert sums == [0.0, 10.0]


# --- one ratio for the batch


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
    boxes = [cutmix_box(rng, 43, 63, lam=0.75) for _ in range(300)]
    assert max(bottom - top for top, bottom, _, _ in boxes) == 21  # lengths may be odd
    assert max(right - left for _, _, left, right in boxes) == 31


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
    mixes = [_mixer(**options).draw(rng, 40, 40) for _ in range(400)]
    assert low <= sum(mix.blend == 1.0 for mix in mixes) <= high


def test_prob_is_the_part_of_mixed_batches() -> None:
    rng = np.random.default_rng(0)
    assert 110 <= sum(_mixer(mixup=1.0, prob=0.3).draw(rng, 40, 40).keep < 1.0 for _ in range(450)) <= 160


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 0.25 / 1.4), (8.0, 0.25 / 17)])
def test_lam_is_beta_distributed(alpha: float, variance: float) -> None:
    rng = np.random.default_rng(0)
    weights = [_mixer(mixup=alpha).draw(rng, 40, 40).keep for _ in range(2000)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.04)
    assert np.var(weights) == pytest.approx(variance, rel=0.12)
