"""What freezing takes out of training, and that it stays out."""

import copy

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import create_model
from tests.reference import images
from util.errors import UsageError
from util.options import OptimOptions
from util.train.freeze import freeze
from util.train.optim import create_optimizer


def cvt() -> nn.Layer:
    paddle.seed(0)
    return create_model("cvt_nano_32x32", num_classes=3)


def trained_names(model: nn.Layer) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.stop_gradient}


def has_gradient(name: str) -> bool:
    """Softmax does not see what all keys share; the head sees the class token, whose query is not convolved."""
    return not name.endswith(("proj_k.bias", "conv_proj_k.bn.bias")) and "stage2.blocks.1.attn.conv_proj_q" not in name


def train_once(model: nn.Layer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns all tensors before and after a step, which begins as an epoch does."""
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    optimizer = create_optimizer(model, OptimOptions(opt="adam"))  # moves the smallest gradient visibly
    optimizer.set_lr(0.1)
    model.train()
    F.cross_entropy(model(paddle.to_tensor(images(4, 32, 32))), paddle.to_tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    return before, {name: value.numpy() for name, value in model.state_dict().items()}


BN = "attn.conv_proj_k.bn"
CASES = {
    "backbone": ("backbone",),
    "bn": ("bn",),
    "stage": ("stage0",),
    "block": ("stage2.blocks.1",),
    "whole name": ("stage2.cls_token",),
    "several": ("bn", "head", "stage1.patch_embed", "stage1.patch_embed.proj"),
    "half a BatchNorm": (f"stage0.blocks.0.{BN}.weight",),
    "nothing": (),
}


def expected_names(case: str, name: str) -> bool:
    """Whether a trainable parameter is frozen, by the words of the help."""
    parts = name.split(".")
    return {
        "backbone": parts[0] != "head",
        "bn": "bn" in parts,
        "stage": parts[0] == "stage0",
        "block": parts[:3] == ["stage2", "blocks", "1"],
        "whole name": name == "stage2.cls_token",
        "several": "bn" in parts or parts[0] == "head" or parts[:2] == ["stage1", "patch_embed"],
        "half a BatchNorm": name == f"stage0.blocks.0.{BN}.weight",
        "nothing": False,
    }[case]


@pytest.mark.parametrize("case", CASES)
def test_what_is_frozen_is_what_the_patterns_say_and_does_not_move_and_all_else_does(case: str) -> None:
    model = cvt()
    names = [name for name, p in model.named_parameters() if not p.stop_gradient]
    expected = [name for name in names if expected_names(case, name)]
    assert freeze(model, CASES[case]) == expected
    assert trained_names(model) == set(names) - set(expected)
    before, after = train_once(model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    frozen_norms = {name.rpartition(".")[0] for name in expected if name.endswith("bn.weight")} - {
        f"stage0.blocks.0.{BN}" if case == "half a BatchNorm" else ""
    }
    statistics = {name for name in before if name.endswith(("._mean", "._variance"))}
    still = set(expected) | {name for name in statistics if name.rpartition(".")[0] in frozen_norms}
    assert set(filter(has_gradient, moved)) == set(filter(has_gradient, before.keys() - still))
    assert not moved & still
    assert (statistics <= still) == (case in ("backbone", "bn", "several"))


def test_names_are_matched_in_whole_parts() -> None:
    class Numbered(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.LayerList([nn.Linear(2, 2) for _ in range(12)])

    assert freeze(Numbered(), ("blocks.1",)) == ["blocks.1.weight", "blocks.1.bias"]


def test_a_frozen_batch_norm_normalises_with_its_running_statistics_in_training() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 1), nn.BatchNorm2D(4))
    norm = model[1]
    norm._mean.set_value(paddle.to_tensor([0.5, -1.0, 0.0, 2.0]))
    norm._variance.set_value(paddle.to_tensor([0.5, 1.0, 2.0, 4.0]))
    norm.weight.set_value(paddle.to_tensor([1.0, 2.0, -1.0, 0.5]))
    freeze(model, ("bn",))
    for frozen in (norm, copy.deepcopy(norm), copy.deepcopy(model)[1]):
        frozen.train()
        x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32))
        x.stop_gradient = False
        y = frozen(x)
        mean, scale = (t.numpy().reshape(1, 4, 1, 1) for t in (norm._mean, norm.weight))
        slope = scale / np.sqrt(norm._variance.numpy().reshape(1, 4, 1, 1) + 1e-5)
        np.testing.assert_allclose(y.numpy(), (x.numpy() - mean) * slope, atol=1e-5)
        (y * y).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 * y.numpy() * slope, rtol=1e-4, atol=1e-5)


def test_the_head_alone_learns_and_the_backbone_gets_no_gradient() -> None:
    model = cvt()
    freeze(model, ("backbone",))
    before, after = train_once(model)
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"head.weight", "head.bias"}
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("head."))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("stage9",), r"'stage9' matches no parameter.* stage0, stage1, stage2, norm, head"),
        (("bn", "stage"), "'stage' matches no parameter"),
        (("stage0.",), "'stage0.' matches no parameter"),
        (("",), "'' matches no parameter"),
        (("backbone", "head"), "backbone head leaves nothing to train"),
        (("stage0", "stage1", "stage2", "norm", "head"), "leaves nothing to train"),
    ],
)
def test_a_pattern_without_a_match_or_nothing_left_is_an_error_and_nothing_is_frozen(
    patterns: tuple[str, ...], message: str
) -> None:
    model = cvt()
    names = trained_names(model)
    with pytest.raises(UsageError, match=message):
        freeze(model, patterns)
    assert trained_names(model) == names


def test_bn_of_a_model_without_batch_norm_is_an_error() -> None:
    with pytest.raises(UsageError, match="'bn' matches no parameter"):
        freeze(create_model("cvt_nano_32x32", qkv_proj_method="linear"), ("bn",))


def test_nothing_is_frozen_by_default() -> None:
    assert OptimOptions().freeze == ()
