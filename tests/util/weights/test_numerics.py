"""How weights want to be computed stays with them: from MindCV's file through a run's checkpoints to every user."""

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn

from models import create_model
from tests.checkpoints import PREPROCESS, AnyModel
from tests.golden.make_weights import VIT
from tests.models.golden import load
from tests.reference import images
from tests.util.weights.test_every_source import hf_vit, mindcv_vit, official
from tests.weights_files import write_mindspore, write_safetensors
from util.checkpoint import KEPT, average, strip
from util.errors import MismatchError, WeightsError
from util.options import EmaOptions, OptimOptions, PrecisionOptions
from util.train.checkpoint import TrainState
from util.train.ema import ModelEma
from util.train.optim import create_optimizer
from util.train.precision import make_scaler
from util.train.progress import Progress
from util.weights import load_pretrained, load_weights, set_numerics
from util.weights.container import read_container, write_container
from util.weights.state import checked_state

TANH = {"act": "gelu_tanh", "norm_eps": 1e-7}
DESCRIPTION = {
    "model": {"name": "vit_s_16_224", "num_classes": 10},
    "preprocess": PREPROCESS,
    "classes": {"folders": None, "names": list("abcdefghij")},
    "settings": {},
    "versions": {},
}


def small() -> nn.Layer:
    return create_model("vit_s_16_224", img_size=32, **VIT)


def state_of(model: nn.Layer) -> TrainState:
    return TrainState(
        model,
        create_optimizer(model, OptimOptions()),
        ema=ModelEma(model, EmaOptions(model_ema=True)),
        scaler=make_scaler(PrecisionOptions()),
        progress=Progress(),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A checkpoint of a run that started from a file of MindCV."""
    write_mindspore(tmp_path / "vit.ckpt", mindcv_vit(load("weights")))
    model = small()
    load_pretrained(model, tmp_path / "vit.ckpt")
    state = state_of(model)
    write_container(tmp_path / "run.safetensors", state.tensors(), state.plain(DESCRIPTION))
    return tmp_path / "run.safetensors"


def test_a_resumed_run_computes_as_it_did(run: Path) -> None:
    state = state_of(small())
    assert [model.numerics() for model in state.models()] != [TANH, TANH]
    state.restore(read_container(run), "run")
    assert [model.numerics() for model in state.models()] == [TANH, TANH]


def test_its_checkpoint_gives_mindcvs_logits(run: Path) -> None:
    model = small()
    load_weights(model, run)
    model.eval()
    logits = model(paddle.to_tensor(images(2, 32, 32))).numpy()
    np.testing.assert_allclose(logits, load("weights")["mindcv_vit"], rtol=0, atol=1e-4)


def test_what_is_stripped_or_averaged_keeps_it(run: Path) -> None:
    assert "numerics" in KEPT
    strip(str(run), ema=False, output=str(run.with_name("small.safetensors")))
    assert read_container(run.with_name("small.safetensors")).state["numerics"] == TANH
    container = read_container(run)
    other = run.with_name("other.safetensors")
    write_container(other, container.tensors, container.state | {"numerics": {"act": "gelu", "norm_eps": 1e-6}})
    with pytest.raises(MismatchError, match="numerics act: gelu_tanh and gelu"):
        average([str(run), str(other)], ema=False, output=str(run.with_name("mean.safetensors")))


@pytest.mark.parametrize("numerics", [
    {"act": "relu", "norm_eps": 1e-6}, {"act": "gelu"}, {"act": "gelu", "norm_eps": "x"},
    {"act": "gelu", "norm_eps": 1.0},
    {"act": ["gelu"], "norm_eps": 1e-6}, {"act": "gelu", "norm_eps": 1e-6, "more": 1}, ["gelu"],
    {"act": "gelu", "norm_eps": True},
])  # fmt: skip
def test_forged_numerics_are_refused(numerics: object) -> None:
    checked_state(DESCRIPTION | {"numerics": TANH}, "x")
    with pytest.raises(WeightsError, match="x: not a usable checkpoint: numerics"):
        checked_state(DESCRIPTION | {"numerics": numerics}, "x")


@pytest.mark.parametrize("forgery", [
    {"numerics": ["gelu"]}, {"numerics": {"act": "relu", "norm_eps": 1e-6}},
    {"numerics": {"act": "gelu", "norm_eps": 1.0}}, {"preprocess": PREPROCESS | {"input_size": [3]}},
    {"preprocess": [1]}, {"preprocess": PREPROCESS | {"input_size": list("abc")}},
    {"model": None}, {"classes": {"folders": None, "names": ["a"]}},
])  # fmt: skip
def test_a_forged_checkpoint_is_a_weights_error_and_leaves_the_model_alone(
    forgery: dict[str, object], run: Path
) -> None:
    container, forged = read_container(run), run.with_name("forged.safetensors")
    write_container(forged, container.tensors, container.state | forgery)
    model = small()
    before = model.head.weight.numpy()
    for read in (load_weights, load_pretrained):
        with pytest.raises(WeightsError, match="not a usable checkpoint"):
            read(model, forged)
    np.testing.assert_array_equal(model.head.weight.numpy(), before)
    assert model.numerics()["act"] == "gelu"


def test_the_next_weights_bring_their_own(tmp_path: Path) -> None:
    write_mindspore(tmp_path / "vit.ckpt", mindcv_vit(load("weights")))
    write_safetensors(tmp_path / "timm.safetensors", official(load("weights"), "vit"))
    write_safetensors(tmp_path / "hf.safetensors", hf_vit(load("weights")))
    model = small()
    for name, act in (("vit.ckpt", "gelu_tanh"), ("timm.safetensors", "gelu"), ("vit.ckpt", "gelu_tanh"),
                      ("hf.safetensors", "gelu")):  # fmt: skip
        load_weights(model, tmp_path / name)
        eps = {"timm.safetensors": 1e-6, "hf.safetensors": 1e-12}.get(name, 1e-7)
        assert model.numerics() == {"act": act, "norm_eps": eps}


def test_numerics_for_a_model_without_any_are_refused() -> None:
    with pytest.raises(WeightsError, match="of which this model knows nothing"):
        set_numerics(AnyModel(nn.Linear(1, 1)), TANH, source="x")
