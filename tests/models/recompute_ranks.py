"""Run under the launcher: gradients of a CvT under DataParallel with and without gradient checkpointing, to OUTPUT."""

import contextlib
import sys
from typing import Any

from util import runtime

runtime.start(cpu_threads=1)

import numpy as np  # noqa: E402
import paddle  # noqa: E402
import paddle.nn.functional as F  # noqa: E402

from models import create_model  # noqa: E402
from tests.reference import images  # noqa: E402
from util import distributed  # noqa: E402
from util.distributed import World  # noqa: E402

MICRO_BATCHES = 2


def gradients(world: World, *, recomputed: bool, frozen: str) -> dict[str, np.ndarray]:
    """Returns the gradients of two micro-batches, averaged over the ranks at the second, and everything else."""
    paddle.seed(0)
    model = create_model("cvt_nano_32x32", num_classes=3, drop_rate=0.1, drop_path_rate=0.3)
    model.set_grad_checkpointing(recomputed)
    for name, parameter in model.named_parameters():
        if frozen and name.startswith(frozen):
            parameter.stop_gradient = True
    parallel = paddle.DataParallel(model)
    for i in range(MICRO_BATCHES):
        paddle.seed(10 * i + world.rank)
        inputs = paddle.to_tensor(images(2, 32, 32, seed=10 * i + world.rank))
        with parallel.no_sync() if i < MICRO_BATCHES - 1 else contextlib.nullcontext():
            F.cross_entropy(parallel(inputs), paddle.to_tensor([0, 2])).backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: value.numpy() for name, value in model.state_dict().items() if name not in found}


def main(output: str) -> None:
    world, _ = distributed.start("cpu")
    stored: dict[str, Any] = {}
    for frozen in ("", "stage0"):
        for recomputed in (False, True):
            for name, value in gradients(world, recomputed=recomputed, frozen=frozen).items():
                stored[f"{frozen}/{recomputed}/{name}"] = np.stack(world.gather(value))  # by rank
    if world.is_main:
        np.savez(output, **stored)


if __name__ == "__main__":
    main(*sys.argv[1:])
