"""Everything a training run reads: both splits, their order, their batches, and how batches are mixed."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from util.data.backends import Backend, load_backend
from util.data.class_names import readable_names
from util.data.dataset import ImageDataset
from util.data.image_list import ImageList, take
from util.data.loader import Batch, SerialLoader, eval_loader, eval_set, make_loader
from util.data.mixup import Mixer
from util.data.preprocessing import Preprocessing
from util.data.sampler import EvalBatches, TrainBatches
from util.data.shard_files import ShardOrder
from util.data.splits import load_split
from util.data.transforms import TrainTransform, train_transform
from util.distributed import World
from util.errors import MismatchError, UsageError, is_lost_worker
from util.options import AugmentOptions, DataOptions, LoaderOptions, MixOptions, TrainDataOptions
from util.stop import StopWaiting


@dataclass(frozen=True)
class Splits:
    """The images of both splits and their classes."""

    train: ImageList
    val: ImageList
    num_classes: int
    class_names: list[str]
    train_order: ShardOrder | None = None  # None: all images are shuffled together


def load_splits(
    data: DataOptions, train_data: TrainDataOptions, *, num_classes: int | None, names_file: str | None, seed: int
) -> Splits:
    """Finds the images and checks that both splits agree on the classes.

    num_classes: None is the number of class folders, or the largest label of the list plus one.
    names_file: file with a line `id name` for each class.
    seed: chooses the images of `num_samples`.
    """
    train = load_split(
        data.data_dir,
        train_data.train_split,
        list_path=train_data.cls_label_path_train,
        delimiter=data.delimiter,
        num_classes=num_classes,
    )
    folders = train.class_names
    if folders is not None and num_classes not in (None, len(folders)):
        raise MismatchError(
            f"{data.data_dir}/{train_data.train_split} has {len(folders)} class folders, not {num_classes}; leave out "
            "--num_classes"
        )
    num_classes = num_classes or (int(train.labels.max()) + 1 if folders is None else len(folders))
    val = load_split(
        data.data_dir,
        data.val_split,
        list_path=data.cls_label_path_val,
        delimiter=data.delimiter,
        class_names=folders,
        num_classes=num_classes,
    )
    if train_data.num_samples is not None:
        train = take(train, train_data.num_samples, seed=seed)
    names = readable_names(folders, num_classes, names_file)
    return Splits(train, val, num_classes, names, _shard_order(train, train_data.shard_window))


def _shard_order(train: ImageList, window: int | None) -> ShardOrder | None:
    if window is None:
        return None
    if train.shards is None:
        raise UsageError(f"--shard_window {window} is for tar shards, but the training images are none; leave it out")
    return ShardOrder(train.shards.shard, window)


def _train_transform(augment: AugmentOptions, preprocessing: Preprocessing, backend: Backend) -> TrainTransform:
    return train_transform(
        input_size=preprocessing.input_size,
        aug=augment.aug,
        train_crop_mode=augment.train_crop_mode,
        scale=augment.scale,
        ratio=augment.ratio,
        interpolation=preprocessing.interpolation,
        train_interpolation=augment.train_interpolation,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,
        color_jitter_prob=augment.color_jitter_prob,
        grayscale_prob=augment.grayscale_prob,
        gaussian_blur_prob=augment.gaussian_blur_prob,
        aa=augment.aa,
        reprob=augment.reprob,
        remode=augment.remode,
        recount=augment.recount,
        recount_min=augment.recount_min,
        rearea=augment.rearea,
        mean=preprocessing.mean,
        std=preprocessing.std,
        image_backend=backend,
    )


class TrainingData:
    """Batches of training, augmented and mixed, and of evaluation."""

    def __init__(
        self,
        splits: Splits,
        *,
        preprocessing: Preprocessing,
        augment: AugmentOptions,
        mix: MixOptions,
        smoothing: float,
        loader: LoaderOptions,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        world: World,
    ) -> None:
        if mix.mixup_mode == "half" and batch_size < 2:
            raise UsageError("mixup_mode half makes one image of two: batch_size must be at least 2")
        self.splits = splits
        self.sampler = TrainBatches(
            num_images=len(splits.train),
            batch_size=batch_size,
            seed=seed,
            rank=world.rank,
            world_size=world.size,
            repeats=augment.aug_repeats,
            order=splits.train_order,
        )
        self.val_batches = EvalBatches(
            num_images=len(splits.val), batch_size=eval_batch_size, rank=world.rank, world_size=world.size
        )
        self.num_workers = loader.num_workers
        self._before_fork: Callable[[], None] = lambda: None
        self.train_set = ImageDataset(
            splits.train,
            _train_transform(augment, preprocessing, loader.image_backend),
            seed=seed,
            substitute=True,
            decode=load_backend(loader.image_backend).decode,
        )
        self._train_loader = make_loader(self.train_set, self.sampler, loading=loader)
        self.val_set = eval_set(splits.val, preprocessing)
        exact = replace(loader, image_backend="pil")  # so that eval.py, without options, finds the same accuracies
        self.val_loader = eval_loader(splits.val, self.val_batches, preprocessing, loading=exact)
        self._mixing_ends = mix.mixup_off_epoch or None
        self._mixer, self._no_mixer = (
            Mixer(
                mixup=m.mixup,
                cutmix=m.cutmix,
                cutmix_minmax=m.cutmix_minmax,
                prob=m.mixup_prob,
                switch_prob=m.mixup_switch_prob,
                mode=m.mixup_mode,
                num_classes=splits.num_classes,
                smoothing=smoothing,
            )
            for m in (mix, MixOptions())
        )

    def images_per_update(self, update_freq: int) -> int:
        """Returns the effective batch: images of all processes and micro-batches of an update, at most an epoch's."""
        return self.sampler.batch_size * self.sampler.world_size * min(update_freq, len(self.sampler))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Returns the micro-batches of an epoch, from its micro-batch `start` on."""
        self.sampler.set_epoch(epoch, start)
        return self._batches(self._train_loader) if start < len(self.sampler) else iter(())

    def evaluation(self, check: Callable[[], None]) -> Iterator[Batch]:
        """Yields the batches of evaluation. check: called before each, equally often by all processes; may raise."""
        batches = self._batches(self.val_loader)
        for _ in range(self.val_batches.rounds):
            try:
                batch = next(batches, None)
            except StopWaiting:
                check()  # ends the run
                raise
            check()
            if batch is not None:
                yield batch
        with contextlib.suppress(StopWaiting):
            deque(batches, maxlen=0)  # lets the loader see the end

    def _batches(self, loader: SerialLoader) -> Iterator[Batch]:
        if self.num_workers > 0 and not loader.worker_pids():
            self._before_fork()  # the workers, which stay, are forked with the first batch
        return iter(loader)

    def before_fork(self, call: Callable[[], None]) -> None:
        """Sets what is called before worker processes are forked."""
        self._before_fork = call

    def loaders(self) -> list[SerialLoader]:
        """Returns the loaders of both splits."""
        return [self._train_loader, self.val_loader]

    def on_wait(self, call: Callable[[], None]) -> None:
        """Sets what is called while a batch is awaited; what it raises ends the waiting."""
        for loader in self.loaders():
            loader.on_wait = call

    def worker_pids(self) -> list[int]:
        """Returns the processes that load data now."""
        return [pid for loader in self.loaders() for pid in loader.worker_pids()]

    @contextlib.contextmanager
    def naming_lost_workers(self) -> Iterator[None]:
        """Turns Paddle's error about a dead worker, which comes wherever this process is, into one that names it."""
        try:
            yield
        except (SystemError, OSError) as error:
            if not is_lost_worker(error):
                raise
            for loader in self.loaders():
                loader.check_workers()
            raise

    def mixer(self, epoch: int) -> Mixer:
        """Returns what mixes the batches of an epoch. It runs in this process, so workers cannot hold an old one."""
        is_off = self._mixing_ends is not None and epoch >= self._mixing_ends
        return self._no_mixer if is_off else self._mixer
