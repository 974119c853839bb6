"""Files with the same bytes, within a split and between splits."""

from collections.abc import Sequence

import numpy as np


def twins_within(digests: np.ndarray, paths: Sequence[str], readable: np.ndarray) -> list[tuple[int, int]]:
    """Returns (first, this) places of the files that have the same bytes as an earlier one, by the later place.

    digests: uint8 (N, 32). readable: places that count, sorted. A file that a list names twice is no twin of itself.
    """
    keys = np.ascontiguousarray(digests[readable]).view("V32")[:, 0]
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(readable)))
    pairs = zip(readable[first[which[again]]].tolist(), readable[again].tolist(), strict=True)
    return [(i, j) for i, j in pairs if paths[i] != paths[j]]


def twins_between(
    digests: np.ndarray, readable: np.ndarray, others: np.ndarray, others_readable: np.ndarray
) -> list[tuple[int, int]]:
    """Returns (one, other) places of the other split's files that have the same bytes as one of this split."""
    place: dict[bytes, int] = {}
    for i in readable.tolist():
        place.setdefault(digests[i].tobytes(), i)
    found = ((place.get(others[j].tobytes()), j) for j in others_readable.tolist())
    return [(i, j) for i, j in found if i is not None]
