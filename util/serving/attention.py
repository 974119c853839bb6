"""Attention maps as `/v1/classify` answers them."""

from typing import Any

import numpy as np

from util.data.transforms import Part
from util.serving.classifier import Computed

DIGITS = 6  # behind the point, of a value in [0, 1]


def attention_answers(computed: Computed) -> list[dict[str, Any]]:
    """Returns for each image where the class token of the last block looked.

    rows, columns: of the grid over the part of the picture that the model saw; values: row by row, divided by the
    greatest; box: that part.
    """
    assert computed.attention is not None
    return [_answer(found, part) for found, part in zip(computed.attention, computed.parts, strict=True)]


def _answer(found: np.ndarray, part: Part) -> dict[str, Any]:
    rows, columns = found.shape
    greatest = found.max()
    shares = found / greatest if greatest > 0 else found  # 0 everywhere: the class token saw itself alone
    values = [round(value, DIGITS) for value in shares.astype(np.float64).ravel().tolist()]
    return {"rows": rows, "cols": columns, "values": values, "box": list(part)}
