"""Gradient checkpointing: everything is as without it, but for the activations that are kept."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddle.distributed.fleet.utils.log_util import logger

from models import create_model, layers
from tests.reference import images
from tests.scripts.run import ROOT, run

STATISTICS = ("._mean", "._variance")


def cvt(*, recomputed: bool, **arguments: Any) -> nn.Layer:
    paddle.seed(0)
    model = create_model("cvt_nano_32x32", num_classes=3, drop_rate=0.1, drop_path_rate=0.3, **arguments)
    model.set_grad_checkpointing(recomputed)
    return model


def freeze(model: nn.Layer, beginnings: tuple[str, ...]) -> None:
    for name, parameter in model.named_parameters():
        if name.startswith(beginnings):
            parameter.stop_gradient = True


def forward_backward(model: nn.Layer, micro_batches: int = 2) -> dict[str, np.ndarray]:
    """Returns the gradients added up over the micro-batches, the losses, and BatchNorm's statistics at the end."""
    found = {}
    for i in range(micro_batches):
        paddle.seed(i)
        loss = F.cross_entropy(model(paddle.to_tensor(images(2, 32, 32, seed=i))), paddle.to_tensor([0, 2]))
        loss.backward()
        found[f"loss {i}"] = loss.numpy()
    found |= {f"gradient {name}": p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: value.numpy() for name, value in model.state_dict().items() if name.endswith(STATISTICS)}


def differing(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not np.array_equal(a[name], b[name])}


FROZEN = [(), ("stage0.patch_embed",), ("stage0", "stage1"), ("stage2.blocks.0",)]


@pytest.mark.parametrize("frozen", FROZEN, ids=str)
@pytest.mark.parametrize("method", ["dw_bn", "avg"])
def test_losses_gradients_and_statistics_are_equal_to_the_bit(frozen: tuple[str, ...], method: str) -> None:
    found = []
    for recomputed in (False, True):
        model = cvt(recomputed=recomputed, qkv_proj_method=method)
        if frozen:
            freeze(model, frozen)
        found.append(forward_backward(model))
    assert any(name.startswith("gradient stage1") for name in found[0]) == (frozen != ("stage0", "stage1"))
    assert differing(*found) == set()


def test_that_comparison_sees_statistics_that_move_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_keep_statistics", lambda layer: contextlib.nullcontext())
    found = differing(*(forward_backward(cvt(recomputed=recomputed)) for recomputed in (False, True)))
    assert {name for name in found if name.endswith("._mean")}
    assert all(name.endswith(STATISTICS) for name in found)


def test_that_comparison_sees_dropout_that_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    recompute = layers.recompute
    monkeypatch.setattr(layers, "recompute", lambda *args, **kw: recompute(*args, preserve_rng_state=False, **kw))
    found = differing(*(forward_backward(cvt(recomputed=recomputed)) for recomputed in (False, True)))
    assert any(name.startswith("gradient stage0") for name in found)


def calls(model: nn.Layer) -> list[str]:
    """Notes the name of each block that runs from now on."""
    names: list[str] = []
    for name, layer in model.named_sublayers():
        if name.rpartition(".")[0].endswith("blocks"):
            layer.register_forward_pre_hook(lambda _, __, name=name: names.append(name))
    return names


BLOCKS = ["stage0.blocks.0", "stage1.blocks.0", "stage2.blocks.0", "stage2.blocks.1"]


def test_each_block_runs_again_in_the_backward_pass_of_training_alone() -> None:
    model = cvt(recomputed=True)
    names = calls(model)
    forward_backward(model, micro_batches=1)
    assert names == BLOCKS + BLOCKS[::-1]
    names.clear()
    model.set_grad_checkpointing(False)
    forward_backward(model, micro_batches=1)
    model.set_grad_checkpointing(True)
    model.eval()
    forward_backward(model, micro_batches=1)
    assert names == BLOCKS + BLOCKS


def test_it_is_off_unless_asked_for() -> None:
    model = create_model("cvt_nano_32x32", num_classes=3)
    names = calls(model)
    forward_backward(model, micro_batches=1)
    assert names == BLOCKS


def test_a_frozen_beginning_is_not_run_again_nor_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: Any) -> None:
        raise AssertionError("Paddle warns")

    monkeypatch.setattr(logger, "warning", warn)
    x = paddle.ones([2])
    with pytest.raises(AssertionError, match="Paddle warns"):
        layers.recompute(nn.Linear(2, 2), x, use_reentrant=False)
    model = cvt(recomputed=True)
    freeze(model, ("stage0", "stage1"))
    names = calls(model)
    forward_backward(model, micro_batches=1)
    assert names == [*BLOCKS, "stage2.blocks.1", "stage2.blocks.0"]


@pytest.mark.parametrize("kind", [nn.BatchNorm2D, nn.SyncBatchNorm])
def test_momenta_are_what_they_were_even_after_a_failure(kind: type[nn.Layer]) -> None:
    norm = kind(2, momentum=0.7)

    def fail() -> None:
        with layers._keep_statistics(nn.Sequential(norm)):
            assert norm._momentum == 1.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert norm._momentum == 0.7


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_block_runs_again_in_the_precision_of_its_first_run(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the operators stay float32; this sees what Paddle restores for the second run."""
    told: list[dict[str, Any]] = []

    def auto_cast(**arguments: Any) -> contextlib.nullcontext[None]:
        told.append(arguments)
        return contextlib.nullcontext()

    tracer = paddle.base.framework._dygraph_tracer()
    before, lists = (tracer._amp_level, tracer._amp_dtype), tracer._get_amp_op_list()
    model = cvt(recomputed=True)
    try:
        tracer._amp_level, tracer._amp_dtype = getattr(paddle.base.core.AmpLevel, level), "bfloat16"
        tracer._set_amp_op_list({"concat"}, {"softmax"})
        loss = model(paddle.to_tensor(images(2, 32, 32))).sum()
    finally:
        tracer._amp_level, tracer._amp_dtype = before
        tracer._set_amp_op_list(*lists)
    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    loss.backward()
    expected = {
        "enable": True, "level": level, "dtype": "bfloat16",
        "custom_white_list": {"concat"}, "custom_black_list": {"softmax"},
    }  # fmt: skip
    assert [call | {k: set(call[k]) for k in call if k.endswith("list")} for call in told] == [expected] * len(BLOCKS)


def test_two_processes_average_the_gradients_as_without_it(tmp_path: Path) -> None:
    script = ROOT / "tests/models/recompute_ranks.py"
    launcher = ROOT / "tests/scripts/launch.py"
    run(launcher, "--nproc_per_node", "2", script, "found.npz", cwd=tmp_path, PYTHONPATH=str(ROOT))
    with np.load(tmp_path / "found.npz") as stored:
        found = dict(stored)
    for frozen in ("", "stage0"):
        plain, recomputed = (
            {name.removeprefix(f"{frozen}/{on}/"): v for name, v in found.items() if name.startswith(f"{frozen}/{on}/")}
            for on in (False, True)
        )
        assert differing(plain, recomputed) == set()
        ranks = plain["head.weight"]
        np.testing.assert_array_equal(ranks[0], ranks[1])
        assert np.abs(ranks).max() > 1e-3
        assert (plain["stage1.blocks.0.attn.conv_proj_k.bn._mean"][0] != 0).all(), "the statistics moved"
