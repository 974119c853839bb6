"""Images per second of an ONNX program, as other projects export it, on the OpenVINO package."""

import argparse
import time

import numpy as np
import openvino

from bench.side import serve

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--onnx", required=True, help="program, such as infer_torch.py --write_onnx writes it")
parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--batch_size", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
given = parser.parse_args()
PASSES = max(1, 16 // given.batch_size)
core = openvino.Core()
options = {
    "INFERENCE_NUM_THREADS": given.threads,
    "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[given.precision],
    "PERFORMANCE_HINT": "LATENCY",
}
request = core.compile_model(core.read_model(given.onnx), "CPU", options).create_infer_request()
images = np.random.default_rng(0).standard_normal((given.batch_size, 3, given.size, given.size), dtype=np.float32)


def measure() -> float:
    begun = time.perf_counter()
    for _ in range(PASSES):
        request.infer({0: images}, share_inputs=True)
    return PASSES * given.batch_size / (time.perf_counter() - begun)


serve(measure)
