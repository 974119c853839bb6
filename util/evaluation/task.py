"""One checkpoint on one split: what is to be computed, and computing it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn

from util.data.image_list import ImageList
from util.data.loader import eval_loader
from util.data.sampler import EvalBatches
from util.data.splits import load_split
from util.distributed import World
from util.errors import MismatchError, MissingInputError, UntrustedFileError, UserError, WeightsError
from util.evaluate import evaluate_images
from util.evaluation.classes import Classes, choose_subset, label_images, restrict_labels
from util.evaluation.real_labels import read_real_labels, real_labels_of, real_metrics
from util.evaluation.results import ImageResults
from util.evaluation.statistics import calibration
from util.evaluation.views import MirrorMean, Restricted
from util.options import DataOptions, EvalOptions, LoaderOptions
from util.restore import Trained, UnnamedModelError
from util.weights import read_weights, recognise


@dataclass(frozen=True)
class Task:
    """A model, the images to show it, and how to judge its answers."""

    trained: Trained
    model: nn.Layer  # the trained one, or a view of it
    images: ImageList  # labels count in `class_ids`
    class_ids: np.ndarray  # int64 (C,), the classes of the weights that the model chooses among, sorted
    real_labels: Sequence[frozenset[int]] | None  # of each image, in classes of the weights; None: not asked for
    flip: bool

    def __str__(self) -> str:
        text = f"{self.trained.name} on {len(self.images)} images, {self.trained.preprocessing}"
        if len(self.class_ids) < self.trained.num_classes:
            text += f", choosing among {len(self.class_ids)} of {self.trained.num_classes} classes"
        return text + (", mean of the logits with those of the mirror image" if self.flip else "")


def make_task(trained: Trained, data: DataOptions, options: EvalOptions) -> Task:
    """Reads the split and labels it by the classes of the weights.

    A split that does not go with these classes is a MismatchError; data that is wrong in itself has its own errors.
    """
    source = data.cls_label_path_val or str(Path(data.data_dir, data.val_split))
    classes = Classes(trained.num_classes, trained.class_folders, trained.class_names)
    found = load_split(
        data.data_dir,
        data.val_split,
        list_path=data.cls_label_path_val,
        delimiter=data.delimiter,
        num_classes=trained.num_classes,
    )
    images = label_images(found, classes, source=source)
    real_labels = None
    if options.real_labels is not None:
        path = Path(options.real_labels)
        real_labels = real_labels_of(images.paths, read_real_labels(path, classes), source=str(path))
    model = MirrorMean(trained.model) if options.flip else trained.model
    class_ids = np.arange(trained.num_classes)
    if options.subset is not None:
        class_ids = choose_subset(options.subset, images, classes, source=source)
        images = restrict_labels(images, class_ids, classes)
        model = Restricted(model, class_ids)
    return Task(trained, model, images, class_ids, real_labels, options.flip)


def check_opens(source: str) -> None:
    """Refuses weights that have vanished, or are no file, as weights that cannot be used: a WeightsError."""
    try:
        if recognise(Path(source)) == "export":
            read_weights(source)  # all of its files
    except MissingInputError as error:
        raise WeightsError(str(error)) from None


def agree(prepare: Callable[[], Task], world: World) -> Task:
    """Returns what `prepare` returns, or raises a WeightsError on every process if it refuses the weights on any.

    Without this the others would wait for ever for the one that goes on to the next checkpoint. Errors that are not
    about the weights are raised as they are.
    """
    task, reason = None, ""
    try:
        task = prepare()
    except (WeightsError, MismatchError, UntrustedFileError, UnnamedModelError) as error:
        reason = str(error)
    except ValueError as error:  # `models` has its own errors, such as for an unknown name
        if isinstance(error, UserError) or getattr(error, "exit_code", None) is None:
            raise
        reason = str(error)
    reasons = [reason for reason in world.gather(reason) if reason]
    if task is None or reasons:
        raise WeightsError(reasons[0])
    return task


def run_task(task: Task, world: World, *, batch_size: int, loading: LoaderOptions, allow_missing: bool) -> ImageResults:
    """Returns every image's result, in classes of the weights, on every process.

    allow_missing: images that cannot be read count as wrong; else they are a DataError.
    """
    batches = EvalBatches(num_images=len(task.images), batch_size=batch_size, rank=world.rank, world_size=world.size)
    loader = eval_loader(
        task.images,
        batches,
        task.trained.preprocessing,
        loading=loading,
        persistent=False,  # or a set of them would live on for each checkpoint
    )
    results = evaluate_images(
        task.model,
        loader,
        world,
        num_images=len(task.images),
        num_batches=len(batches),
        all_labels=task.images.labels if allow_missing else None,
    )
    return results.renumbered(task.class_ids)


def figures_of(results: ImageResults, task: Task, *, with_calibration: bool, with_missing: bool) -> dict[str, Any]:
    """Returns the figures that eval.py prints: `Metrics`, with ReaL labels `RealMetrics`, and those asked for.

    with_calibration: `ece`. with_missing: `missing`, how many of `images` could not be read.
    """
    figures: dict[str, Any] = asdict(results.metrics())
    if with_missing:
        figures["missing"] = len(results.unreadable)
    if task.real_labels is not None:
        figures |= asdict(real_metrics(results, task.real_labels))
    if with_calibration:
        figures["ece"] = calibration(results).ece
    return figures
