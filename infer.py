"""Classifies images with an exported model through Paddle Inference, without the model's code or checkpoint.

    python infer.py --model_dir DIR --input_file demo/chelsea.jpg
    python infer.py --model_file DIR/model.pdmodel --params_file DIR/model.pdiparams --input_file demo/chelsea.jpg

Standard output is one Python literal: a list of dicts with class_ids, scores, file_name, label_names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util import options, runtime
from util.data.class_names import read_class_names
from util.data.images import ImageError
from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import check_input_size, open_bundle
from util.deploy.engines import paddle_engine
from util.errors import UsageError, run_script
from util.prediction import collect_inputs, predict_files, refuse_unreadable, write_predictions
from util.settings import Settings, parse


@dataclass(frozen=True, kw_only=True)
class InferSettings(Settings):
    infer: options.InferOptions
    names: options.ClassNamesOptions
    batch: options.BatchOptions
    preprocess: options.PreprocessOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    # Inputs: the images, and the exported model, verified before native code reads it
    settings = parse(InferSettings, argv, description=__doc__ or "")
    if not settings.infer.input_file:
        raise UsageError("no images: name files, folders, globs or @list.txt with --input_file")
    files = collect_inputs(settings.infer.input_file)
    bundle = open_bundle(settings.infer.model_dir, settings.infer.model_file, settings.infer.params_file)
    preprocessing = resolve_preprocessing(settings.preprocess, bundle.manifest.preprocess)
    check_input_size(bundle.manifest, preprocessing)
    class_names: Sequence[str] = bundle.manifest.class_names
    if settings.names.class_names is not None:
        class_names = read_class_names(Path(settings.names.class_names), bundle.manifest.num_classes)

    # Engine
    arithmetic = runtime.start(settings.threads.cpu_threads)
    forward = paddle_engine(
        bundle,
        device=runtime.resolve_device(settings.device.device),
        threads=arithmetic.threads,
        onednn=settings.infer.onednn,
    )

    # Prediction
    bad: list[ImageError] = []
    predictions = predict_files(
        files,
        transform=preprocessing.transform(),
        forward=forward,
        class_names=class_names,
        batch_size=settings.batch.batch_size,
        bad=bad,
    )
    write_predictions(predictions, settings.infer.output)
    refuse_unreadable(bad, len(files))


if __name__ == "__main__":
    run_script(main)
