"""Which images make up which batch: a pure function of (seed, epoch, rank, number of processes).

Paddle's own sampler pads with duplicates, ignores the seed and counts epochs by itself. A sample is named by a key
(epoch, index, repeat), which is all that its random augmentation depends on; so a run can be resumed anywhere, with any
number of workers, without replaying anything.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np

from util.errors import UsageError

SampleKey = tuple[int, int, int]  # epoch, index of the image, repeat (0 without repeated augmentation)


# One stream for each purpose, so that no two of them draw the same numbers from equal keys.
ORDER, SAMPLE, MIXING, MODEL, SUBSET, SUBSTITUTE = range(6)


def stream(seed: int, purpose: int, *key: int) -> np.random.SeedSequence:
    """Returns the source of the random numbers that one purpose has for one key."""
    return np.random.SeedSequence([seed, purpose, *key])


def sample_rng(seed: int, key: SampleKey) -> np.random.Generator:
    """Returns the generator of one sample's augmentation."""
    return np.random.default_rng(stream(seed, SAMPLE, *key))


def substitutes(seed: int, key: SampleKey, num_images: int) -> Iterator[SampleKey]:
    """Yields, without end, the samples that stand in for one whose image cannot be read, in the order of trying."""
    epoch, _, repeat = key
    rng = np.random.default_rng(stream(seed, SUBSTITUTE, *key))
    while True:
        yield epoch, int(rng.integers(num_images)), repeat


class TrainBatches:
    """Batch sampler of training: one process's micro-batches of an epoch, as lists of sample keys.

    Each process takes every `world_size`-th sample of the shuffled order, so that process counts do not change which
    images share an update. Images left over after the last full micro-batch are dropped.
    repeats: with 2 or more, each image stands that many times in a row, each time augmented anew, and the epoch keeps
    its length (repeated augmentation, Hoffer et al., arXiv 1901.09335, as DeiT uses it).
    order: draws an epoch's order, a permutation of all images; None draws any of them with equal probability.
    """

    def __init__(
        self,
        *,
        num_images: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 0,
        order: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        if num_images < batch_size * world_size:
            raise UsageError(
                f"batch_size {batch_size} x {world_size} processes needs at least {batch_size * world_size} training "
                f"images; {num_images} were found: lower --batch_size"
            )
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.repeats = max(1, repeats)
        self.order = order
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Chooses the epoch whose order the next iteration gives, from its micro-batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.num_images // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rng = np.random.default_rng(stream(self.seed, ORDER, self.epoch))
        order = rng.permutation(self.num_images) if self.order is None else self.order(rng)
        stride = self.batch_size * self.world_size
        for batch in range(self.start, len(self)):
            places = range(batch * stride + self.rank, (batch + 1) * stride, self.world_size)
            yield [(self.epoch, int(order[p // self.repeats]), p % self.repeats) for p in places]


class EvalBatches:
    """Batch sampler of evaluation: every image exactly once over all processes, none padded."""

    def __init__(self, *, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_images, world_size)
        self.batch_size = batch_size
        self.rounds = math.ceil(math.ceil(num_images / world_size) / batch_size)  # batches of the process with the most

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield [(0, index, 0) for index in self.indices[start : start + self.batch_size]]
