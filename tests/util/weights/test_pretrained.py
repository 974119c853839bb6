"""Weights to start from: another head, another resolution, another number of channels."""

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import save_file

from models import create_model
from tests.checkpoints import AnyModel, write_checkpoint
from tests.reference import images, tensor
from util.errors import MismatchError, WeightsError
from util.weights import Loaded, load_pretrained, load_weights
from util.weights.channels import adapt_channels

NANO = "cvt_nano_32x32"
FIRST = "stage0.patch_embed.proj.weight"


def write_weights(path: Path, **options: Any) -> dict[str, np.ndarray]:
    """Writes the weights of a nano model, which follow from their names, and returns them."""
    own = create_model(NANO, **options).state_dict()
    weights = {name: tensor(name.replace("_variance", "running_var"), tuple(p.shape)) for name, p in own.items()}
    save_file(weights, path)
    return weights


def values(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in model.state_dict().items()}


def test_equal_weights_are_taken_as_they_are(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "x.safetensors", num_classes=5)
    model = create_model(NANO, num_classes=5)
    loaded = load_pretrained(model, tmp_path / "x.safetensors")
    assert loaded == Loaded(new_head=[], adapted=[])
    assert str(loaded) == ""
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, weights[name])


def test_head_for_other_classes_keeps_its_initialisation(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "x.safetensors", num_classes=5)
    model = create_model(NANO, num_classes=3)
    before = values(model)
    loaded = load_pretrained(model, tmp_path / "x.safetensors")
    assert loaded == Loaded(new_head=["head.weight", "head.bias"], adapted=[])
    assert str(loaded) == "; a new head: head.weight, head.bias had another shape"
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name] if name.startswith("head") else weights[name])


@pytest.mark.parametrize(("given", "wanted"), [(3, 1), (1, 3), (3, 4), (3, 6), (1, 2), (2, 1)])
def test_grey_picture_gets_the_same_response_with_other_channels(given: int, wanted: int, tmp_path: Path) -> None:
    """Not only in the first convolution: the whole model's logits."""
    write_weights(tmp_path / "x.safetensors", num_classes=5, in_chans=given)
    grey = images(2, 32, 32)[:, :1]
    logits = []
    for channels in (given, wanted):
        model = create_model(NANO, num_classes=5, in_chans=channels)
        loaded = load_pretrained(model, tmp_path / "x.safetensors")
        assert loaded.adapted == ([FIRST] if channels != given else [])
        model.eval()
        logits.append(model(paddle.to_tensor(np.repeat(grey, channels, axis=1))).numpy())
    assert abs(logits[0]).max() > 0.1
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    assert str(loaded) == f"; for another number of channels: {FIRST}"


def test_channels_by_hand() -> None:
    weight = np.array([1.0, 2.0, 4.0], np.float16).reshape(1, 3, 1, 1)

    def adapted(channels: int) -> list[float]:
        return adapt_channels(weight, channels)[0, :, 0, 0].tolist()

    assert adapted(1) == [7.0]
    assert adapted(4) == [0.5, 2.0, 4.0, 0.5]
    assert adapted(6) == [0.5, 1.0, 2.0, 0.5, 1.0, 2.0]
    assert adapt_channels(weight[:, :1], 2)[0, :, 0, 0].tolist() == [0.5, 0.5]
    assert adapt_channels(weight, 4).dtype == np.float32


def test_head_and_channels_at_once(tmp_path: Path) -> None:
    write_weights(tmp_path / "x.safetensors", num_classes=5)
    loaded = load_pretrained(create_model(NANO, num_classes=2, in_chans=1), tmp_path / "x.safetensors")
    assert loaded == Loaded(["head.weight", "head.bias"], [FIRST])
    assert str(loaded) == (
        f"; a new head: head.weight, head.bias had another shape; for another number of channels: {FIRST}"
    )


def _convolutions(*channels: tuple[int, int]) -> nn.Layer:
    return AnyModel(*[nn.Conv2D(inside, outside, 3) for inside, outside in channels])


@pytest.mark.parametrize(("given", "wanted", "fault"), [
    (((3, 4), (4, 5)), ((2, 4), (4, 5)), r"0\.weight \[4, 3, 3, 3\] instead of \[4, 2, 3, 3\]"),  # neither 1 nor more
    (((3, 4), (4, 5)), ((1, 4), (1, 5)), r"wrong shape \(2\): 0\.weight .*1\.weight"),  # another model
    (((3, 4), (4, 5)), ((1, 6), (4, 5)), r"wrong shape \(2\): 0\.weight .*0\.bias"),
])  # fmt: skip
def test_other_differences_between_convolutions_are_refused(
    given: Any, wanted: Any, fault: str, tmp_path: Path
) -> None:
    save_file(values(_convolutions(*given)), tmp_path / "x.safetensors")
    model = _convolutions(*wanted)
    before = values(model)
    with pytest.raises(WeightsError, match=fault):
        load_pretrained(model, tmp_path / "x.safetensors")
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_matrices_are_never_adapted(tmp_path: Path) -> None:
    save_file(values(AnyModel(nn.Linear(3, 4))), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"weight \[3, 4\] instead of \[1, 4\]"):
        load_pretrained(AnyModel(nn.Linear(1, 4)), tmp_path / "x.safetensors")


def test_another_resolution_needs_nothing_and_trains(tmp_path: Path) -> None:
    """Weights of 32 x 32 in a model for 64 x 48: all of them are taken, and all of them get a gradient there."""
    weights = write_weights(tmp_path / "x.safetensors", num_classes=3)
    model = create_model(NANO, num_classes=3, img_size=(64, 48))
    assert load_pretrained(model, tmp_path / "x.safetensors") == Loaded([], [])
    optimizer = paddle.optimizer.SGD(0.01, parameters=model.parameters())
    batch, labels = paddle.to_tensor(images(4, 64, 48)), paddle.to_tensor([0, 1, 2, 0])
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(batch), labels)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if not p.stop_gradient]
        assert all(gradient is not None and np.isfinite(gradient.numpy()).all() for gradient in gradients)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert not np.array_equal(values(model)[FIRST], weights[FIRST])


# --- heads


HEADS: dict[str, dict[str, np.ndarray]] = {
    "a scalar bias": {"head.bias": np.array(1.0, np.float32)},
    "a vector for a matrix": {"head.weight": np.ones(5, np.float32)},
    "no classes": {"head.weight": np.ones((64, 0), np.float32), "head.bias": np.ones(0, np.float32)},
    "weight and bias of different classes": {"head.bias": np.ones(4, np.float32)},
}


@pytest.mark.parametrize("case", HEADS)
def test_a_damaged_head_is_not_a_head_for_other_classes(case: str, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "x.safetensors", num_classes=5) | HEADS[case]
    save_file(weights, tmp_path / "x.safetensors")
    model = create_model(NANO, num_classes=3)
    before = values(model)
    with pytest.raises(WeightsError, match=r"x\.safetensors: damaged: expected head\.weight \[features, classes\]"):
        load_pretrained(model, tmp_path / "x.safetensors")
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_head_of_other_features_is_another_model(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "x.safetensors", num_classes=5)
    save_file(weights | {"head.weight": np.ones((7, 5), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"wrong shape \(2\): head\.weight \[7, 5\] instead of"):
        load_pretrained(create_model(NANO, num_classes=3), tmp_path / "x.safetensors")


def test_a_backbone_gets_a_new_head(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "x.safetensors", num_classes=5)
    backbone = {name: value for name, value in weights.items() if not name.startswith("head.")}
    save_file(backbone, tmp_path / "x.safetensors")
    model = create_model(NANO, num_classes=3)
    before = values(model)
    loaded = load_pretrained(model, tmp_path / "x.safetensors")
    assert loaded == Loaded(["head.weight", "head.bias"], [], headless=True)
    assert str(loaded) == "; a new head: head.weight, head.bias are not in the file"
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name] if name.startswith("head.") else weights[name])
    with pytest.raises(WeightsError, match=r"missing \(2\): head\.weight, head\.bias"):
        load_weights(model, tmp_path / "x.safetensors")


@pytest.mark.parametrize("lost", ["head.weight", "head.bias", FIRST])
def test_half_a_head_or_a_backbone_with_gaps_is_refused(lost: str, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "x.safetensors", num_classes=3)
    if lost == FIRST:
        weights = {name: value for name, value in weights.items() if not name.startswith("head.")}
    del weights[lost]
    save_file(weights, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=rf"missing \(1\): {lost}"):
        load_pretrained(create_model(NANO, num_classes=3), tmp_path / "x.safetensors")


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nano.safetensors"
    write_checkpoint(path)
    other = create_model("cvt_nano_32x32", qkv_proj_method="linear")
    with pytest.raises(MismatchError, match=r"holds cvt_nano_32x32, whose weights are not those of cvt_13_224x224"):
        load_pretrained(other, path, name="cvt_13_224x224")
    with pytest.raises(WeightsError, match="does not fit the model") as caught:
        load_pretrained(other, path, name="cvt_nano_32x32")
    assert not isinstance(caught.value, MismatchError)
