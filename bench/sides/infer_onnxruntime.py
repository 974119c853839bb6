"""Images per second of an ONNX program, as other projects export it, on ONNX Runtime."""

import argparse
import time

import numpy as np
import onnxruntime

from bench.side import serve

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--onnx", required=True, help="program, such as infer_torch.py --write_onnx writes it")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--batch_size", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
given = parser.parse_args()
PASSES = max(1, 16 // given.batch_size)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = given.threads
session = onnxruntime.InferenceSession(given.onnx, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
images = np.random.default_rng(0).standard_normal((given.batch_size, 3, given.size, given.size), dtype=np.float32)


def measure() -> float:
    begun = time.perf_counter()
    for _ in range(PASSES):
        session.run(None, {name: images})
    return PASSES * given.batch_size / (time.perf_counter() - begun)


serve(measure)
