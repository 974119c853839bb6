"""Fitting a first convolution to another number of input channels. Imports no paddle."""

import numpy as np


def can_adapt(weight: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Returns whether a convolution's weight differs from `shape` (out, in, kh, kw) in `in` alone, and bridgeably."""
    if weight.dtype.kind != "f" or weight.ndim != 4 or len(shape) != 4 or weight.shape[1] == shape[1]:
        return False
    same_otherwise = (weight.shape[0], *weight.shape[2:]) == (shape[0], *shape[2:])
    return same_otherwise and (shape[1] == 1 or shape[1] > weight.shape[1])


def adapt_channels(weight: np.ndarray, channels: int) -> np.ndarray:
    """Returns a convolution's weights (out, in, kh, kw) for another number of input channels: one, or more than `in`.

    For one they are summed over `in`; for more they are repeated in order, each divided by how often it stands. So a
    grey picture, the same in all channels, gets the response that it had before.
    """
    weight = weight.astype(np.float32, copy=False)
    if channels == 1:
        return weight.sum(axis=1, keepdims=True)
    source = np.arange(channels) % weight.shape[1]
    times = np.bincount(source)[source].astype(np.float32)
    return weight[:, source] / times[:, None, None]
