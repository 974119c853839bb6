"""Exports with random weights, whose speed is that of trained ones."""

from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from models import create_model, model_defaults
from models.deploy import deployed
from util.data.preprocessing import resolve_preprocessing
from util.deploy.bundle import INT8, ONNX
from util.deploy.calibration import Calibration
from util.deploy.export import export
from util.deploy.manifest import Manifest
from util.options import PreprocessOptions


def random_model(name: str) -> nn.Layer:
    """Returns a model in evaluation with random weights, the same at every call; BatchNorm's statistics, too."""
    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = create_model(name)
    for key, value in model.state_dict().items():
        if ".bn." in key:
            array = value.numpy()
            value.set_value((array * rng.uniform(0.5, 1.5, array.shape)).astype(np.float32))
    model.eval()
    return model


def export_random(
    name: str, folder: Path, *, program: str, threads: int, calibration: Calibration | None = None
) -> None:
    """Exports a random model of that name, with what `program` needs: an ONNX form only if it is one.

    calibration: the pictures for int8; without, noise.
    """
    model = random_model(name)
    preprocessing = resolve_preprocessing(PreprocessOptions(), model_defaults(name))
    size = preprocessing.input_size
    manifest = Manifest(
        model=name, input_shape=(None, *size), input_dtype="float32", num_classes=1000,
        class_names=tuple(map(str, range(1000))), preprocess=preprocessing.to_plain(), sha256={}, versions={},
        numerics=model.numerics(),
    )  # fmt: skip
    if calibration is None:
        images = np.random.default_rng(0).standard_normal((16, *size), dtype=np.float32)
        calibration = Calibration(images=images[::2], held_out=images[1::2])
    export(
        model, manifest, folder, threads=threads, sizes=[size[1:]], form=deployed(model), onnx=program == ONNX,
        calibration=calibration if program == INT8 else None,
    )  # fmt: skip
