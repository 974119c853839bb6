"""Images per second of an exported model on one of the engines of infer.py, which starts it as that does."""

import argparse
import time
from collections.abc import Sequence

import numpy as np

from bench.side import serve
from util import runtime
from util.deploy.bundle import load_bundle
from util.deploy.engine_choice import Engine, choose_engine
from util.deploy.engines import start_engine
from util.errors import run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", required=True, help="what export_model.py has written")
    parser.add_argument("--engine", default="auto", choices=("auto", "paddle", "openvino", "onnxruntime"))
    parser.add_argument("--within_paddle", action="store_true", help="openvino: what Paddle carries, not the package")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "int8"))
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(argv)
    passes = max(1, 16 // given.batch_size)
    engine = choose_engine(given.engine, given.precision, device="cpu", given=None, onednn=True)
    if given.within_paddle:
        engine = Engine(name="paddle-openvino", precision=given.precision, programs=("model.pdmodel",))
    program = load_bundle(given.model_dir).program(engine.programs)
    threads = runtime.start(given.threads).threads if engine.needs_paddle else given.threads
    forward = start_engine(engine, program, device="cpu", threads=threads, onednn=True)
    size = program.manifest.preprocessing().input_size
    images = np.random.default_rng(0).standard_normal((given.batch_size, *size), dtype=np.float32)

    def measure() -> float:
        begun = time.perf_counter()
        for _ in range(passes):
            forward(images)
        return passes * given.batch_size / (time.perf_counter() - begun)

    serve(measure)


if __name__ == "__main__":
    run_script(main)
