"""Images per second of this project's training step, `TrainStep`, on random images: model, loss, gradient, AdamW."""

import argparse
import time

from util import runtime

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="cvt_13_224x224")
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--memory", action="store_true", help="take three steps, and answer with the peak memory in GB")
parser.add_argument("--launches", action="store_true", help="answer with the kernels that a GPU would launch")
given = parser.parse_args()
runtime.start(given.threads)

import paddle  # noqa: E402  needs Paddle's settings
import paddle.nn.functional as F  # noqa: E402

from bench.sides.launches import serve_step  # noqa: E402
from models import cpu, create_model, layers, model_info  # noqa: E402
from util.distributed import World  # noqa: E402
from util.options import LossOptions, OptimOptions, PrecisionOptions  # noqa: E402
from util.train.checkpoint import TrainState  # noqa: E402
from util.train.loss import make_loss  # noqa: E402
from util.train.optim import create_optimizer  # noqa: E402
from util.train.precision import make_scaler  # noqa: E402
from util.train.progress import Progress  # noqa: E402
from util.train.step import TrainStep  # noqa: E402

paddle.seed(0)
if given.launches:
    cpu.applies = lambda x: False
    layers.can_fuse = lambda x: True
else:
    cpu.rewrite_gradients()  # as train.py does
model = create_model(given.model)
model.train()
optim, precision = OptimOptions(), PrecisionOptions()
state = TrainState(model, create_optimizer(model, optim), ema=None, scaler=make_scaler(precision), progress=Progress())
step = TrainStep(state, optim=optim, precision=precision, loss=make_loss(LossOptions()), world=World(rank=0, size=1))
images = paddle.randn([given.batch_size, *model_info(given.model).input_size])
targets = F.one_hot(paddle.randint(0, 1000, [given.batch_size]), 1000)


def measure() -> float:
    begun = time.perf_counter()
    loss = step.accumulate(images, targets, group_size=1, last=True)
    step.update(1e-4, 0)
    loss.item()  # the device has finished
    return given.batch_size / (time.perf_counter() - begun)


serve_step(measure, memory=given.memory, launches=given.launches)
