"""Synchronised BatchNorm, as far as a CPU can tell, and which statistics training moves."""

import paddle
import pytest
from paddle import nn

from models import create_model
from util.options import OptimOptions
from util.train.batch_norm import freeze_statistics, moving_statistics, synchronise_batch_norm
from util.train.freeze import freeze

BN = "blocks.0.attn.conv_proj_q.bn"


def cvt() -> nn.Layer:
    paddle.seed(0)
    return create_model("cvt_nano_32x32", num_classes=3)


@pytest.mark.parametrize("frozen", [(), ("stage0",), ("bn",)], ids=str)
def test_synchronising_replaces_each_batch_norm_that_takes_batches_and_no_tensor(frozen: tuple[str, ...]) -> None:
    model = cvt()
    freeze(model, frozen)
    tensors, trained = model.state_dict(), {name: p.stop_gradient for name, p in model.named_parameters()}
    settings = {name: (x._momentum, x._epsilon, x.training) for name, x in model.named_sublayers() if "bn" in name}
    replaced = synchronise_batch_norm(model)
    layers = dict(model.named_sublayers())
    assert replaced == [name for name in settings if frozen != ("bn",) and not name.startswith(frozen or "-")]
    assert {name for name, x in layers.items() if isinstance(x, nn.SyncBatchNorm)} == set(replaced)
    assert list(model.state_dict()) == list(tensors)
    assert all(value is tensors[name] for name, value in model.state_dict().items())
    assert {name: p.stop_gradient for name, p in model.named_parameters()} == trained
    assert {
        name: (layers[name]._momentum, layers[name]._epsilon, layers[name].training) for name in settings
    } == settings


def test_it_keeps_the_mode_of_a_model_in_evaluation() -> None:
    model = cvt()
    model.eval()
    assert synchronise_batch_norm(model)
    assert not any(layer.training for layer in model.sublayers())


def test_synchronised_statistics_cannot_be_frozen_any_more() -> None:
    model = cvt()
    synchronise_batch_norm(model)
    with pytest.raises(AssertionError, match="freeze before synchronising"):
        freeze(model, ("bn",))


def test_moving_statistics_are_those_of_batch_norms_that_are_not_frozen() -> None:
    model = cvt()
    names = {id(value): name for name, value in model.state_dict().items()}
    all_of_them = [name for name in names.values() if name.endswith(("._mean", "._variance"))]
    assert [names[id(tensor)] for tensor in moving_statistics(model).values()] == all_of_them
    assert list(moving_statistics(model)) == all_of_them
    freeze(model, ("stage0", "stage2"))
    assert [names[id(tensor)] for tensor in moving_statistics(model).values()] == [
        n for n in all_of_them if "stage1" in n
    ]
    freeze_statistics(model.stage1.blocks[0].attn.conv_proj_q.bn)
    assert f"stage1.{BN}._mean" not in moving_statistics(model)


def test_batch_norm_is_each_processs_own_by_default() -> None:
    assert OptimOptions().sync_bn is False
