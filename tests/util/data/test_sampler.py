"""The samplers: every image in its place, whatever the number of processes."""

import itertools

import pytest

from util.data.sampler import EvalBatches, SampleKey, TrainBatches, sample_rng
from util.errors import UsageError


def _epoch(
    epoch: int = 0, *, num_images: int = 50, batch_size: int = 4, seed: int = 1, rank: int = 0, world: int = 1,
    repeats: int = 0,
) -> list[list[SampleKey]]:  # fmt: skip
    batches = TrainBatches(
        num_images=num_images, batch_size=batch_size, seed=seed, rank=rank, world_size=world, repeats=repeats
    )
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(batches) == len(found) == num_images // (batch_size * world)
    assert all(len(batch) == batch_size for batch in found)
    return found


@pytest.mark.parametrize("repeats", [0, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_the_batches_of_one_process(world: int, repeats: int) -> None:
    ranks = [_epoch(2, rank=rank, world=world, repeats=repeats) for rank in range(world)]
    alone = _epoch(2, batch_size=4 * world, repeats=repeats)
    together = [set(itertools.chain(*batches)) for batches in zip(*ranks, strict=True)]
    assert together == [set(batch) for batch in alone]
    assert all(len(batch) == 4 * world for batch in together)  # no image twice


def test_an_epoch_has_each_image_at_most_once() -> None:
    keys = list(itertools.chain(*_epoch(7)))
    assert len({index for _, index, _ in keys}) == len(keys) == 48
    assert {(epoch, repeat) for epoch, _, repeat in keys} == {(7, 0)}


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(epoch: int, seed: int) -> tuple[int, ...]:
        return tuple(index for _, index, _ in itertools.chain(*_epoch(epoch, seed=seed)))

    orders = [order(epoch, seed) for epoch in range(20) for seed in (1, 2)]
    assert len(set(orders)) == 40
    assert order(3, 2) == order(3, 2)


def test_epoch_can_be_iterated_again() -> None:
    batches = TrainBatches(num_images=20, batch_size=4, seed=0)
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(1)
    assert list(batches) != first


def test_repeats_are_distinct_and_keep_the_length() -> None:
    keys = list(itertools.chain(*_epoch(repeats=3)))
    assert len(set(keys)) == len(keys) == 48
    indices = [index for _, index, _ in keys]
    assert len(set(indices)) == 16
    assert {repeat for _, _, repeat in keys} == {0, 1, 2}
    ranks = [_epoch(rank=rank, world=3, repeats=3) for rank in range(3)]
    for batch in ranks:  # the repeats of an image go to different processes
        assert len({index for _, index, _ in batch[0]}) == 4


def test_too_few_images_is_a_usage_error_naming_batch_size() -> None:
    with pytest.raises(
        UsageError, match=r"batch_size 4 x 3 processes needs at least 12 .* 11 were found.*--batch_size"
    ):
        TrainBatches(num_images=11, batch_size=4, seed=0, world_size=3)
    assert len(TrainBatches(num_images=12, batch_size=4, seed=0, world_size=3)) == 1


@pytest.mark.parametrize(("num_images", "world"), [(10, 1), (10, 2), (10, 3), (3, 4)])
def test_evaluation_covers_each_image_once(num_images: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        batches = EvalBatches(num_images=num_images, batch_size=2, rank=rank, world_size=world)
        found = list(batches)
        assert len(batches) == len(found)
        assert all(1 <= len(batch) <= 2 for batch in found)
        seen += [index for _, index, _ in itertools.chain(*found)]
    assert sorted(seen) == list(range(num_images))


def test_each_part_of_a_key_changes_the_augmentation() -> None:
    keys: list[SampleKey] = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2, 3, 1), (3, 2, 1)]
    draws = [sample_rng(seed, key).random() for key in keys for seed in (0, 1)]
    assert len(set(draws)) == len(draws)
    assert sample_rng(5, (1, 2, 3)).random() == sample_rng(5, (1, 2, 3)).random()


def test_augmentation_does_not_share_a_stream_with_the_order() -> None:
    order = [index for batch in _epoch(3, num_images=16, seed=42) for _, index, _ in batch]
    assert sample_rng(42, (3, 0, 0)).permutation(16).tolist() != order
