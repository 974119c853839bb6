"""Prints a table of the models: exact size, cost of one image, and what each name implies about the input.

    python -m models
    python -m models 'convit*'

Parameters and multiply-accumulates (GMACs, attention products included) are counted in the models as they are built,
not looked up. Weights are not initialised and matrix products not computed, so all models take a few seconds.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor, nn

from models.layers import AttentionProduct
from models.profile import count_macs, count_parameters
from models.registry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModelInfo,
    canonical_name,
    create_model,
    list_models,
    model_info,
)
from models.vit import HALF
from util.errors import UsageError, run_script
from util.settings import Parser
from util.tables import table_text

COLUMNS = ("model", "parameters", "GMACs", "input", "mean, std", "crop", "interpolation")
ALIGNMENT = "<" + ">" * 6


def _stub(layer: Any) -> None:
    """Lets a linear layer or an attention product return zeros of the right shape instead of computing.

    Counting needs shapes alone: without this it would take the memory of all weights and the time of a forward pass of
    every model. Only this one instance is changed, and its hooks still run, which is how `count_macs` sees the shapes.
    """

    def linear(x: Tensor) -> Tensor:
        return paddle.zeros([*x.shape[:-1], layer.weight.shape[1]])

    # the last two are GatedProduct's alone
    def attention(
        q: Tensor, k: Tensor, v: Tensor, position_attn: Tensor | None = None, gates: Tensor | None = None
    ) -> Tensor:
        return paddle.zeros([*q.shape[:-1], v.shape[-1]])

    layer.forward = linear if isinstance(layer, nn.Linear) else attention


def model_size(name: str) -> tuple[int, int]:
    """Returns the parameters of a model, and the multiply-accumulates of one image of its own input size.

    The same numbers as `count_parameters` and `count_macs` of `create_model(name)`, for a hundredth of the time and
    memory of the largest: no weight of a linear layer is ever made, and only shapes pass through the products.
    """
    with paddle.LazyGuard():
        model = create_model(name)
    products = [layer for layer in model.sublayers() if isinstance(layer, nn.Linear | AttentionProduct)]
    unused = {id(parameter) for layer in products for parameter in layer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in unused:
            parameter.initialize()
    for layer in products:
        _stub(layer)
    return count_parameters(model), count_macs(model, model_info(name).input_size)


def normalisation(info: ModelInfo) -> str:
    """Returns the short name of a mean and standard deviation: `ImageNet`, `0.5`, or the numbers."""
    named: dict[tuple[tuple[float, ...], ...], str] = {(IMAGENET_MEAN, IMAGENET_STD): "ImageNet", (HALF, HALF): "0.5"}
    return named.get((info.mean, info.std), f"{info.mean}, {info.std}")


def describe(name: str) -> tuple[str, ...]:
    """Returns a model's row of the table, fields as in `COLUMNS`."""
    info = model_info(name)
    parameters, macs = model_size(name)
    return (
        name,
        f"{parameters:,}",
        f"{macs / 1e9:.3f}",
        " x ".join(map(str, info.input_size)),
        normalisation(info),
        "squash" if info.crop_mode == "squash" else f"{info.crop_pct:g}",
        info.interpolation,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(
        prog="python -m models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell-style, quoted; none: all")
    pattern = parser.parse_args(argv).pattern
    names = list_models(canonical_name(pattern))
    if not names:
        raise UsageError(f"no model matches {pattern!r}; known models: {', '.join(list_models())}")
    print(table_text([COLUMNS, *map(describe, names)], ALIGNMENT))


if __name__ == "__main__":
    run_script(main)
