"""Contact sheets: a picture with every map over it and the best classes; ConViT's gates and attention by position.

Legend: h w a map on a grid of tokens, L layers, heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from util.prediction import Prediction
from util.seeing.bars import GREY, INK, LINE, MARGIN, PAPER, bars_height, draw_bars, fit_text
from util.seeing.colours import colour, scaled
from util.seeing.fonts import Face

PANEL, TITLE, TEXT, SMALL_TEXT = 256, 26, 15, 13  # pixels
LEAST_BARS = 420  # pixels: width of names, bars and scores
SCALE_HEIGHT = 10


@dataclass(frozen=True)
class Panel:
    """A picture of a contact sheet, and what stands above it."""

    title: str
    picture: Image.Image


def contact_sheet(
    panels: Sequence[Panel], prediction: Prediction, *, heading: str, model: str, face: Face
) -> Image.Image:
    """Returns the panels in a row, below a heading; below them the best classes, and the scale of the maps."""
    width = max(len(panels) * (PANEL + MARGIN) - MARGIN, LEAST_BARS)
    tall = max(_fitted(panel.picture).height for panel in panels)
    below = MARGIN + TITLE + TITLE + tall + MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, below + bars_height(prediction) + 56 + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    name_width = int(face.at(SMALL_TEXT).getlength(model))
    draw.text((MARGIN, MARGIN), fit_text(heading, face, TEXT + 2, width - name_width - MARGIN), INK, face.at(TEXT + 2))
    draw.text((MARGIN + width, MARGIN + 2), model, GREY, face.at(SMALL_TEXT), anchor="ra")
    for i, panel in enumerate(panels):
        left, top = MARGIN + i * (PANEL + MARGIN), MARGIN + 2 * TITLE
        draw.text((left, top - 8), fit_text(panel.title, face, TEXT, PANEL), GREY, face.at(TEXT), anchor="ls")
        sheet.paste(_fitted(panel.picture), (left, top))
    draw_bars(sheet, prediction, face, left=MARGIN, top=below, width=min(width, 2 * PANEL + MARGIN))
    _draw_scale(
        sheet, face, left=MARGIN, top=below + bars_height(prediction) + MARGIN, low="least of a map", high="most of it"
    )
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """Returns a picture whose longer side is PANEL pixels; smaller ones keep their pixels as squares."""
    factor = PANEL / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.BICUBIC)


def _draw_scale(sheet: Image.Image, face: Face, *, left: int, top: int, low: str, high: str) -> None:
    """Draws the colours from end to end, with words for both ends below."""
    bar = np.broadcast_to(colour(np.linspace(0.0, 1.0, PANEL)), (SCALE_HEIGHT, PANEL, 3))
    sheet.paste(Image.fromarray(bar.copy()), (left, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top + SCALE_HEIGHT + 4), low, GREY, face.at(SMALL_TEXT))
    draw.text((left + PANEL, top + SCALE_HEIGHT + 4), high, GREY, face.at(SMALL_TEXT), anchor="ra")


CELL, GAP, LABELS = 72, 6, 84  # pixels: a head's square, between two, the column of layers' names
LEAST_TABLE = 520


def gates_sheet(gates: np.ndarray, *, model: str, face: Face) -> Image.Image:
    """Returns a table of ConViT's gates (L, heads), values in [0, 1]: a square a layer and head, with its number."""
    size = (CELL, CELL // 2)
    sheet, places = _table(
        gates.shape[0], gates.shape[1], size,
        title="Gates: how much each head attends by position", model=model, face=face,
    )  # fmt: skip
    draw = ImageDraw.Draw(sheet)
    for (left, top), value in zip(places, gates.flatten(), strict=True):
        tint = colour(np.array(float(value)))
        draw.rectangle((left, top, left + size[0] - 1, top + size[1] - 1), _rgb(tint))
        text = INK if tint.mean() > 128 else PAPER
        draw.text((left + size[0] / 2, top + size[1] / 2), f"{value:.2f}", text, face.at(TEXT), anchor="mm")
    bottom = sheet.height - MARGIN - 34
    _draw_scale(sheet, face, left=MARGIN, top=bottom, low="0: by content alone", high="1: by position alone")
    return sheet


def positions_sheet(maps: np.ndarray, *, model: str, face: Face) -> Image.Image:
    """Returns ConViT's attention by position (L, heads, h, w) of one patch, which is framed; each map on its own scale.

    The patch is at (h // 2, w // 2).
    """
    layers, heads, height, width = maps.shape
    factor = max(1, CELL // max(height, width))
    size = (width * factor, height * factor)
    sheet, places = _table(
        layers, heads, size, title="Attention by position of the framed patch", model=model, face=face
    )
    draw = ImageDraw.Draw(sheet)
    x, y = (width // 2) * factor, (height // 2) * factor
    for (left, top), values in zip(places, maps.reshape(-1, height, width), strict=True):
        picture = Image.fromarray(colour(scaled(values, from_zero=True))).resize(size, Image.Resampling.NEAREST)
        sheet.paste(picture, (left, top))
        draw.rectangle((left + x - 1, top + y - 1, left + x + factor, top + y + factor), outline="#35c4ff")
    _draw_scale(sheet, face, left=MARGIN, top=sheet.height - MARGIN - 34, low="0", high="most of its map")
    return sheet


def _table(
    layers: int, heads: int, size: tuple[int, int], *, title: str, model: str, face: Face
) -> tuple[Image.Image, list[tuple[int, int]]]:
    """Returns a sheet with headings for layers and heads, and each square's corner, layer by layer."""
    wide = max(LABELS + heads * (size[0] + GAP), LEAST_TABLE)
    first = MARGIN + 2 * TITLE + 8
    high = first + layers * (size[1] + GAP) + 56 + MARGIN
    sheet = Image.new("RGB", (wide + 2 * MARGIN, high), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, face.at(TEXT + 2))
    draw.text((MARGIN + wide, MARGIN + 2), model, GREY, face.at(SMALL_TEXT), anchor="ra")
    columns = [MARGIN + LABELS + i * (size[0] + GAP) for i in range(heads)]
    for i, left in enumerate(columns):
        draw.text((left + size[0] / 2, first - 8), f"head {i + 1}", GREY, face.at(SMALL_TEXT), anchor="ms")
    rows = [first + i * (size[1] + GAP) for i in range(layers)]
    for i, top in enumerate(rows):
        draw.text((MARGIN, top + size[1] / 2), f"layer {i + 1}", GREY, face.at(SMALL_TEXT), anchor="lm")
        draw.line((MARGIN, top - GAP // 2, MARGIN + LABELS - GAP, top - GAP // 2), LINE)
    return sheet, [(left, top) for top in rows for left in columns]


def _rgb(tint: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in tint)
    return red, green, blue
