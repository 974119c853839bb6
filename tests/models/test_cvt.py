"""CvT against the official PyTorch implementation, from logits to optimizer steps."""

from dataclasses import replace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from models import create_model, cvt, list_models
from models.layers import KEEP_ALL, StochasticDepth, add_branch
from tests.models.golden import fill, load, logits, official_name
from tests.reference import images
from util.options import OptimOptions
from util.train.optim import create_optimizer, decay_groups


@pytest.fixture(scope="module")
def cvt_13() -> nn.Layer:
    model = create_model("cvt_13_224x224", drop_path_rate=0.0)
    fill(model)
    return model


@pytest.mark.parametrize(
    ("model", "golden", "size"),
    [
        ("cvt_13_224x224", "cvt_13", (224, 224)),
        ("cvt_13_384x384", "cvt_13", (384, 384)),
        ("cvt_13_224x224", "cvt_13", (80, 48)),
        ("cvt_21_224x224", "cvt_21", (224, 224)),
    ],
)
def test_logits_equal_the_reference(model: str, golden: str, size: tuple[int, int]) -> None:
    height, width = size
    arrays = load(golden)
    expected = arrays.get(f"logits_{height}x{width}", arrays.get(f"logits_{height}"))
    assert expected is not None
    expected = np.atleast_2d(expected)
    built = create_model(model)
    fill(built)
    np.testing.assert_allclose(logits(built, len(expected), height, width), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (72, 56)])
def test_average_projection_equals_the_reference(size: tuple[int, int]) -> None:
    model = _small("avg")
    fill(model)
    expected = load("cvt_avg_small")[f"logits_{size[0]}x{size[1]}"]
    np.testing.assert_allclose(logits(model, 2, *size), expected, rtol=0, atol=1e-4)


def _small(method: str) -> nn.Layer:
    from models.cvt_layers import Stage

    stages = (
        Stage(embed_dim=16, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
        Stage(embed_dim=32, depth=1, num_heads=2),
        Stage(embed_dim=48, depth=2, num_heads=3, cls_token=True),
    )
    return create_model("cvt_13_224x224", stages=stages, qkv_proj_method=method, num_classes=10)


def test_gradients_equal_the_reference(cvt_13: nn.Layer) -> None:
    golden = load("cvt_13_backward_64")
    fill(cvt_13)
    cvt_13.train()
    loss = F.cross_entropy(cvt_13(paddle.to_tensor(images(4, 64, 64))), paddle.to_tensor([1, 7, 42, 999]))
    loss.backward()
    assert abs(float(loss) - float(golden["loss"])) < 1e-5
    parameters = {official_name(name): p for name, p in cvt_13.named_parameters()}
    for name, expected in zip(golden["names"], golden["grad_norms"], strict=True):
        norm = float(np.linalg.norm(parameters[str(name)].grad.numpy().astype(np.float64)))
        if expected < 1e-6:  # zero in theory
            assert norm < 1e-6, name
        else:
            assert abs(norm - expected) <= 1e-3 * expected, name
    buffers = {official_name(name): b for name, b in cvt_13.state_dict().items()}
    for name, expected in zip(golden["buffer_names"], golden["buffer_sums"], strict=True):
        # PyTorch keeps the unbiased running variance, Paddle the biased one: n / (n - 1) of 0.1 of the new part
        tolerance = 2e-2 if str(name).endswith("var") else 1e-4
        np.testing.assert_allclose(buffers[str(name)].numpy().sum(), expected, rtol=tolerance, atol=1e-3)
    cvt_13.clear_gradients()


def test_adamw_losses_equal_the_reference(cvt_13: nn.Layer) -> None:
    fill(cvt_13)
    cvt_13.train()
    optimizer = create_optimizer(cvt_13, OptimOptions(opt="adamw", weight_decay=0.05))
    # the golden run decays every parameter of two or more dimensions but the class token: our filter's groups
    groups = decay_groups(cvt_13, filter_bias_and_bn=True)
    assert "stage2.cls_token" in groups.no_decay
    assert len(groups.decay) == 121
    optimizer.set_lr(1e-3)
    for step, expected in enumerate(load("cvt_13_adamw_64")["losses"]):
        labels = np.random.default_rng(100 + step).integers(0, 1000, 4)
        batch = paddle.to_tensor(images(4, 64, 64, seed=100 + step))
        loss = F.cross_entropy(cvt_13(batch), paddle.to_tensor(labels))
        assert abs(float(loss) - expected) < 2e-4, step
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()


def test_initialisation_equals_the_reference() -> None:
    golden = load("cvt_13_init")
    paddle.seed(0)
    parameters = dict(create_model("cvt_13_224x224").named_parameters())
    for name, (_, std, largest) in zip(golden["names"], golden["mean_std_max"], strict=True):
        values = parameters[str(name)].numpy().astype(np.float64)
        noise = 6.0 / np.sqrt(2.0 * values.size)  # four standard errors of the difference of two such samples
        assert abs(values.std() - std) <= max(noise, 0.02) * std, name
        if std == 0.0:  # constants
            assert np.abs(values).max() == largest, name
        elif largest < 2.5 * std:  # uniform: the bound is sharp; a normal one's largest value is not
            assert np.abs(values).max() <= largest * (1 + 2 * noise), name


def test_paddle_own_initialisation_would_fail_that_test() -> None:
    std = nn.Conv2D(384, 384, 3, groups=384).weight.numpy().std()
    assert std < 0.3 * 3.0**-1 / np.sqrt(3.0)  # a depth-wise kernel of the reference has U(-1/3, 1/3)


@pytest.mark.parametrize("method", ["dw_bn", "avg", "linear"])
def test_every_parameter_gets_a_gradient(method: str) -> None:
    paddle.seed(1)
    model = _small(method)
    model.train()
    model(paddle.to_tensor(images(2, 64, 48))).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if not p.stop_gradient}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    # of the last block's queries only the class token's is used, and it bypasses the convolution
    unused = "stage2.blocks.1.attn.conv_proj_q."
    assert [n for n, g in gradients.items() if not n.startswith(unused) and not np.abs(g.numpy()).max() > 0] == []


@pytest.mark.parametrize("size", [(32, 32), (80, 48), (33, 47)])
def test_any_height_and_width(size: tuple[int, int]) -> None:
    model = create_model("cvt_nano_32x32", num_classes=7)
    out = logits(model, 2, *size)
    assert out.shape == (2, 7)
    assert np.isfinite(out).all()


def test_batch_of_one_keeps_its_axis_and_equals_its_part_of_a_batch() -> None:
    model = create_model("cvt_nano_32x32", num_classes=7)
    one, three = logits(model, 1, 32, 32), logits(model, 3, 32, 32)
    assert one.shape == (1, 7)
    np.testing.assert_allclose(one, three[:1], atol=1e-5)


def test_features() -> None:
    model = create_model("cvt_nano_32x32", num_classes=7)
    model.eval()
    batch = paddle.to_tensor(images(2, 32, 32))
    tokens = model.forward_features(batch)
    assert tokens.shape == [2, 1 + 16, 64]
    np.testing.assert_allclose(model.head(tokens[:, 0]).numpy(), model(batch).numpy(), atol=1e-6)
    headless = create_model("cvt_nano_32x32", num_classes=0)
    headless.set_state_dict(model.state_dict())
    headless.eval()
    np.testing.assert_array_equal(headless(batch).numpy(), tokens[:, 0].numpy())


def test_features_only_gives_the_map_of_each_stage() -> None:
    model = create_model("cvt_13_224x224", features_only=True)
    model.eval()
    maps = model(paddle.to_tensor(images(1, 64, 96)))
    assert [m.shape for m in maps] == [[1, 64, 16, 24], [1, 192, 8, 12], [1, 384, 4, 6]]
    assert all(name.startswith("stage") for name, _ in model.named_parameters())


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    paddle.seed(0)
    depth = StochasticDepth([0.0, 0.25, 0.5])
    first, *others = depth(4000)
    assert first == KEEP_ALL
    kept = []
    for (attn, mlp), rate in zip(others, (0.25, 0.5), strict=True):
        for keep in (attn, mlp):
            x, branch = paddle.ones([4000, 2, 3]), paddle.ones([4000, 2, 3])
            added = add_branch(x, branch, keep).numpy() - 1.0
            assert set(np.unique(added.round(4))) == {0.0, np.float32(1 / (1 - rate)).round(4)}
            assert (added.min(axis=(1, 2)) == added.max(axis=(1, 2))).all()
            assert abs(added.mean() - 1.0) < 0.08
            kept.append(added[:, 0, 0] > 0)
    correlation = np.corrcoef(np.stack(kept)) - np.eye(4)  # each branch is drawn on its own
    assert np.abs(correlation).max() < 0.05
    depth.eval()
    assert depth(4) == [KEEP_ALL] * 3
    assert add_branch(paddle.ones([1]), paddle.ones([1]), None).item() == 2.0


def test_drop_path_rises_over_the_last_stage_only() -> None:
    model = create_model("cvt_13_224x224", drop_path_rate=0.1)
    rates = [getattr(model, f"stage{i}").stochastic_depth.rates for i in range(3)]
    assert rates[:2] == [(0.0,), (0.0, 0.0)]
    np.testing.assert_allclose(rates[2], np.linspace(0, 0.1, 10), atol=1e-12)


@pytest.mark.parametrize("name", list_models("cvt_*"))
@pytest.mark.parametrize("features_only", [False, True])
def test_every_parameter_is_in_one_layer_of_the_order(name: str, features_only: bool) -> None:
    stages = getattr(cvt, name)()["stages"]  # thinner than the real ones, but with all their layers
    thin = tuple(replace(stage, embed_dim=8, num_heads=1) for stage in stages)
    model = create_model(name, stages=thin, num_classes=3, features_only=features_only)
    order = model.layer_order()
    assert len(order) == sum(1 + stage.depth for stage in stages) + 1
    assert order[0][0] == "stage0.patch_embed"
    assert order[-1] == ("norm", "head")
    layers_of = {
        parameter: [i for i, parts in enumerate(order) if any(f"{parameter}.".startswith(f"{p}.") for p in parts)]
        for parameter, _ in model.named_parameters()
    }
    assert {parameter: layers for parameter, layers in layers_of.items() if len(layers) != 1} == {}
    used = {layers[0] for layers in layers_of.values()}
    assert used == set(range(len(order) - features_only)), "no layer is empty, but the last without a head"
    assert features_only or layers_of["head.bias"] == [len(order) - 1]


def test_unknown_projection_is_an_error() -> None:
    with pytest.raises(ValueError, match="qkv_proj_method is one of dw_bn, avg, linear; got 'conv'"):
        _small("conv")
