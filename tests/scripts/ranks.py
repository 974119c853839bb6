"""Run under the launcher: what several ranks compute. Rank 0 stores it as .npz.

    ranks.py updates OUTPUT     updates of two micro-batches on a fixed global batch, each rank its part
    ranks.py epoch OUTPUT DATA  an epoch of train.py's own loop on a folder of images, with stochastic depth

Without a launcher one process computes the whole.
"""

import hashlib
import logging
import sys
from typing import Any

from util import runtime

runtime.start(cpu_threads=1)

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from paddle import Tensor  # noqa: E402

from models import create_model, model_defaults  # noqa: E402
from models.layers import Keep, StochasticDepth  # noqa: E402
from tests.hooks import NOTHING_BETWEEN  # noqa: E402
from tests.reference import images  # noqa: E402
from train import TrainSettings, build_state, load_data  # noqa: E402
from util import distributed  # noqa: E402
from util.data.preprocessing import resolve_preprocessing  # noqa: E402
from util.distributed import World  # noqa: E402
from util.options import LossOptions, OptimOptions, PrecisionOptions  # noqa: E402
from util.settings import parse  # noqa: E402
from util.train.checkpoint import TrainState  # noqa: E402
from util.train.epoch import train_one_epoch  # noqa: E402
from util.train.loss import make_loss  # noqa: E402
from util.train.optim import create_optimizer  # noqa: E402
from util.train.progress import Progress  # noqa: E402
from util.train.schedule import Schedule  # noqa: E402
from util.train.step import TrainStep  # noqa: E402

CLASSES, UPDATES, MICRO_BATCHES, GLOBAL_BATCH = 5, 3, 2, 6


def make_step(state: TrainState, optim: OptimOptions, world: World) -> TrainStep:
    return TrainStep(state, optim=optim, precision=PrecisionOptions(), loss=make_loss(LossOptions()), world=world)


def run_updates(world: World) -> dict[str, Any]:
    """Returns the head's gradient after each micro-batch, by rank, and the weights at the end."""
    paddle.seed(world.rank)  # rank 0's weights are what everyone starts with
    model = create_model("cvt_nano_32x32", num_classes=CLASSES, qkv_proj_method="linear")  # no BatchNorm
    options = OptimOptions(opt="sgd", weight_decay=0.0)
    scaler = paddle.amp.GradScaler(enable=False)
    state = TrainState(model, create_optimizer(model, options), ema=None, scaler=scaler, progress=Progress())
    step = make_step(state, options, world)
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
            step.update(0.1, i // MICRO_BATCHES)
    return stored | {name: p.numpy() for name, p in model.named_parameters()}


class Recorder:
    """Notes which samples each call of stochastic depth keeps, and each micro-batch's loss."""

    def __init__(self, step: TrainStep) -> None:
        self.kept: list[np.ndarray] = []
        self.losses: list[float] = []
        for layer in step.model.sublayers():
            if isinstance(layer, StochasticDepth):
                layer.register_forward_post_hook(self._note_kept)
        self._accumulate = step.accumulate
        step.accumulate = self._note_loss  # type: ignore[method-assign]

    def _note_kept(self, layer: Any, inputs: Any, output: list[Keep]) -> None:
        self.kept += [factors.flatten().numpy() > 0 for keep in output for factors in keep if factors is not None]

    def _note_loss(self, images: Tensor, targets: Tensor, *, group_size: int, last: bool) -> Tensor:
        loss = self._accumulate(images, targets, group_size=group_size, last=last)
        self.losses.append(loss.item())
        return loss


def run_epoch(world: World, data_dir: str) -> dict[str, Any]:
    """Returns, by rank, the digest of the initial weights, what stochastic depth kept, losses; and the epoch's mean."""
    arguments = ["--data_dir", data_dir, "--model", "cvt_nano_32x32", "--batch_size", "4", "--num_workers", "0"]
    settings = parse(TrainSettings, [*arguments, "--drop_path_rate", "0.5"], description="")
    preprocessing = resolve_preprocessing(settings.preprocess, model_defaults("cvt_nano_32x32"))
    data = load_data(settings, preprocessing, world)
    log = logging.getLogger("silent")
    state = build_state(settings, preprocessing, data.splits.num_classes, log, processes=world.size, from_nothing=True)
    sha = hashlib.sha256()
    for tensor in state.model.state_dict().values():
        sha.update(tensor.numpy().tobytes())
    step = make_step(state, settings.optim, world)
    recorder = Recorder(step)
    schedule = Schedule(settings.schedule, images_per_update=data.images_per_update(1))
    result = train_one_epoch(
        step,
        data,
        progress=state.progress,
        schedule=schedule,
        hooks=NOTHING_BETWEEN,
        log=log,
        log_interval=50,
        world=world,
    )
    return {
        "initial": np.array(world.gather(sha.hexdigest())),
        "kept": np.stack(world.gather(np.stack(recorder.kept))),
        "losses": np.stack(world.gather(np.array(recorder.losses))),
        "train_loss": np.array(result.train_loss),
    }


def main(what: str, output: str, data_dir: str = "") -> None:
    world, _ = distributed.start("cpu")
    stored = run_updates(world) if what == "updates" else run_epoch(world, data_dir)
    if world.is_main:
        np.savez(output, **stored)


if __name__ == "__main__":
    main(*sys.argv[1:])
