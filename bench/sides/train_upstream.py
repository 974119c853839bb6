"""Images per second of a training step of CvT-13 as older Paddle repositories write it, on the right MKL path."""

import argparse
import os
import time

from util.runtime import cpu_vendor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--memory", action="store_true", help="take three steps, and answer with the peak memory in GB")
parser.add_argument("--launches", action="store_true", help="answer with the kernels that a GPU would launch")
given = parser.parse_args()
# of this project's settings only those that its users know from Paddle's pages; not what runtime.start does to memory
os.environ["OMP_NUM_THREADS"] = str(given.threads)
if cpu_vendor() == "AuthenticAMD":
    os.environ["MKL_DEBUG_CPU_TYPE"] = "5"

import paddle  # noqa: E402  needs these variables
import paddle.nn.functional as F  # noqa: E402

from bench.sides.launches import serve_step  # noqa: E402
from bench.sides.upstream_cvt import CvT  # noqa: E402

paddle.seed(0)
model = CvT((1, 2, 10))
model.train()
trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
optimizer = paddle.optimizer.AdamW(1e-4, parameters=trained, weight_decay=0.05)
images = paddle.randn([given.batch_size, 3, 224, 224])
labels = paddle.randint(0, 1000, [given.batch_size])


def measure() -> float:
    begun = time.perf_counter()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    loss.item()
    return given.batch_size / (time.perf_counter() - begun)


serve_step(measure, memory=given.memory, launches=given.launches)
