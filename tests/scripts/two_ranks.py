"""Run under the launcher: updates of two micro-batches on each rank; rank 0 stores the weights.

`python two_ranks.py OUTPUT`; without a launcher the same images are one process's micro-batches of twice the size.
"""

import sys
from typing import Any

from util import runtime

runtime.start(cpu_threads=1)

import numpy as np  # noqa: E402
import paddle  # noqa: E402

from models import create_model  # noqa: E402
from tests.reference import images  # noqa: E402
from util import distributed  # noqa: E402
from util.options import OptimOptions  # noqa: E402
from util.train.checkpoint import Progress, TrainState  # noqa: E402
from util.train.optim import create_optimizer  # noqa: E402
from util.train.step import TrainStep  # noqa: E402

CLASSES, UPDATES, MICRO_BATCHES, GLOBAL_BATCH = 5, 3, 2, 4


def main(output: str) -> None:
    world, _ = distributed.start("cpu")
    paddle.seed(world.rank)  # rank 0's weights are what everyone starts with
    model = create_model("cvt_nano_32x32", num_classes=CLASSES, qkv_proj_method="linear")  # no BatchNorm
    options = OptimOptions(opt="momentum", momentum=0.0, weight_decay=0.0)
    scaler = paddle.amp.GradScaler(enable=False)
    state = TrainState(model, create_optimizer(model, options), ema=None, scaler=scaler, progress=Progress())
    step = TrainStep(state, options, world)
    names = [name for name, p in model.named_parameters() if not p.stop_gradient]
    targets = (
        np.random.default_rng(0).dirichlet(np.ones(CLASSES), (UPDATES * MICRO_BATCHES, GLOBAL_BATCH)).astype(np.float32)
    )
    stored: dict[str, Any] = {}
    for i in range(UPDATES * MICRO_BATCHES):
        mine, last = slice(world.rank, None, world.size), i % MICRO_BATCHES == MICRO_BATCHES - 1
        batch = paddle.to_tensor(images(GLOBAL_BATCH, 32, 32, seed=i)[mine])
        step.accumulate(batch, paddle.to_tensor(targets[i][mine]), group_size=MICRO_BATCHES, last=last)
        stored[f"head_gradient_{i}"] = np.stack(world.gather(model.head.weight.grad.numpy()))  # by rank
        if last:
            step.update(0.1)
    stored |= {name: p.numpy() for name, p in zip(names, step.parameters, strict=True)}
    if world.is_main:
        np.savez(output, **stored)


if __name__ == "__main__":
    main(sys.argv[1])
