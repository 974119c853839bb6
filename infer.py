"""Classifies images with an exported model, without the model's code or checkpoint.

    python infer.py --model_dir DIR --input_file demo/chelsea.jpg
    python infer.py --model_file DIR/model.pdmodel --params_file DIR/model.pdiparams --input_file demo/chelsea.jpg
    python infer.py --model_dir DIR --input_file demo --engine onnxruntime --precision int8

Programs of other projects, without a manifest, run when their preprocessing is given: --crop_pct, --interpolation,
--mean, --std, or an `inference.yml` beside them.

Standard output is one Python literal: a list of dicts with class_ids, scores, file_name, label_names.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from util import options, runtime
from util.deploy.chosen import choose
from util.deploy.engines import start_engine
from util.errors import run_script
from util.infer_job import device_of_share, end_job, facts_of, open_job, run_job
from util.inputs import collect_inputs
from util.prediction import predict_places, print_predictions
from util.settings import Settings, parse


@dataclass(frozen=True, kw_only=True)
class InferSettings(Settings):
    model: options.EngineOptions
    infer: options.InferOptions
    names: options.ClassNamesOptions
    batch: options.BatchOptions
    preprocess: options.PreprocessOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    # Inputs: the images, and the exported model, verified before native code reads it
    settings = parse(InferSettings, argv, description=__doc__ or "")
    files = collect_inputs(settings.infer.input_file, option="--input_file")
    chosen = choose(
        settings.model,
        settings.names,
        settings.preprocess,
        device=settings.device.device,
        cpu_threads=settings.threads.cpu_threads,
    )
    program, engine, preprocessing, class_names = (
        chosen.program, chosen.engine, chosen.preprocessing, chosen.class_names
    )  # fmt: skip
    for note in chosen.notes:
        print(note, file=sys.stderr)

    facts = facts_of(files, program.manifest, preprocessing, class_names, precision=engine.precision)
    job = open_job(settings.infer.output, files, facts, go_on=settings.infer.continue_job)
    if job is not None and not job.part.left:
        end_job(job)
        return

    # Engine
    device = device_of_share(chosen.device)
    cpu_threads = settings.threads.cpu_threads
    threads = runtime.start(cpu_threads).threads if engine.needs_paddle else runtime.count_threads(cpu_threads)
    forward = start_engine(engine, program, device=device, threads=threads, onednn=settings.model.onednn)
    print(f"engine: {engine}, {device}, {threads} CPU threads, {program.path.name}", file=sys.stderr)

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
        output=program.manifest.output,
    )
    if job is None:
        print_predictions(predict(range(len(files))), len(files), settings.infer.output)
    else:
        run_job(job, predict)


if __name__ == "__main__":
    run_script(main)
