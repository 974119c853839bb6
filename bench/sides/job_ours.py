"""Images per second of infer.py's job, from files to rows; or of its engine alone, on batches that are there already.

Or the seconds of one picture at a time, from its bytes to its classes.

python -m bench.sides.job_ours job --model_dir DIR --images FOLDER
python -m bench.sides.job_ours engine --model_dir DIR
python -m bench.sides.job_ours one --model_dir DIR --images FOLDER
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.side import serve
from util import runtime
from util.data.images import decode_image
from util.deploy.bundle import load_bundle
from util.deploy.engine_choice import choose_engine
from util.deploy.engines import start_engine
from util.infer_job import InferJob, Share, facts_of, run_job
from util.inputs import collect_inputs
from util.prediction import predict_places, top_k

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("what", choices=("job", "engine", "one"))
parser.add_argument("--model_dir", required=True, help="what export_model.py has written")
parser.add_argument("--engine", default="auto", choices=("auto", "paddle", "openvino", "onnxruntime"))
parser.add_argument("--images", nargs="+", default=[], help="for the job: as infer.py's --input_file")
parser.add_argument("--num_images", type=int, default=160, help="images a measurement")
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--threads", type=int, default=2, help="of the engine")
parser.add_argument("--num_workers", type=int, default=2, help="threads that load images")
given = parser.parse_args()

engine = choose_engine(given.engine, "fp32", device="cpu", given=None, onednn=True)
program = load_bundle(given.model_dir).program(engine.programs)
preprocessing = program.manifest.preprocessing()
threads = runtime.start(given.threads).threads if engine.needs_paddle else given.threads
forward = start_engine(engine, program, device="cpu", threads=threads, onednn=True)


def measure_engine() -> float:
    images = np.zeros((given.batch_size, *preprocessing.input_size), np.float32)
    count = max(1, given.num_images // given.batch_size)
    begun = time.perf_counter()
    for _ in range(count):
        forward(images)
    return count * given.batch_size / (time.perf_counter() - begun)


def measure_job() -> float:
    begun = time.perf_counter()
    found = collect_inputs(given.images, option="--images")
    files = found.select(np.arange(given.num_images) % len(found))  # over again where there are not as many
    names = program.manifest.class_names
    with tempfile.TemporaryDirectory() as folder:
        facts = facts_of(files, program.manifest, preprocessing, names, precision="fp32")
        job = InferJob(str(Path(folder, "results.jsonl")), files, share=Share(), facts=facts, go_on=False)
        predict = partial(
            predict_places, files, transform=preprocessing.transform(), forward=forward, class_names=names,
            batch_size=given.batch_size, num_workers=given.num_workers, gives_way=engine.lets_python_run,
        )  # fmt: skip
        run_job(job, predict)
        assert os.path.getsize(job.part.path) > 0
    return given.num_images / (time.perf_counter() - begun)


def measure_one() -> float:
    """Returns the median of 40 times the first picture."""
    file = Path(collect_inputs(given.images, option="--images")[0]).read_bytes()
    transform, names, seconds = preprocessing.transform(), program.manifest.class_names, []
    for _ in range(40):
        begun = time.perf_counter()
        image = transform(decode_image(file))
        top_k(forward(image[None]), ["picture"], names, output=program.manifest.output)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


serve({"job": measure_job, "engine": measure_engine, "one": measure_one}[given.what])
