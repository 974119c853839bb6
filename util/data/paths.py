"""Many paths in little memory: one block of bytes, from which a path is read when it is asked for.

A list of 1.3 million strings takes about 150 MB in every process that touches it, since counting references writes to
the pages that forked workers share; a block takes 50 MB once.
"""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Paths(Sequence[str]):
    """A sequence of paths, none of them empty. What is not UTF-8 in a name comes back as `os.fsdecode` has it."""

    def __init__(self, joined: np.ndarray) -> None:
        """joined: uint8 (bytes,), the paths as UTF-8 with a null character, which no path has, between any two."""
        self.joined = joined
        ends = np.append(np.flatnonzero(joined == 0), len(joined)) if len(joined) else np.zeros(0, np.int64)
        self._bounds = np.append(-1, ends)  # path i: the bytes between bounds i and i + 1

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Paths":
        """Returns the paths in this form."""
        return cls(np.frombuffer("\0".join(paths).encode("utf-8", "surrogateescape"), np.uint8))

    def __reduce__(self) -> tuple[type["Paths"], tuple[np.ndarray]]:
        return Paths, (self.joined,)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def _bytes(self, index: int) -> bytes:
        return self.joined[self._bounds[index] + 1 : self._bounds[index + 1]].tobytes()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Paths": ...
    def __getitem__(self, index: int | slice) -> "str | Paths":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        return self._bytes(place).decode("utf-8", "surrogateescape")

    def select(self, indices: np.ndarray) -> "Paths":
        """Returns the paths at these places, in this order."""
        return Paths(np.frombuffer(b"\0".join(self._bytes(i) for i in indices.tolist()), np.uint8))
