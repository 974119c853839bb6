"""Maps of what a model looks at: against their definitions, and on pictures where it is known what decides."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import Tensor, nn

from models.attention_maps import attention_probabilities, class_path, key_weights
from models.saliency import class_attention, gated_layers, gates, grad_cam, position_maps, rollout, watch
from models.vit import VisionTransformer
from tests.models.test_attention_maps import GRIDS, attention_calls, make, make_images

FAMILIES = sorted(GRIDS)


def plain_rollout(model: nn.Layer, images: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """The definition, matrix by matrix, in float64: (B, H, W)."""
    path = class_path(model)
    layers = [block.attn for block in path.blocks]
    num_tokens = grid[0] * grid[1] + 1
    product = np.eye(num_tokens)[None]
    for attn, x, _, _ in (call for call in attention_calls(model, images) if call[0] in layers):
        mean = attention_probabilities(attn, x, grid).numpy().astype(np.float64).mean(1)  # (B, T, S)
        square = np.zeros((len(mean), num_tokens, num_tokens))
        if mean.shape[1] == num_tokens - 1:  # of patches alone
            square[:, 0, 0] = 1
            square[:, 1:, 1:] = mean
        elif mean.shape[2] == num_tokens:
            square[:] = mean
        else:
            rows, columns = (n // 2 + n % 2 for n in grid)
            square[:, :, 0] = mean[:, :, 0]
            weights = np.kron(key_weights(rows, grid[0]), key_weights(columns, grid[1]))  # (P Q, H W)
            spread = mean[:, :, 1:] @ weights
            square[:, :, 1:] = spread * mean[:, :, 1:].sum(-1, keepdims=True) / spread.sum(-1, keepdims=True)
        product = (0.5 * square + 0.5 * np.eye(num_tokens)) @ product
    return product[:, 0, 1:].reshape(-1, *grid)


@pytest.mark.parametrize("family", FAMILIES)
def test_rollout_is_the_product_of_the_blocks(family: str) -> None:
    model, images = make(family), make_images(family)
    found = rollout(watch(model, images))
    expected = plain_rollout(model, images, GRIDS[family])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert np.ptp(expected) > 5e-3  # an even map would be no test
    assert np.all(found.sum((1, 2)) < 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_watching_changes_nothing_and_sees_what_the_model_answers(family: str) -> None:
    model, images = make(family), make_images(family)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    expected = model(images).numpy()
    trainable = [parameter.stop_gradient for parameter in model.parameters()]
    watched = watch(model, images)
    grad_cam(watched, [0, 1])
    rollout(watched)
    np.testing.assert_allclose(watched.logits.numpy(), expected, atol=1e-5)
    assert watched.grid == GRIDS[family]
    np.testing.assert_array_equal(model(images).numpy(), expected)  # no hook is left
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.stop_gradient for parameter in model.parameters()] == trainable


@pytest.mark.parametrize(("family", "heads"), [("vit", 3), ("convit", 4), ("cvt", 3)])
def test_class_attention_is_the_first_row_of_the_last_block(family: str, heads: int) -> None:
    model, images = make(family), make_images(family)
    maps = class_attention(watch(model, images))
    assert maps.shape == (2, heads, *GRIDS[family])
    assert maps.dtype == np.float32
    attn, x, grid, _ = attention_calls(model, images)[-1]
    row = attention_probabilities(attn, x, grid).numpy()[:, :, 0]  # (B, h, S)
    np.testing.assert_allclose(maps.sum((2, 3)), 1.0 - row[:, :, 0], atol=1e-6)
    if family != "cvt":  # whose keys are fewer
        np.testing.assert_array_equal(maps.reshape(2, heads, -1), row[:, :, 1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_grad_cam_weighs_channels_by_the_gradient(family: str) -> None:
    """The gradient is measured: the logit's change when a token that the attention reads is moved a little."""
    model, images = make(family), make_images(family, batch=1)
    watched = watch(model, images)
    found = grad_cam(watched, [2])
    last, tokens = class_path(model).last, watched.read[-1]

    def logit(read: np.ndarray) -> float:
        moved = paddle.to_tensor(read.astype(np.float32))
        hook = last.norm1.register_forward_post_hook(lambda layer, inputs, output: moved)
        value = float(model(images)[0, 2])
        hook.remove()
        return value

    read = tokens.numpy()
    mean_gradient = np.zeros(read.shape[2])
    step = 2e-3
    for channel in range(read.shape[2]):  # all patches' at once: their mean times their number
        shift = np.zeros_like(read)
        shift[:, 1:, channel] = step
        mean_gradient[channel] = (logit(read + shift) - logit(read - shift)) / (2 * step) / (read.shape[1] - 1)
    expected = np.maximum((read[0, 1:] * mean_gradient).sum(-1), 0.0).reshape(GRIDS[family])
    assert expected.max() > 1e-3
    np.testing.assert_allclose(found[0], expected, atol=2e-2 * expected.max())
    assert np.abs(grad_cam(watched, [0])[0] - found[0]).max() > 1e-3 * expected.max()  # another class, another map


def test_after_the_last_block_only_the_class_token_has_a_gradient() -> None:
    """Why Grad-CAM does not take the tokens that the classifier's norm reads."""
    model = make("vit")
    watched = watch(model, make_images("vit"))
    tokens = model.blocks[-1](*watched.last_input).detach()
    tokens.stop_gradient = False
    (gradient,) = paddle.grad(model.forward_head(model.norm(tokens)).sum(), [tokens])
    assert float(gradient[:, 1:].abs().max()) == 0.0
    assert float(gradient[:, 0].abs().max()) > 0.0


def test_what_has_no_maps_is_refused() -> None:
    model, images = make("vit"), make_images("vit")
    with pytest.raises(ValueError, match=r"a class in \[0, 3\) an image; got \[0, 3\]"):
        grad_cam(watch(model, images), [0, 3])
    with pytest.raises(ValueError, match=r"got \[0\]"):
        grad_cam(watch(model, images), [0])
    model.train()
    with pytest.raises(ValueError, match="in evaluation mode"):
        watch(model, images)
    with pytest.raises(ValueError, match="has no head"):
        watch(make("vit", num_classes=0), images)
    assert gated_layers(model) == []
    with pytest.raises(ValueError, match="VisionTransformer has no gates"):
        gates(model)
    with pytest.raises(ValueError, match="only ConViT has"):
        position_maps(model)


def test_gates_and_positions_of_convit() -> None:
    model = make("convit")
    lambdas = np.array([block.attn.gating_param.numpy() for block in model.blocks[:2]])
    np.testing.assert_allclose(gates(model), 1 / (1 + np.exp(-lambdas)), rtol=1e-5)
    assert gates(model).shape == (2, 4)
    for block in model.blocks[:2]:
        block.attn.locality_strength = 4.0
        block.attn.init_as_convolution()
    maps = position_maps(model)
    assert maps.shape == (2, 4, 4, 6)
    np.testing.assert_allclose(maps.sum((2, 3)), 1.0, rtol=1e-5)
    # 4 heads stand half a patch off the query (2, 3), each in its own corner: x first, as the paper's initialisation
    for head, (x, y) in enumerate([(-1, -1), (-1, 1), (1, -1), (1, 1)]):
        peaks = {(2 + dy, 3 + dx) for dx in (0, x) for dy in (0, y)}
        ordered = np.argsort(-maps[0, head].flatten(), kind="stable")[:4]
        assert {tuple(map(int, divmod(i, 6))) for i in ordered} == peaks


SIDE, PATCH, SQUARE = 32, 4, 8


def squares(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with one bright square on the grid of patches: red is class 0, blue class 1. Images, classes, corners."""
    images = rng.normal(0, 0.1, (count, 3, SIDE, SIDE)).astype(np.float32)
    classes, corners = rng.integers(0, 2, count), PATCH * rng.integers(0, (SIDE - SQUARE) // PATCH + 1, (count, 2))
    for image, label, (y, x) in zip(images, classes, corners, strict=True):
        image[2 * label, y : y + SQUARE, x : x + SQUARE] += 2.0
    return images, classes, corners


def train_on_squares(*, depth: int, steps: int, attends_evenly: bool) -> VisionTransformer:
    """A ViT that tells red from blue. With queries and keys of 0, which have no gradient, attention stays even."""
    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = VisionTransformer(
        img_size=(SIDE, SIDE), patch_size=PATCH, embed_dim=32, depth=depth, num_heads=2, num_classes=2
    )
    if attends_evenly:
        for block in model.blocks:
            weight = block.attn.qkv.weight.numpy()
            weight[:, :64] = 0.0
            block.attn.qkv.weight.set_value(weight)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters())
    for _ in range(steps):
        images, classes, _ = squares(rng, 32)
        loss = F.cross_entropy(model(paddle.to_tensor(images)), paddle.to_tensor(classes))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    return model


def share_in_square(maps: np.ndarray, corners: np.ndarray) -> float:
    """Returns what part of a map's sum is in its image's square, the median over images; an even map has 4 of 64."""
    inside = np.zeros_like(maps)
    for mask, (y, x) in zip(inside, corners // PATCH, strict=True):
        mask[y : y + SQUARE // PATCH, x : x + SQUARE // PATCH] = 1.0
    return float(np.median((maps * inside).sum((1, 2)) / np.maximum(maps.sum((1, 2)), 1e-12)))


EVEN = 4 / 64


@pytest.mark.parametrize(("steps", "finds"), [(60, True), (0, False)])
def test_attention_shows_the_square_that_decides_once_the_model_has_learnt_it(*, steps: int, finds: bool) -> None:
    model = train_on_squares(depth=2, steps=steps, attends_evenly=False)
    images, classes, corners = squares(np.random.default_rng(1), 64)
    watched = watch(model, paddle.to_tensor(images))
    for maps in (class_attention(watched).mean(1), rollout(watched)):
        if finds:
            assert share_in_square(maps, corners) > 8 * EVEN
        else:  # what the maps show is the model's, not the picture's
            assert share_in_square(maps, corners) < 1.5 * EVEN
    assert ((watched.logits.numpy().argmax(1) == classes).mean() > 0.95) == finds


def test_grad_cam_shows_each_class_its_own_square() -> None:
    """Each picture has a red and a blue square; attention is even, and so shows neither."""
    model = train_on_squares(depth=1, steps=80, attends_evenly=True)
    images, classes, corners = squares(np.random.default_rng(1), 64)
    others = np.where(corners >= 12, corners - 12, corners + 12)  # far enough to have no patch in common
    for image, label, (y, x) in zip(images, classes, others, strict=True):
        image[2 * (1 - label), y : y + SQUARE, x : x + SQUARE] += 2.0
    watched = watch(model, paddle.to_tensor(images))
    for label, own, other in ((classes, corners, others), (1 - classes, others, corners)):
        maps = grad_cam(watched, label.tolist())
        assert share_in_square(maps, own) > 7 * EVEN
        assert share_in_square(maps, other) == 0.0
    assert share_in_square(class_attention(watched).mean(1), corners) == pytest.approx(EVEN, rel=1e-4)
