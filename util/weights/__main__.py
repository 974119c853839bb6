"""Turns anybody's weights into a file of this project: checked against the model, with preprocessing and class names.

    python -m util.weights checkpoint-best.pd --model cvt_13_224x224 --output cvt_13.safetensors
    python -m util.weights convit_tiny.fb_in1k --output convit_tiny.safetensors
    python -m util.weights list

SOURCE is a file of CvT-paddle, PaddleClas, microsoft/CvT, timm, Hugging Face, MindCV or this project, the folder of an
export, or the name of published weights. The output goes to eval.py, predict.py, export_model.py, or to train.py's
--pretrained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util import options, runtime
from util.errors import UsageError, run_script
from util.files import check_new_file
from util.settings import Settings, parse
from util.weights import MODEL
from util.weights.container import write_container
from util.weights.sources import list_if_asked


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Settings):
    convert: options.ConvertOptions
    names: options.ClassNamesOptions
    preprocess: options.PreprocessOptions
    model: options.ModelOptions
    ema: options.EmaChoiceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(
        ConvertSettings, argv, description=__doc__ or "", positional="source", prog="python -m util.weights"
    )
    source, output = settings.convert.source, settings.convert.output
    if list_if_asked(source):
        return
    if source is None or output is None:
        raise UsageError("name the weights, and the new file with --output OUT.safetensors")
    target = check_new_file(output, suffix=".safetensors")
    runtime.start(settings.threads.cpu_threads)

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    import paddle

    import models
    from util import distributed
    from util.log import start_logging
    from util.restore import restore

    log = start_logging(is_main=True)
    distributed.start("cpu")
    trained = restore(
        options.WeightsOptions(pretrained=source),
        settings.model,
        settings.preprocess,
        use_ema=settings.ema.use_ema,
        names_file=settings.names.class_names,
        registry=models,
    )
    state = {
        "model": {"name": trained.name, "num_classes": trained.num_classes},
        "preprocess": trained.preprocessing.to_plain(),
        "classes": {"folders": trained.class_folders, "names": trained.class_names},
        "numerics": trained.model.numerics(),
        "versions": {"paddle": paddle.__version__},
        "made_by": {"command": "convert", "files": [Path(source).name], "ema": settings.ema.use_ema},
    }
    tensors = {MODEL + name: value.numpy() for name, value in trained.model.state_dict().items()}
    write_container(target, tensors, state)
    log.info(f"{target}: {trained.name}, {trained.num_classes} classes, {trained.preprocessing}")


if __name__ == "__main__":
    run_script(main)
