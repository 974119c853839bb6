"""Mixed precision: what Paddle is told, what it makes of it, and the scale of the loss.

A CPU computes nothing in half precision, but Paddle builds static programs by the lists of auto_cast as on a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor

from models.layers import keep_factors
from util.options import PrecisionOptions
from util.train.precision import FLOAT32_OPS, HALF_OPS_O2, autocast, make_scaler, skipped

HALF: Literal["bfloat16"] = "bfloat16"  # a static program on a CPU refuses float16
FULL = "float32"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each call of auto_cast."""
    calls: list[dict[str, Any]] = []

    def auto_cast(**arguments: Any) -> contextlib.nullcontext[None]:
        calls.append(arguments)
        return contextlib.nullcontext()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    return calls


BASE = {
    "enable": True, "level": "O1", "dtype": "float16", "custom_white_list": None, "custom_black_list": FLOAT32_OPS,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"enable": False}),
        ({"amp": True}, {}),
        ({"amp": True, "amp_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"amp": True, "amp_level": "O2"}, {"level": "O2", "custom_white_list": HALF_OPS_O2}),
        (
            {"amp": True, "amp_level": "O2", "amp_dtype": "bfloat16"},
            {"level": "O2", "custom_white_list": HALF_OPS_O2, "dtype": "bfloat16"},
        ),
    ],
    ids=str,
)
def test_every_setting_is_what_auto_cast_is_told(
    settings: dict[str, Any], expected: dict[str, Any], told: list[dict[str, Any]]
) -> None:
    with autocast(PrecisionOptions(**settings)):
        pass
    assert told == [BASE | expected]


def test_the_defaults_are_the_references() -> None:
    assert vars(PrecisionOptions()) == {"amp": False, "amp_level": "O1", "amp_dtype": "float16"}


def test_batch_norm_softmax_norms_and_losses_are_among_what_must_be_float32() -> None:
    assert {"batch_norm", "layer_norm", "softmax", "log_softmax", "sigmoid_cross_entropy_with_logits"} <= set(
        FLOAT32_OPS
    )
    assert not set(FLOAT32_OPS) & set(HALF_OPS_O2)


def result_type(function: Callable[..., Tensor], dtypes: str, context: Any, shapes: Any) -> str:
    """Returns the type that an operator of a static program computes in, given the types of its inputs."""
    paddle.enable_static()
    try:
        with paddle.static.program_guard(paddle.static.Program()):
            inputs = [
                paddle.static.data(f"x{i}", shape, HALF if dtype == "h" else FULL)
                for i, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True))
            ]
            with context:
                return str(function(*inputs).dtype).removeprefix("paddle.")
    except TypeError as error:  # not let through: pytest would print values of a program that is gone, and crash
        return f"refused: {error}"
    finally:
        paddle.disable_static()


MATRIX, IMAGE = [4, 4], [2, 4, 8, 8]
# operator: of inputs in half (h) or full (f) precision, their shapes, and its type at O1 and O2
OPERATORS: dict[str, tuple[Callable[..., Tensor], str, list[list[int]], str, str]] = {
    "matmul": (lambda x, y: x @ y, "ff", [MATRIX, MATRIX], HALF, HALF),
    "conv2d": (F.conv2d, "ff", [IMAGE, [4, 4, 3, 3]], HALF, HALF),
    "depthwise_conv2d": (lambda x, w: F.conv2d(x, w, groups=4), "hf", [IMAGE, [4, 1, 3, 3]], FULL, HALF),
    "linear with its bias": (F.linear, "hff", [MATRIX, MATRIX, [4]], FULL, HALF),
    "residual": (lambda x, y: x + y, "hf", [MATRIX, MATRIX], FULL, HALF),
    "layer scale": (lambda x, y: x * y, "hf", [MATRIX, [4]], FULL, HALF),
    "class token": (lambda x, y: paddle.concat([x, y]), "hf", [MATRIX, MATRIX], FULL, HALF),
    "transpose of half": (lambda x: x.transpose([1, 0]), "h", [MATRIX], HALF, HALF),
    "dropout of half": (lambda x: F.dropout(x, 0.5), "h", [MATRIX], HALF, HALF),
    "stochastic depth": (keep_factors, "ff", [MATRIX, MATRIX], FULL, FULL),
    "softmax": (F.softmax, "h", [MATRIX], FULL, FULL),
    "log_softmax": (F.log_softmax, "h", [MATRIX], FULL, FULL),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, [4], w, b), "hff", [MATRIX, [4], [4]], FULL, FULL),
    "group_norm": (lambda x: F.group_norm(x, 2), "h", [IMAGE], FULL, FULL),
    "mean of all": (lambda x: x.mean(), "h", [MATRIX], FULL, FULL),
    "mean of tokens": (lambda x: x.mean(1), "h", [MATRIX], FULL, FULL),
    "sum": (lambda x: x.sum(-1), "h", [MATRIX], FULL, FULL),
    "logsumexp": (paddle.logsumexp, "h", [MATRIX], FULL, FULL),
    "norm": (lambda x: paddle.linalg.norm(x, axis=-1), "h", [MATRIX], FULL, FULL),
    "exp": (paddle.exp, "h", [MATRIX], FULL, FULL),
    "log": (paddle.log, "h", [MATRIX], FULL, FULL),
    "square": (paddle.square, "h", [MATRIX], FULL, FULL),
    "sqrt": (paddle.sqrt, "h", [MATRIX], FULL, FULL),
    "rsqrt": (paddle.rsqrt, "h", [MATRIX], FULL, FULL),
    "binary loss": (F.binary_cross_entropy_with_logits, "hh", [MATRIX, MATRIX], FULL, FULL),
}


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_paddle_computes_in_what_the_level_says(operator: str, level: Any) -> None:
    function, dtypes, shapes, at_o1, at_o2 = OPERATORS[operator]
    context = autocast(PrecisionOptions(amp=True, amp_level=level, amp_dtype=HALF))
    assert result_type(function, dtypes, context, shapes) == (at_o1 if level == "O1" else at_o2)


@pytest.mark.parametrize(
    ("operator", "found"), [("softmax", HALF), ("layer_norm", HALF), ("residual", FULL), ("linear with its bias", FULL)]
)
def test_o2_by_itself_has_softmax_in_half_and_the_residual_path_in_float32(operator: str, found: str) -> None:
    """Why there are lists at all; if this changes, they can be reconsidered."""
    function, dtypes, shapes, _, at_o2 = OPERATORS[operator]
    assert result_type(function, dtypes, paddle.amp.auto_cast(level="O2", dtype=HALF), shapes) == found != at_o2


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets GradScaler believe that there is a GPU."""
    place = SimpleNamespace(is_gpu_place=lambda: True)
    monkeypatch.setattr("paddle.amp.grad_scaler._dygraph_tracer", lambda: SimpleNamespace(_expected_place=place))
    yield
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("settings", "enabled"),
    [
        ({}, False),
        ({"amp_level": "O2"}, False),
        ({"amp": True}, True),
        ({"amp": True, "amp_level": "O2"}, True),
        ({"amp": True, "amp_dtype": "bfloat16"}, False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("gpu")
def test_the_loss_is_scaled_for_float16_alone(settings: dict[str, Any], enabled: bool) -> None:
    scaler = make_scaler(PrecisionOptions(**settings))
    assert scaler.is_enable() == enabled
    assert not skipped(scaler)


@pytest.mark.usefixtures("gpu")
def test_the_scale_halves_at_an_overflow_and_doubles_after_2000_updates_in_a_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scaler = make_scaler(PrecisionOptions(amp=True))
    weight = paddle.create_parameter([2], "float32")
    optimizer = paddle.optimizer.SGD(0.5, [weight])

    def update(gradient: float) -> float:
        weight.grad = paddle.full([2], gradient)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        return scaler._scale.item()

    before = weight.numpy()
    assert update(float("inf")) == update(float("nan")) * 2 == 2.0**15
    assert skipped(scaler)
    assert (weight.numpy() == before).all()
    assert {update(2.0**14) for _ in range(1999)} == {2.0**14}
    assert not skipped(scaler)
    assert update(2.0**14) == 2.0**15
    assert update(0.0) == 2.0**15
    assert abs(weight.numpy() - (before - 0.5 * 2000)).max() < 1e-2
    assert capsys.readouterr().out == ""
