"""Flipped and restricted views of a model."""

import numpy as np
import paddle

from tests.checkpoints import make_model
from tests.reference import images
from util.evaluation.views import MirrorMean, Restricted


@paddle.no_grad()
def test_the_mirror_mean_is_that_of_both_images() -> None:
    model, batch = make_model(4, seed=0), images(3, 32, 32)
    straight, mirrored = (model(paddle.to_tensor(b)).numpy() for b in (batch, np.ascontiguousarray(batch[..., ::-1])))
    assert np.abs(straight - mirrored).max() > 1e-3
    found = MirrorMean(model)(paddle.to_tensor(batch)).numpy()
    np.testing.assert_allclose(found, (straight + mirrored) / 2, atol=1e-6)


@paddle.no_grad()
def test_a_restricted_model_has_the_logits_of_its_classes_alone() -> None:
    model, batch = make_model(7, seed=0), paddle.to_tensor(images(3, 32, 32))
    found = Restricted(MirrorMean(model), np.array([1, 4, 6]))(batch).numpy()
    np.testing.assert_array_equal(found, MirrorMean(model)(batch).numpy()[:, [1, 4, 6]])


def test_a_view_evaluates_when_it_is_told_to() -> None:
    model = make_model(2, seed=0)
    view = Restricted(MirrorMean(model), np.array([0]))
    view.train()
    assert model.training
    view.eval()
    assert not any(layer.training for layer in model.sublayers())
