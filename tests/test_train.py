"""What train.py builds for a GPU, seen at the calls of Paddle that a CPU has no kernels for."""

import logging
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from models import model_defaults
from models.layers import AttentionProduct, Mlp
from train import TrainSettings, build_state, remaining_epochs
from util.data.preprocessing import resolve_preprocessing
from util.distributed import World
from util.options import PreprocessOptions
from util.settings import parse
from util.train.checkpoint import TrainState
from util.train.loss import make_loss
from util.train.progress import BEST_EMA, Progress
from util.train.run import forget_missing_best
from util.train.run_folder import RunFolder
from util.train.step import TrainStep
from util.weights.container import Container, read_container, write_container

DESCRIPTION: dict[str, Any] = {
    "model": {"name": "cvt_nano_32x32", "num_classes": 3},
    "preprocess": resolve_preprocessing(PreprocessOptions(), model_defaults("cvt_nano_32x32")).to_plain(),
    "classes": {"folders": None, "names": ["a", "b", "c"]},
    "settings": {},
}
STATE = DESCRIPTION | {"progress": {}, "scaler": {}}


def build(*arguments: str, processes: int = 1) -> TrainState:
    settings = parse(TrainSettings, ["--model", "cvt_nano_32x32", *arguments], description="")
    preprocessing = resolve_preprocessing(settings.preprocess, model_defaults("cvt_nano_32x32"))
    log = logging.getLogger("test")
    return build_state(settings, preprocessing, 3, log, processes=processes, from_nothing=True)


@pytest.mark.parametrize(("flags", "processes", "converted"), [
    (["--sync_bn"], 2, True), (["--sync_bn"], 1, False), ([], 2, False), (["--sync_bn", "--freeze", "bn"], 2, False),
])  # fmt: skip
def test_batch_norm_is_converted_with_several_processes_unless_it_is_frozen(
    flags: list[str], processes: int, converted: bool
) -> None:
    state = build(*flags, "--model_ema", processes=processes)
    for model in state.models():
        norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D | nn.SyncBatchNorm)]
        assert [isinstance(layer, nn.SyncBatchNorm) for layer in norms] == [converted] * 12
    optimized = {p.name for p in state.optimizer._parameter_list}
    assert optimized == {p.name for p in state.model.parameters() if not p.stop_gradient}


def test_frozen_weights_are_neither_trained_nor_missed_by_a_resumed_run(tmp_path: Any) -> None:
    state = build("--freeze", "backbone", "--model_ema")
    assert {p.name for p in state.optimizer._parameter_list} == {p.name for p in state.model.head.parameters()}
    tensors = state.tensors()
    assert {k.rpartition("/")[2] for k in tensors if k.startswith("optim/")} == {"head.weight", "head.bias"}
    build("--freeze", "backbone", "--model_ema").restore(Container(tensors, STATE), "here")


def test_rates_of_dropout_reach_the_model() -> None:
    model = build("--drop_rate", "0.1", "--attn_drop_rate", "0.2", "--drop_path_rate", "0.3").model
    attention = [layer.drop.p for layer in model.sublayers() if isinstance(layer, AttentionProduct)]
    assert set(attention) == {0.2}
    assert {layer.drop.p for layer in model.sublayers() if isinstance(layer, Mlp)} == {0.1}
    assert model.stage2.stochastic_depth.rates[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(("flags", "resumed", "expected"), [
    (["--cooldown_epochs", "2"], False, range(0, 12)),
    ([], False, range(0, 10)),
    (["--start_epoch", "4"], False, range(4, 10)),
    (["--start_epoch", "4"], True, range(7, 10)),
    (["--start_epoch", "4", "--resume", "a"], True, range(4, 10)),
    (["--resume", "a"], True, range(7, 10)),
])  # fmt: skip
def test_the_epochs_to_train(flags: list[str], resumed: bool, expected: range) -> None:
    settings = parse(TrainSettings, ["--model", "cvt_nano_32x32", "--epochs", "10", *flags], description="")
    container = Container({}, {"progress": {"epoch": 7}}) if resumed else None
    assert remaining_epochs(settings, container, logging.getLogger("test")) == expected


def test_a_frozen_random_model_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    build("--freeze", "backbone")
    assert "--pretrained is missing" in caplog.text


def test_the_best_of_another_folder_does_not_count(tmp_path: Any) -> None:
    folder = RunFolder(str(tmp_path), "x")
    folder.path.mkdir()
    folder.file(BEST_EMA).touch()
    progress = Progress(update=9, best_acc1=50.0, best_update=3, best_acc1_ema=60.0, best_update_ema=4)
    forget_missing_best(progress, folder, logging.getLogger("test"))
    assert progress == Progress(update=9, best_acc1_ema=60.0, best_update_ema=4)


def test_gradient_checkpointing_reaches_the_model() -> None:
    assert build("--grad_checkpointing").model.stage2.grad_checkpointing
    assert not build().model.stage2.grad_checkpointing


@pytest.mark.parametrize(("flags", "enabled"), [
    (["--amp"], True), (["--amp", "--amp_dtype", "bfloat16"], False), ([], False),
])  # fmt: skip
def test_loss_is_scaled_for_fp16_alone(flags: list[str], enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    create = paddle.amp.GradScaler.__init__

    def record(scaler: paddle.amp.GradScaler, enable: bool = True, **arguments: Any) -> None:
        told.append(enable)
        create(scaler, enable=False)

    monkeypatch.setattr(paddle.amp.GradScaler, "__init__", record)
    build(*flags)
    assert told == [enabled]


def enabled_scaler() -> paddle.amp.GradScaler:
    """A GradScaler as on a GPU; on a CPU Paddle turns it off, so it is turned on by hand."""
    scaler = paddle.amp.GradScaler(enable=False)
    counts = {"_incr_count": 0, "_decr_count": 0, "_incr_every_n_steps": 2000, "_decr_every_n_nan_or_inf": 1}
    ratios = {"_incr_ratio": 2.0, "_decr_ratio": 0.5, "_use_dynamic_loss_scaling": True, "_enable": True}
    scaler.__dict__.update(counts | ratios | {"_scale": paddle.to_tensor([2.0**16])})
    return scaler


def train_once(state: TrainState) -> None:
    """Gives the optimizer a state."""
    for p in state.model.parameters():
        if not p.stop_gradient:
            p.grad = paddle.zeros_like(p)
    state.optimizer.step()


def test_scale_of_fp16_survives_a_checkpoint(tmp_path: Any) -> None:
    state = build("--amp")
    state.scaler = enabled_scaler()
    state.scaler._scale = paddle.to_tensor([1024.0])
    state.scaler._incr_count = 7
    train_once(state)
    write_container(tmp_path / "b.safetensors", state.tensors(), state.plain(DESCRIPTION))

    container: Container = read_container(tmp_path / "b.safetensors")
    again = build("--amp")
    again.scaler = enabled_scaler()
    again.restore(container, "b")
    assert again.scaler._scale.item() == 1024.0
    assert again.scaler._incr_count == 7


def test_average_and_model_get_the_mean_of_the_statistics() -> None:
    state = build("--model_ema")
    for model, value in zip(state.models(), (1.0, 3.0), strict=True):
        model.stage0.blocks[0].attn.conv_proj_k.bn._mean.set_value(paddle.full([32], value))

    class TwoOfUs(World):
        def mean_(self, tensors: list[paddle.Tensor]) -> None:
            for tensor in tensors:
                tensor.scale_(0.5)

    before = state.model.head.weight.numpy().copy()
    state.average_statistics(TwoOfUs(rank=0, size=2))
    means = [model.stage0.blocks[0].attn.conv_proj_k.bn._mean.numpy() for model in state.models()]
    np.testing.assert_array_equal(means, [np.full(32, 0.5), np.full(32, 1.5)])
    np.testing.assert_array_equal(state.model.head.weight.numpy(), before)


def test_a_single_process_is_not_wrapped() -> None:
    state = build()
    settings = parse(TrainSettings, ["--model", "cvt_nano_32x32"], description="")
    assert (
        TrainStep(
            state,
            optim=settings.optim,
            precision=settings.precision,
            loss=make_loss(settings.loss),
            world=World(rank=0, size=1),
        ).model
        is state.model
    )
