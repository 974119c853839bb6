"""Everything a training run reads: both splits, their order, their batches, and how batches are mixed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from util.data.dataset import ImageDataset, ImageList, load_split, readable_names
from util.data.loader import eval_loader, make_loader
from util.data.mixup import Mixer
from util.data.preprocessing import Preprocessing
from util.data.sampler import EvalBatches, TrainBatches
from util.data.transforms import train_transform
from util.distributed import World
from util.errors import MismatchError
from util.options import AugmentOptions, DataOptions


@dataclass(frozen=True)
class Splits:
    """The images of both splits and their classes."""

    train: ImageList
    val: ImageList
    num_classes: int
    class_names: list[str]


def load_splits(data: DataOptions, *, num_classes: int | None, names_file: str | None) -> Splits:
    """Finds the images and checks that both splits agree on the classes.

    num_classes: None is the number of class folders, or the largest label of the list plus one.
    names_file: file with a line `id name` for each class.
    """
    train = load_split(
        data.data_dir,
        data.train_split,
        list_path=data.cls_label_path_train,
        delimiter=data.delimiter,
        num_classes=num_classes,
    )
    folders = train.class_names
    if folders is not None and num_classes not in (None, len(folders)):
        raise MismatchError(
            f"{data.data_dir}/{data.train_split} has {len(folders)} class folders, not {num_classes}; leave out "
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
    return Splits(train, val, num_classes, readable_names(folders, num_classes, names_file))


class TrainingData:
    """Batches of training, augmented and mixed, and of evaluation."""

    def __init__(
        self,
        splits: Splits,
        *,
        preprocessing: Preprocessing,
        augment: AugmentOptions,
        batch_size: int,
        num_workers: int,
        eval_batch_size: int,
        seed: int,
        world: World,
    ) -> None:
        self.sampler = TrainBatches(
            num_images=len(splits.train),
            batch_size=batch_size,
            seed=seed,
            rank=world.rank,
            world_size=world.size,
            repeats=augment.aug_repeats,
        )
        self.val_batches = EvalBatches(
            num_images=len(splits.val), batch_size=eval_batch_size, rank=world.rank, world_size=world.size
        )
        transform = train_transform(
            input_size=preprocessing.input_size,
            aug=augment.aug,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.hflip,
            vflip=augment.vflip,
            color_jitter=augment.color_jitter,
            aa=augment.aa,
            interpolation=preprocessing.interpolation,
            reprob=augment.reprob,
            remode=augment.remode,
            recount=augment.recount,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        self._train_loader = make_loader(
            ImageDataset(splits.train, transform, seed=seed), self.sampler, num_workers=num_workers
        )
        self.val_loader = eval_loader(splits.val, self.val_batches, preprocessing, num_workers)
        self._mixing_ends = augment.mixup_off_epoch or None
        self._mixer = Mixer(
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            prob=augment.mixup_prob,
            switch_prob=augment.mixup_switch_prob,
            num_classes=splits.num_classes,
            smoothing=augment.smoothing,
        )
        self._no_mixer = Mixer(
            mixup=0.0,
            cutmix=0.0,
            prob=0.0,
            switch_prob=0.0,
            num_classes=splits.num_classes,
            smoothing=augment.smoothing,
        )

    def epoch(self, epoch: int) -> Iterator[Any]:
        """Returns the micro-batches of an epoch."""
        self.sampler.set_epoch(epoch)
        return iter(self._train_loader)

    def mixer(self, epoch: int) -> Mixer:
        """Returns what mixes the batches of an epoch. It runs in this process, so workers cannot hold an old one."""
        is_off = self._mixing_ends is not None and epoch >= self._mixing_ends
        return self._no_mixer if is_off else self._mixer
