"""How long a save holds up training: in the background, and waited for.

    python bench/saving.py --model cvt_13_224x224 --saves 4

Trains on random images and saves every few updates, both ways by turns, in one process. Prints, for each way, the mean
seconds of an update without and with a save, and what a save adds; the checkpoints go to a temporary folder.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from util import runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvt_13_224x224")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--saves", type=int, default=4, help="of each way")
    parser.add_argument("--updates", type=int, default=3, help="between two saves")
    parser.add_argument("--output", default=None, help="folder on the disk to measure; none: the temporary one")
    options = parser.parse_args()
    runtime.start(None)

    import numpy as np
    import paddle

    from models import create_model, model_defaults
    from util.distributed import World
    from util.options import EmaOptions, LossOptions, OptimOptions, PrecisionOptions
    from util.train.checkpoint import TrainState
    from util.train.ema import ModelEma
    from util.train.loss import make_loss
    from util.train.optim import create_optimizer
    from util.train.precision import make_scaler
    from util.train.progress import Progress
    from util.train.run_folder import RunFolder
    from util.train.saver import Writer
    from util.train.step import TrainStep

    model = create_model(options.model, num_classes=1000)
    optim = OptimOptions()
    state = TrainState(
        model, create_optimizer(model, optim), ema=ModelEma(model, EmaOptions()),
        scaler=make_scaler(PrecisionOptions()), progress=Progress(),
    )  # fmt: skip
    step = TrainStep(
        state, optim=optim, precision=PrecisionOptions(), loss=make_loss(LossOptions()), world=World(rank=0, size=1)
    )
    rng = np.random.default_rng(0)
    _, height, width = model_defaults(options.model)["input_size"]
    images = paddle.to_tensor(rng.standard_normal((options.batch_size, 3, height, width)).astype(np.float32))
    targets = paddle.full([options.batch_size, 1000], 1e-3)
    plain: list[float] = []
    with_save: dict[bool, list[float]] = {True: [], False: []}

    def update() -> float:
        begun = time.perf_counter()
        step.accumulate(images, targets, group_size=1, last=True).numpy()
        step.update(1e-4, state.progress.update).numpy()
        state.progress.update += 1
        return time.perf_counter() - begun

    update()
    with tempfile.TemporaryDirectory(dir=options.output) as place:
        folder = RunFolder(place, "bench")
        folder.create()
        for turn in range(2 * options.saves):
            background = turn % 2 == 0
            writer = Writer(background=background)
            plain += [update() for _ in range(options.updates)]
            begun = time.perf_counter()
            tensors, description = state.tensors(), state.plain({})
            stems = ["checkpoint-latest"]
            writer.do(lambda t=tensors, d=description, s=stems: folder.save(t, d, stems=s, keep=1))  # type: ignore[misc]
            stall = time.perf_counter() - begun
            during = [update() for _ in range(options.updates)]
            writer.wait()
            with_save[background].append(stall + sum(during))
    usual = float(np.mean(plain))
    print(f"{options.model}, checkpoint {state.nbytes() / 1e6:.0f} MB; an update {usual:.2f} s")
    added = {way: float(np.mean(values)) - options.updates * usual for way, values in with_save.items()}
    for way, name in ((True, "in the background"), (False, "waited for")):
        print(f"a save {name} adds {added[way]:.2f} s")
    print(f"ratio {added[True] / added[False]:.2f}")


if __name__ == "__main__":
    main()
