"""Every engine and program of an export against its model on photographs: largest difference, same best classes.

    python -m bench.agreement [--model NAME] [--threads N]

Random weights; int8 is calibrated with photographs that are not compared. Engines that are not installed are left out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.photographs import shared_photographs
from util import runtime
from util.data.images import decode_image
from util.errors import run_script
from util.tables import table_text

COMPARED, CALIBRATING = 32, 16


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cvt_13_224x224")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(argv)
    runtime.start(given.threads)

    import numpy as np
    import paddle

    from bench.exported import export_random, random_model
    from models import model_defaults
    from util.data.preprocessing import resolve_preprocessing
    from util.deploy.bundle import INT8, ONNX, PROGRAMS, load_bundle
    from util.deploy.calibration import Calibration
    from util.deploy.engine_choice import Engine, is_installed
    from util.deploy.engines import start_engine
    from util.options import PreprocessOptions

    transform = resolve_preprocessing(PreprocessOptions(), model_defaults(given.model)).transform()
    files = shared_photographs()[: COMPARED + 2 * CALIBRATING]
    images = np.stack([transform(decode_image(str(file))) for file in files])
    compared, others = images[:COMPARED], images[COMPARED:]
    model = random_model(given.model)
    with paddle.no_grad():
        expected = np.concatenate([model(paddle.to_tensor(image[None])).numpy() for image in compared])
    lines = [["engine", "program", "largest difference", "of logits to", "same best class"]]
    with tempfile.TemporaryDirectory(prefix="bench.") as folder:
        export_random(
            given.model, Path(folder), program=INT8, threads=given.threads,
            calibration=Calibration(images=others[::2], held_out=others[1::2]),
        )  # fmt: skip
        engines = [Engine(name="paddle", precision="fp32", programs=(name,)) for name in PROGRAMS]
        engines.append(Engine(name="paddle-openvino", precision="fp32", programs=("model.pdmodel",)))
        if is_installed("openvino"):
            engines += [Engine(name="openvino", precision="fp32", programs=(name,)) for name in ("model.pdmodel", ONNX)]
        engines += [Engine(name="onnxruntime", precision="fp32", programs=(ONNX,)),
                    Engine(name="onnxruntime", precision="int8", programs=(INT8,))]  # fmt: skip
        for engine in engines:
            program = load_bundle(folder).program(engine.programs)
            forward = start_engine(engine, program, device="cpu", threads=given.threads, onednn=True)
            found = np.concatenate([forward(image[None]) for image in compared])
            same = (found.argmax(1) == expected.argmax(1)).mean()
            lines.append([str(engine), program.path.name, f"{np.abs(found - expected).max():.1e}",
                          f"{np.abs(expected).max():.2f}", f"{100 * same:.1f} %"])  # fmt: skip
    named = len(set(expected.argmax(1)))
    print(f"{given.model}, random weights, {COMPARED} photographs, {named} different best classes")
    print(table_text(lines, "<<>>>"))


if __name__ == "__main__":
    run_script(main)
