"""Evaluates a checkpoint on a labelled split: exact top-1, top-5 and loss, for any number of processes.

    python eval.py DATA --resume CHECKPOINT
    python eval.py --config configs/train/cvt/cvt_13_224x224.yaml --data_dir DATA --resume CHECKPOINT

Standard output is one JSON object {"images", "top1", "top5", "loss"}, accuracies in percent.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from util import options, runtime
from util.errors import MismatchError, run_script
from util.settings import Settings, parse


@dataclass(frozen=True, kw_only=True)
class EvalSettings(Settings):
    data: options.DataOptions
    names: options.ClassNamesOptions
    batch: options.BatchOptions
    loader: options.LoaderOptions
    preprocess: options.PreprocessOptions
    model: options.ModelOptions
    weights: options.WeightsOptions
    ema: options.EmaChoiceOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(EvalSettings, argv, description=__doc__ or "", positional="data_dir")
    arithmetic = runtime.start(settings.threads.cpu_threads)

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    from models import create_model, model_defaults
    from util import distributed
    from util.data.dataset import load_split
    from util.data.loader import eval_loader
    from util.data.sampler import EvalBatches
    from util.evaluate import evaluate
    from util.log import start_logging
    from util.restore import restore

    world, notes = distributed.start(settings.device.device)
    log = start_logging(is_main=world.is_main)

    # Weights, and what they say about preprocessing and classes
    trained = restore(
        settings.weights,
        settings.model,
        settings.preprocess,
        use_ema=settings.ema.use_ema,
        names_file=settings.names.class_names,
        create_model=create_model,
        model_defaults=model_defaults,
    )

    # Data
    images = load_split(
        settings.data.data_dir,
        settings.data.val_split,
        list_path=settings.data.cls_label_path_val,
        delimiter=settings.data.delimiter,
        class_names=trained.class_folders,
        num_classes=trained.num_classes,
    )
    if (
        trained.class_folders is None
        and images.class_names is not None
        and len(images.class_names) != trained.num_classes
    ):
        raise MismatchError(
            f"{settings.data.data_dir}/{settings.data.val_split} has {len(images.class_names)} class folders, "
            f"the weights {trained.num_classes} classes; give a list file with --cls_label_path_val"
        )
    batches = EvalBatches(
        num_images=len(images), batch_size=settings.batch.batch_size, rank=world.rank, world_size=world.size
    )
    loader = eval_loader(images, batches, trained.preprocessing, settings.loader.num_workers)

    # Evaluation
    for note in [*notes, str(arithmetic), f"{trained.name} on {len(images)} images, {trained.preprocessing}"]:
        log.info(note)
    [metrics] = evaluate([trained.model], loader, world, num_batches=len(batches))
    if world.is_main:
        log.info(f"top-1 {metrics.top1:.3f}  top-5 {metrics.top5:.3f}  loss {metrics.loss:.4f}")
        print(json.dumps(asdict(metrics)))


if __name__ == "__main__":
    run_script(main)
