"""Which points are drawn, and axes with round numbers."""

import numpy as np
import pytest

from util.report.curves import Axis, axis_for, log_ticks, number_text, thin, ticks


def test_few_points_stay_as_they_are() -> None:
    x, y = np.arange(2000.0), np.arange(2000.0) ** 2
    assert all(a is b for a, b in zip(thin(x, y), (x, y), strict=True))


@pytest.mark.parametrize("place", [0, 1, 77_777, 123_456, 199_999])
def test_thinning_keeps_every_extreme_and_every_gap(place: int) -> None:
    rng = np.random.default_rng(1)
    x, y = np.arange(200_000.0), rng.normal(size=200_000)
    for value in (50.0, -50.0, np.nan):
        changed = y.copy()
        changed[place] = value
        few_x, few_y = thin(x, changed)
        assert len(few_x) <= 2000
        assert place in few_x
        assert (np.diff(few_x) > 0).all()
        np.testing.assert_array_equal(few_y, changed[few_x.astype(int)], "a point was moved")
        assert few_x[[0, -1]].tolist() == [0, 199_999]


def test_thinning_keeps_the_lowest_and_the_highest_of_every_part() -> None:
    rng = np.random.default_rng(2)
    x, y = np.arange(66_600.0), rng.normal(size=66_600)
    _, few = thin(x, y)
    parts = y.reshape(666, 100)
    assert set(parts.min(axis=1)) | set(parts.max(axis=1)) <= set(few)
    # control: every hundredth point alone loses most of them
    assert not set(parts.max(axis=1)) <= set(y[::33])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0.1, 0.45, [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45]),
     (0, 3, [0, 0.5, 1, 1.5, 2, 2.5, 3])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_lie_on_the_axis_and_are_never_many() -> None:
    rng = np.random.default_rng(3)
    lows, widths = rng.normal(size=500) * 10.0 ** rng.integers(-9, 9, 500), 10.0 ** rng.uniform(-6, 9, 500)
    for low, width in zip(lows, widths, strict=True):
        found = ticks(low, low + width)
        assert 2 <= len(found) <= 10
        assert min(found) >= low - 1e-6 * width
        assert max(found) <= low + width * (1 + 1e-6)
    assert log_ticks(0.5, 2000) == pytest.approx([1, 10, 100, 1000])
    assert log_ticks(1.5, 12) == pytest.approx([2, 5, 10])


@pytest.mark.parametrize(
    "values", [[0.0], [7.0, 7.0], [-1e300, 1e300], [1.0, 1.0 + 1e-16], [0.0, 1e-300], [1e9, 1e9 + 1e-4]], ids=str
)
def test_any_numbers_get_an_axis(values: list[float]) -> None:
    axis = axis_for(np.array(values))
    place = axis.place(np.array(values))
    assert ((place >= 0) & (place <= 1)).all()
    assert axis.ticks()


def test_one_spike_makes_the_axis_logarithmic_and_negative_numbers_do_not() -> None:
    assert axis_for(np.array([1.0, 1.1, 1.2, 500.0])).logarithmic
    assert not axis_for(np.array([-1.0, 1.1, 1.2, 500.0])).logarithmic
    assert not axis_for(np.array([1.0, 1.1, 1.2, 50.0])).logarithmic
    assert Axis(1, 100, logarithmic=True).place(np.array([1.0, 10.0, 100.0])).tolist() == [0, 0.5, 1]


def test_room_ends_at_the_floor_and_the_ceiling() -> None:
    axis = axis_for(np.array([0.0, 100.0]), floor=0, ceiling=100)
    assert (axis.low, axis.high) == (0, 100)
    assert axis_for(np.array([-5.0, 100.0]), floor=0).low < -5, "a number below the floor is shown"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.001, "0.001"), (12.5, "12.5"), (3000, "3,000"), (2e-5, "2e-05"), (0.1 + 0.2, "0.3")],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert number_text(value) == text
