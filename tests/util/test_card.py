"""The model card of an export says where the weights come from, under whose terms, and how good they are."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from util.deploy.manifest import Card
from util.restore import _card
from util.weights import LoadedWeights
from util.weights.sources import SOURCES

PATH = Path("run/checkpoint-best.safetensors")


def weights(progress: dict[str, Any] | None = None, **state: Any) -> LoadedWeights:
    return LoadedWeights({"head.bias": np.zeros(2)}, state | ({} if progress is None else {"progress": progress}))


def test_published_weights_bring_their_licence_and_accuracy() -> None:
    source = next(s for s in SOURCES if s.top1 is not None and s.measured_by == "timm")
    card = _card(PATH, weights(), source, use_ema=False)
    assert card == Card(
        source=f"{source.origin}, {source.url}", licence=source.licence, top1=source.top1, top5=source.top5,
        measured="ImageNet-1k validation, by timm",
    )  # fmt: skip
    unmeasured = replace(source, measured_by=None, top1=None, top5=None)
    assert _card(PATH, weights(), unmeasured, use_ema=False).measured is None


@pytest.mark.parametrize(("use_ema", "expected"), [(False, 81.25), (True, None)])
def test_a_run_brings_the_accuracy_of_these_weights_and_of_no_others(use_ema: bool, expected: float | None) -> None:
    progress = {"update": 9, "best_update": 9, "best_acc1": 81.25, "best_update_ema": 6, "best_acc1_ema": 82.0}
    card = _card(PATH, weights(progress), None, use_ema=use_ema)
    assert (card.source, card.licence, card.top1) == ("checkpoint-best.safetensors", None, expected)
    assert (card.measured is None) == (expected is None)
    assert _card(PATH, weights({"update": 3, "best_acc1": -1.0, "best_update": -1}), None, use_ema=False).top1 is None


def test_an_export_hands_its_card_on() -> None:
    given: dict[str, Any] = {"source": "x", "licence": "MIT", "top1": 50.0, "top5": None, "measured": "by me"}
    assert _card(PATH, weights(card=given), None, use_ema=False) == Card(**given)
