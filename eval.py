"""Evaluates checkpoints on a labelled split: exact top-1, top-5 and loss, for any number of processes.

    python eval.py DATA --resume CHECKPOINT
    python eval.py --config configs/train/cvt/cvt_13_224x224.yaml --data_dir DATA --resume CHECKPOINT
    python eval.py DATA --resume CHECKPOINT --report report/ --output images.csv --flip
    python eval.py imagenet-a --val_split . --resume CHECKPOINT --subset folders
    python eval.py DATA --checkpoints output/train/cvt_13_224x224 --report report/

Standard output is one JSON object {"images", "top1", "top5", "loss"} a checkpoint, accuracies in percent; with
--real_labels also "real_top1", "real_top5", "real_images", with --report "ece", with --checkpoints first "checkpoint".
An image that cannot be read is an error; with --allow_missing it is wrong in top-1 and top-5 and left out of the loss,
and "missing" says how many there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from util import options, runtime
from util.checkpoint import collect_checkpoints
from util.errors import NonFiniteLossError, UsageError, WeightsError, run_script
from util.restore import chosen_weights, restore
from util.settings import Settings, parse
from util.weights.sources import list_if_asked


@dataclass(frozen=True, kw_only=True)
class EvalSettings(Settings):
    evaluation: options.EvalOptions
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
    if list_if_asked(settings.weights.pretrained):
        return
    several = bool(settings.evaluation.checkpoints)
    sources = choose_weights(settings)
    arithmetic = runtime.start(settings.threads.cpu_threads)

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    import models
    from util import distributed
    from util.data.backends import load_backend
    from util.evaluation.outputs import Outputs
    from util.evaluation.task import Task, agree, check_opens, make_task, run_task
    from util.log import start_logging
    from util.train.unused import unused_loading

    world, notes = distributed.start(settings.device.device)
    log = start_logging(is_main=world.is_main)
    for note in [*notes, str(arithmetic)]:
        log.info(note)
    for note in unused_loading(settings.on_command_line, settings.loader):
        log.warning(note)
    load_backend(settings.loader.image_backend)  # says what is not installed before weights are read
    if settings.loader.image_backend != "pil":
        log.warning("--image_backend fast: accuracies are not quite those of Pillow's pixels, which prediction has")
    outputs = Outputs(settings.evaluation, settings.data, log) if world.is_main else None

    def prepare(weights: options.WeightsOptions) -> Task:
        if several:
            check_opens(str(weights.resume))
        trained = restore(
            weights,
            settings.model,
            settings.preprocess,
            use_ema=settings.ema.use_ema,
            names_file=settings.names.class_names,
            registry=models,
        )
        return make_task(trained, settings.data, settings.evaluation)

    # One of several checkpoints that cannot be used does not keep the others from being evaluated.
    failed = []
    for weights in sources:
        source = str(weights.resume or weights.pretrained)
        try:
            task = agree(partial(prepare, weights), world) if several else prepare(weights)
            log.info(str(task))
            results = run_task(
                task,
                world,
                batch_size=settings.batch.batch_size,
                loading=settings.loader,
                allow_missing=settings.evaluation.allow_missing,
            )
        except (WeightsError, NonFiniteLossError) as error:
            if not several:
                raise
            failed.append(source)
            if outputs is not None:
                outputs.add_failure(source, str(error))
            continue
        if outputs is not None:
            outputs.add(source, task, results)
    if outputs is not None:
        outputs.finish()
    world.barrier()  # the launcher ends all processes as soon as one has failed
    if failed:
        raise WeightsError(f"{len(failed)} of {len(sources)} checkpoints were not evaluated: {', '.join(failed)}")


def choose_weights(settings: EvalSettings) -> list[options.WeightsOptions]:
    """Returns the weights to evaluate, one file each. On the command line they replace a recipe's `pretrained`."""
    names = settings.evaluation.checkpoints
    if not names:
        return [chosen_weights(settings.weights, settings.on_command_line)]
    if settings.weights.resume is not None or "pretrained" in settings.on_command_line:
        raise UsageError("give either --checkpoints, or one of --resume and --pretrained")
    return [replace(settings.weights, resume=file, pretrained=None) for file in collect_checkpoints(names)]


if __name__ == "__main__":
    run_script(main)
