"""Classifies images with an exported model, without the model's code or checkpoint.

    python infer.py --model_dir DIR --input_file demo/chelsea.jpg
    python infer.py --model_file DIR/model.pdmodel --params_file DIR/model.pdiparams --input_file demo/chelsea.jpg
    python infer.py --model_dir DIR --input_file demo --engine onnxruntime --precision int8

Standard output is one Python literal: a list of dicts with class_ids, scores, file_name, label_names.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from util import options, runtime
from util.data.class_names import read_class_names
from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import check_input_size, look_into, open_bundle, program_name
from util.deploy.engines import choose_engine, may_have_gpu, start_engine
from util.errors import UsageError, run_script
from util.infer_job import device_of_share, end_job, facts_of, open_job, run_job
from util.inputs import collect_inputs
from util.prediction import predict_places, print_predictions
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
    device = settings.device.device
    if device == "auto" and (settings.infer.engine in ("openvino", "onnxruntime") or not may_have_gpu()):
        device = "cpu"  # known without loading Paddle
    elif device != "cpu":
        runtime.start(settings.threads.cpu_threads)
        device = runtime.resolve_device(device)
    engine = choose_engine(
        settings.infer.engine,
        settings.infer.precision,
        device=device,
        program=program_name(settings.infer.model_file),
        onednn=settings.infer.onednn,
        contents=look_into(settings.infer.model_dir, settings.infer.model_file),
    )
    bundle = open_bundle(
        settings.infer.model_dir, settings.infer.model_file, settings.infer.params_file, programs=engine.programs
    )
    preprocessing = resolve_preprocessing(settings.preprocess, bundle.manifest.preprocess)
    check_input_size(bundle.manifest, preprocessing)
    class_names: Sequence[str] = bundle.manifest.class_names
    if settings.names.class_names is not None:
        class_names = read_class_names(Path(settings.names.class_names), bundle.manifest.num_classes)

    facts = facts_of(files, bundle, preprocessing, class_names, precision=engine.precision)
    job = open_job(settings.infer.output, files, facts, go_on=settings.infer.continue_job)
    if job is not None and not job.part.left:
        end_job(job)
        return

    # Engine
    device = device_of_share(device)
    cpu_threads = settings.threads.cpu_threads
    threads = runtime.start(cpu_threads).threads if engine.needs_paddle else runtime.count_threads(cpu_threads)
    forward = start_engine(engine, bundle, device=device, threads=threads, onednn=settings.infer.onednn)
    print(f"engine: {engine}, {device}, {threads} CPU threads, {bundle.program.name}", file=sys.stderr)

    # Prediction
    predict = partial(
        predict_places,
        files,
        transform=preprocessing.transform(),
        forward=forward,
        class_names=class_names,
        batch_size=settings.batch.batch_size,
        num_workers=settings.infer.num_workers,
        gives_way=engine.lets_python_run,
    )
    if job is None:
        print_predictions(predict(range(len(files))), len(files), settings.infer.output)
    else:
        run_job(job, predict)


if __name__ == "__main__":
    run_script(main)
