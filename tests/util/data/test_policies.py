"""What `aa` can name, and what holds for all of it."""

import numpy as np
import pytest
from PIL import Image

from tests.reference import picture
from tests.util.data.timm_policies import FILL
from util.data.operations import Canvas
from util.data.policies import parse_aa
from util.errors import UsageError

TEXTS = [
    "rand-m9-mstd0.5-inc1", "rand-m9-n3-mstd101-mmax15-p0.9-w0", "v0", "v0r", "original-mstd0.5", "originalr",
    "augmix-m3-w3", "3a", "trivialaugwide",
]  # fmt: skip
CANVAS = Canvas(fill=FILL, resamples=(Image.Resampling.BILINEAR, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("text", TEXTS)
def test_result_depends_on_the_rng_alone_and_keeps_the_size(text: str) -> None:
    policy, image = parse_aa(text), Image.fromarray(picture(20, 33))
    before = np.asarray(image).copy()
    first, again = ([policy(image, np.random.default_rng(s), CANVAS) for s in range(12)] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert (one.mode, one.size) == ("RGB", (33, 20))
    assert len({one.tobytes() for one in first}) > 4
    np.testing.assert_array_equal(np.asarray(image), before)


def test_strings_name_different_policies() -> None:
    image = Image.fromarray(picture(20, 33))
    results = {
        text: b"".join(parse_aa(text)(image, np.random.default_rng(s), CANVAS).tobytes() for s in range(40))
        for text in TEXTS
    }
    assert len(set(results.values())) == len(TEXTS)


@pytest.mark.parametrize("text", ["", "none", "auto", "randaug-m9", "m9", "3a-m1", "trivialaugwide-n2", "V0", "augmax"])
def test_unknown_name_is_refused_and_all_are_listed(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_aa(text)
    for known in ("rand-", "v0", "v0r", "original", "originalr", "augmix-", "3a", "trivialaugwide", repr(text)):
        assert known in str(caught.value)


@pytest.mark.parametrize("text", ["rand-m9-x1", "v0-x1", "augmix-x1"])
def test_unknown_part_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"'x1' in .* is not one of .*mstd"):
        parse_aa(text)


@pytest.mark.parametrize("text", ["rand-m9-p1", "original", "augmix-m9", "trivialaugwide"])
def test_geometric_operations_use_the_filter_and_the_colour_of_the_canvas(text: str) -> None:
    image = Image.fromarray(picture(20, 33))
    canvases = [
        Canvas(fill=fill, resamples=(resample,))
        for fill, resample in (
            (FILL, CANVAS.resamples[0]),
            (FILL, CANVAS.resamples[1]),
            ((0, 0, 0), CANVAS.resamples[0]),
        )
    ]
    results = [
        b"".join(parse_aa(text)(image, np.random.default_rng(s), canvas).tobytes() for s in range(30))
        for canvas in canvases
    ]
    assert len(set(results)) == 3
