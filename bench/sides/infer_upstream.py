"""Images per second of CvT-13 as older Paddle repositories write and export it, in Paddle Inference with oneDNN."""

import argparse
import os
import tempfile
import time
from pathlib import Path

from bench.side import serve
from util import runtime

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--our_memory", action="store_true", help="also with what util/runtime.py does to the C library")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--batch_size", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
given = parser.parse_args()
PASSES = max(1, 16 // given.batch_size)
# of this project's settings only those that its users know from Paddle's pages
os.environ["OMP_NUM_THREADS"] = str(given.threads)
if runtime.cpu_vendor() == "AuthenticAMD":
    os.environ["MKL_DEBUG_CPU_TYPE"] = "5"
if given.our_memory:
    runtime.keep_freed_memory()

import numpy as np  # noqa: E402  what follows needs Paddle's settings
import paddle  # noqa: E402
from paddle import inference  # noqa: E402

from bench.sides.upstream_cvt import CvT  # noqa: E402

model = CvT((1, 2, 10))
model.eval()
shape = [-1, 3, given.size, given.size]
spec = paddle.static.InputSpec(shape=shape, dtype="float32")
static = paddle.jit.to_static(model, input_spec=[spec], full_graph=True)
with tempfile.TemporaryDirectory(prefix="bench.") as folder:
    stem = Path(folder) / "model"
    paddle.jit.save(static, str(stem))
    config = inference.Config(f"{stem}.json", f"{stem}.pdiparams")
    config.disable_glog_info()
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(given.threads)
    config.enable_mkldnn()
    predictor = inference.create_predictor(config)
source = predictor.get_input_handle(predictor.get_input_names()[0])
target = predictor.get_output_handle(predictor.get_output_names()[0])
images = np.random.default_rng(0).standard_normal((given.batch_size, *shape[1:]), dtype=np.float32)


def measure() -> float:
    begun = time.perf_counter()
    for _ in range(PASSES):
        source.copy_from_cpu(images)
        predictor.run()
        target.copy_to_cpu()
    return PASSES * given.batch_size / (time.perf_counter() - begun)


serve(measure)
