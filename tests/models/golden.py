"""Reading golden files and filling a Paddle model with the deterministic weights that they were made with."""

from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from tests.reference import images, tensor

GOLDEN = Path(__file__).parents[1] / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """Returns a golden file's arrays."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
        return dict(archive)


def official_name(name: str) -> str:
    """The reference's name of one of our parameters or buffers."""
    return name.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def fill(model: nn.Layer) -> None:
    """Sets every weight and buffer to the reference's. Linear weights are transposed: PyTorch keeps (out, in)."""
    linear = {f"{name}.weight" for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    for name, value in model.state_dict().items():
        shape = tuple(value.shape[::-1] if name in linear else value.shape)
        reference = tensor(official_name(name), shape)
        value.set_value(np.ascontiguousarray(reference.T) if name in linear else reference)


@paddle.no_grad()
def logits(model: nn.Layer, batch: int, height: int, width: int) -> np.ndarray:
    """Returns the model's outputs in evaluation mode for the deterministic images."""
    model.eval()
    return model(paddle.to_tensor(images(batch, height, width))).numpy()
