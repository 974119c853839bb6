"""ViT against timm and MindCV, and what a table of positions brings with it."""

import copy
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import create_model
from models.transformer import InputSizeError
from tests.golden.make_weights import VIT
from tests.models.golden import fill, load, logits
from tests.reference import images

SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "img_size": 32, "num_classes": 5}


@pytest.fixture(scope="module")
def vit_b_32() -> nn.Layer:
    model = create_model("vit_b_32_224")
    fill(model)
    return model


def test_logits_equal_timm(vit_b_32: nn.Layer) -> None:
    expected = load("vit_b_32_224")["logits_224"]
    np.testing.assert_allclose(logits(vit_b_32, len(expected), 224, 224), expected, rtol=0, atol=1e-4)


def test_logits_with_smaller_patches_equal_timm() -> None:
    model = create_model("vit_b_16_224")
    fill(model)
    expected = load("vit_b_16_224")["logits_224"]
    np.testing.assert_allclose(logits(model, len(expected), 224, 224), expected, rtol=0, atol=1e-4)


def test_logits_equal_mindcv(vit_b_32: nn.Layer) -> None:
    """Names and weights are timm's; MindSpore has another GELU and another epsilon by default."""
    model = copy.deepcopy(vit_b_32)
    model.eval()
    batch = paddle.to_tensor(images(1, 224, 224, seed=9))
    expected = load("mindcv_vit_b_32_224")["logits"]
    with paddle.no_grad():
        assert np.abs(model(batch).numpy() - expected).max() > 1e-3
        model.set_numerics(act="gelu_tanh", norm_eps=1e-7)
        np.testing.assert_allclose(model(batch).numpy(), expected, rtol=0, atol=1e-4)


def test_numerics_can_be_set() -> None:
    model = create_model("vit_s_16_224", **SMALL)
    model.set_numerics(act="gelu_tanh", norm_eps=1e-3)
    assert model.numerics() == {"act": "gelu_tanh", "norm_eps": 1e-3}
    other = create_model("vit_s_16_224", **SMALL)
    assert other.numerics() == {"act": "gelu", "norm_eps": 1e-6}
    other.set_state_dict(model.state_dict())
    before = logits(other, 2, 32, 32)
    other.set_numerics(**model.numerics())
    assert np.abs(before - logits(model, 2, 32, 32)).max() > 1e-5
    np.testing.assert_array_equal(logits(other, 2, 32, 32), logits(model, 2, 32, 32))
    with pytest.raises(ValueError, match="act is one of gelu, gelu_tanh; got 'relu'"):
        model.set_numerics(act="relu", norm_eps=1e-6)


def test_gradients_equal_timm() -> None:
    golden = load("weights")
    model = create_model("vit_s_16_224", img_size=32, **VIT)
    fill(model)
    model.train()
    loss = F.cross_entropy(model(paddle.to_tensor(images(2, 32, 32))), paddle.to_tensor([3, 7]))
    loss.backward()
    assert abs(float(loss) - float(golden["vit_loss"])) < 1e-5
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(map(str, golden["vit_grad_names"]))
    for name, expected in zip(golden["vit_grad_names"], golden["vit_grad_norms"], strict=True):
        norm = float(np.linalg.norm(parameters[str(name)].grad.numpy().astype(np.float64)))
        assert abs(norm - expected) <= 1e-3 * expected, name


def test_initialisation_is_timms() -> None:
    paddle.seed(0)
    model = create_model("vit_s_16_224", depth=2)
    for name, parameter in model.named_parameters():
        values = parameter.numpy().astype(np.float64)
        noise = 6.0 / np.sqrt(2.0 * values.size)
        if name == "cls_token":
            assert abs(values.std() - 1e-6) < noise * 1e-6
        elif name.startswith("patch_embed"):  # PyTorch's default for convolutions
            bound = (3 * 16 * 16) ** -0.5
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > bound * 0.98
        elif name == "pos_embed" or (values.ndim == 2):
            assert abs(values.std() - 0.02) < noise * 0.02, name
        else:
            assert np.unique(values).tolist() == [1.0 if ".norm" in f".{name}" and name.endswith("weight") else 0.0]


def test_every_parameter_gets_a_gradient() -> None:
    paddle.seed(1)
    model = create_model("vit_s_16_224", **SMALL)
    model(paddle.to_tensor(images(2, 32, 32))).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not np.abs(p.grad.numpy()).max() > 0] == []


def test_batch_of_one_keeps_its_axis_and_equals_its_part_of_a_batch() -> None:
    model = create_model("vit_s_16_224", **SMALL)
    one, three = logits(model, 1, 32, 32), logits(model, 3, 32, 32)
    assert one.shape == (1, 5)
    np.testing.assert_allclose(one, three[:1], atol=1e-5)


def test_features_and_a_model_without_head() -> None:
    model = create_model("vit_s_16_224", **SMALL)
    model.eval()
    batch = paddle.to_tensor(images(2, 32, 32))
    tokens = model.forward_features(batch)
    assert tokens.shape == [2, 1 + 16, 24]
    np.testing.assert_allclose(model.head(tokens[:, 0]).numpy(), model(batch).numpy(), atol=1e-6)
    headless = create_model("vit_s_16_224", **(SMALL | {"num_classes": 0}))
    headless.set_state_dict(model.state_dict())
    headless.eval()
    np.testing.assert_array_equal(headless(batch).numpy(), tokens[:, 0].numpy())


def test_features_only_gives_four_maps_of_the_grid() -> None:
    full = create_model("vit_s_16_224", **(SMALL | {"depth": 8, "img_size": (32, 48)}))
    maps_model = create_model("vit_s_16_224", **(SMALL | {"depth": 8, "img_size": (32, 48)}), features_only=True)
    maps_model.set_state_dict(full.state_dict())
    full.eval()
    maps_model.eval()
    batch = paddle.to_tensor(images(2, 32, 48))
    maps = maps_model(batch)
    assert [m.shape for m in maps] == [[2, 24, 4, 6]] * 4
    last = full.norm(maps[-1].flatten(2).transpose([0, 2, 1]))  # the tokens after all blocks
    np.testing.assert_allclose(last.numpy(), full.forward_features(batch)[:, 1:].numpy(), atol=1e-5)
    shallow = create_model("vit_s_16_224", **(SMALL | {"depth": 2}), features_only=True)
    assert len(shallow(paddle.to_tensor(images(1, 32, 32)))) == 2


def test_stochastic_depth_rises_linearly() -> None:
    model = create_model("vit_s_16_224", **SMALL, drop_path_rate=0.3)
    np.testing.assert_allclose(model.stochastic_depth.rates, [0, 0.1, 0.2, 0.3], atol=1e-12)


def test_layer_order_holds_every_parameter_once() -> None:
    model = create_model("vit_s_16_224", **SMALL)
    order = model.layer_order()
    assert order[0] == ("patch_embed", "cls_token", "pos_embed")
    assert order[-1] == ("norm", "head")
    assert len(order) == 4 + 2
    for name, _ in model.named_parameters():
        assert sum(any(f"{name}.".startswith(f"{part}.") for part in parts) for parts in order) == 1, name
    assert model.no_weight_decay() == {"cls_token", "pos_embed"}


def test_images_of_another_size_than_the_model_was_built_for_are_refused() -> None:
    model = create_model("vit_s_16_224", **SMALL)
    with pytest.raises(
        InputSizeError, match=r"built for images of 32 x 32, got 32 x 40; build it with img_size=\(32, 40\)"
    ):
        model(paddle.zeros([1, 3, 32, 40]))
    built = create_model("vit_s_16_224", **(SMALL | {"img_size": (32, 40)}))
    assert built(paddle.zeros([1, 3, 32, 40])).shape == [1, 5]
    with pytest.raises(InputSizeError, match="img_size 30 x 32 is not made of patches of 8 x 8; use multiples of 8"):
        create_model("vit_s_16_224", **(SMALL | {"img_size": (30, 32)}))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="embed_dim 24 is not a multiple of num_heads 5"):
        create_model("vit_s_16_224", **(SMALL | {"num_heads": 5}))
