"""The order of an epoch with --shard_window: near in the shards, random within, exact after a resume."""

import itertools

import numpy as np
import pytest

from util.data.sampler import SampleKey, TrainBatches
from util.data.shard_files import ShardOrder

COUNTS = (7, 1, 12, 9, 4, 11, 6)  # images of each shard
SHARD = np.repeat(np.arange(len(COUNTS), dtype=np.int32), COUNTS)


def batches(
    epoch: int, *, window: int | None, rank: int = 0, world: int = 1, start: int = 0, seed: int = 5,
    batch_size: int = 4, repeats: int = 0,
) -> list[list[SampleKey]]:  # fmt: skip
    found = TrainBatches(
        num_images=len(SHARD), batch_size=batch_size, seed=seed, rank=rank, world_size=world, repeats=repeats,
        order=None if window is None else ShardOrder(SHARD, window),
    )  # fmt: skip
    found.set_epoch(epoch, start)
    return list(found)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 100])
def test_every_image_once_and_shards_together(window: int) -> None:
    order = ShardOrder(SHARD, window)(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(50))
    shards = SHARD[order]
    place = 0
    seen: set[int] = set()
    for left in range(len(COUNTS), 0, -window):  # groups of `window` shards, none of which comes back
        group: set[int] = set()
        while len(group) < min(window, left) or (place < 50 and int(shards[place]) in group):
            group.add(int(shards[place]))
            place += 1
        assert len(group) == min(window, left)
        assert not group & seen
        seen |= group
    assert place == 50


def test_all_orders_of_a_window_are_equally_likely() -> None:
    """Two windows of two shards with an image each: 24 orders can come, if all shards are drawn and mixed evenly."""
    order = ShardOrder(np.arange(4, dtype=np.int32), 2)
    rng = np.random.default_rng(0)
    draws = [tuple(order(rng).tolist()) for _ in range(24_000)]
    counts = np.unique(draws, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 49.7  # chi-square of 23 degrees of freedom: p = 0.001


def test_images_within_a_shard_are_shuffled_anew_each_epoch() -> None:
    firsts = {tuple(i for batch in batches(epoch, window=1) for _, i, _ in batch) for epoch in range(20)}
    assert len(firsts) == 20
    shard_orders = {tuple(dict.fromkeys(SHARD[list(order)].tolist())) for order in firsts}
    assert len(shard_orders) > 15  # of 5,040


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    assert batches(3, window=2) == batches(3, window=2)
    assert batches(3, window=2) != batches(3, window=2, seed=6)
    assert batches(3, window=2) != batches(3, window=3)


@pytest.mark.parametrize("repeats", [0, 3])
@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_a_start_in_the_middle_is_the_tail_of_the_whole(world: int, window: int | None, repeats: int) -> None:
    for rank in range(world):
        whole = batches(2, window=window, rank=rank, world=world, repeats=repeats)
        for start in range(len(whole) + 1):
            assert batches(2, window=window, rank=rank, world=world, start=start, repeats=repeats) == whole[start:]


@pytest.mark.parametrize("window", [1, 2, 7])
def test_two_processes_share_the_batches_of_one(window: int) -> None:
    ranks = [batches(1, window=window, rank=rank, world=2, start=2) for rank in range(2)]
    alone = batches(1, window=window, batch_size=8, start=2)
    together = [set(itertools.chain(*pair)) for pair in zip(*ranks, strict=True)]
    assert together == [set(batch) for batch in alone]


def test_without_a_window_the_order_is_that_of_folders() -> None:
    plain = TrainBatches(num_images=50, batch_size=4, seed=5)
    plain.set_epoch(9)
    assert batches(9, window=None) == list(plain)
    assert batches(9, window=7) != list(plain)  # so the order given is the one that is used


def test_shards_of_which_num_samples_left_nothing_are_passed_over() -> None:
    kept = np.flatnonzero(~np.isin(SHARD, [1, 4]))
    order = ShardOrder(SHARD[kept], 2)(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(len(kept)))
