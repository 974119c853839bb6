"""What a container of the tests holds: every kind of tensor, and a state."""

import numpy as np

STATE = {"epoch": 3, "best": 81.25, "name": "ä", "nested": {"list": [1, None, True]}}


def some_tensors() -> dict[str, np.ndarray]:
    """Returns small tensors of all types, with odd values and layouts among them."""
    rng = np.random.default_rng(0)
    return {
        "model/weight": rng.standard_normal((4, 6)).astype(np.float32),
        "model/bias": np.array([0.0, -0.0, 1e-45, np.finfo(np.float32).max], np.float32),
        "ema/weight": rng.standard_normal((4, 6)).astype(np.float16),
        "optimizer/steps": np.arange(5),
        "rng": rng.integers(0, 256, 7, dtype=np.uint8),
        "transposed": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array([True, False]),
    }


def assert_bits_equal(found: np.ndarray, expected: np.ndarray) -> None:
    """Compares type, shape and every bit."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
