"""Predictions as pictures: names and scores of the best classes as bars, and a picture above them."""

import contextlib
import re
import struct
import warnings
from collections.abc import Iterable, Iterator

from PIL import Image, ImageDraw, ImageOps

from util.data.images import ImageError, decode_image
from util.prediction import Prediction, tell
from util.seeing.colours import enlarged
from util.seeing.folder import PictureFolder
from util.seeing.fonts import Face

PAPER, INK, GREY, LINE, BLUE = "#ffffff", "#1c2430", "#5b6572", "#d5dae0", "#2563a8"
MARGIN, ROW, TEXT = 16, 26, 15  # pixels
LONGEST, LEAST_WIDTH = 1024, 480  # pixels of a picture's longer side at most; of what is drawn at least
# What Pillow raises on EXIF data that are not what they should be.
_EXIF_ERRORS = (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error)
SMALL = 320  # pixels: smaller pictures are enlarged to about this


def class_label(class_id: int, name: str) -> str:
    """Returns how a class is called in pictures: the first of its names, after its number unless it begins so."""
    first = name.partition(",")[0].strip()
    return first if re.match(rf"{class_id}(?!\d)", first) else f"{class_id} {first}"


def fit_text(text: str, face: Face, size: int, width: float) -> str:
    """Returns a text as it can be drawn, cut so that it is at most `width` pixels wide."""
    text, font = face.known(text), face.at(size)
    if font.getlength(text) <= width:
        return text
    end = "..." if face.lacks("…") else "…"
    while text and font.getlength(text + end) > width:
        text = text[:-1]
    return text.rstrip() + end


def bars_height(prediction: Prediction) -> int:
    """Returns the height in pixels of what `draw_bars` draws."""
    return ROW * len(prediction["class_ids"])


def draw_bars(sheet: Image.Image, prediction: Prediction, face: Face, *, left: int, top: int, width: int) -> None:
    """Draws a row for each of the best classes: its name, a bar as long as its score, and the score in percent."""
    draw = ImageDraw.Draw(sheet)
    font = face.at(TEXT)
    names, numbers = int(0.46 * width), int(font.getlength("100.0 %")) + 8
    longest = width - names - numbers - 8
    rows = zip(prediction["class_ids"], prediction["label_names"], prediction["scores"], strict=True)
    for i, (class_id, name, score) in enumerate(rows):
        middle = top + ROW * i + ROW // 2
        text = fit_text(class_label(class_id, name), face, TEXT, names - 8)
        draw.text((left, middle), text, INK, font, anchor="lm")
        start = left + names
        draw.rectangle((start, middle - 7, start + longest - 1, middle + 7), LINE)
        draw.rectangle((start, middle - 7, start + max(1, round(score * longest)) - 1, middle + 7), BLUE)
        draw.text((left + width, middle), f"{100 * score:.1f} %", GREY, font, anchor="rm")


def upright_picture(file: str) -> Image.Image:
    """Returns a picture for people: as EXIF says it is to be held, its longer side at most LONGEST pixels.

    The model gets the pixels as they are stored. A file that cannot be read is an ImageError.
    """
    picture = decode_image(file)
    # a damaged note of how to hold it is none
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*_EXIF_ERRORS):
        picture = ImageOps.exif_transpose(picture)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return picture


def draw_prediction(picture: Image.Image, prediction: Prediction, face: Face) -> Image.Image:
    """Returns a picture with its best classes below it; a small one is enlarged."""
    if max(picture.size) < SMALL // 2:
        picture = enlarged(picture, least=SMALL)
    width = max(picture.width, LEAST_WIDTH - 2 * MARGIN)
    sheet = Image.new("RGB", (width + 2 * MARGIN, picture.height + bars_height(prediction) + 3 * MARGIN), PAPER)
    sheet.paste(picture, (MARGIN + (width - picture.width) // 2, MARGIN))
    draw_bars(sheet, prediction, face, left=MARGIN, top=picture.height + 2 * MARGIN, width=width)
    return sheet


def draw_each(
    predictions: Iterable[Prediction], folder: PictureFolder, face: Face, *, bad: list[ImageError]
) -> Iterator[Prediction]:
    """Yields predictions as they come, after writing each one's picture, and says at the end where they are.

    A file that can be read no more is added to `bad`.
    """
    count = 0
    for prediction in predictions:
        try:
            picture = upright_picture(prediction["file_name"])
        except ImageError as error:
            bad.append(error)
        else:
            folder.write_picture(folder.name_of(prediction["file_name"]), draw_prediction(picture, prediction, face))
            count += 1
        yield prediction
    tell(f"{count} pictures in {folder.path}")
