"""From an image's maps to its files: each map over the picture, the contact sheet, the numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from util.prediction import Prediction
from util.seeing.bars import class_label
from util.seeing.colours import enlarged, overlay, scaled
from util.seeing.folder import PictureFolder
from util.seeing.fonts import Face
from util.seeing.sheets import PANEL, Panel, contact_sheet

TITLES = {"class_attention": "class attention", "rollout": "attention rollout", "grad_cam": "Grad-CAM"}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is drawn of an image: its picture as the model saw it, what the model answered, and its maps by kind.

    maps: of `TITLES`, float32 (h, w) on the grid of tokens, or (heads, h, w). explained: the class of Grad-CAM's map.
    """

    picture: Image.Image
    prediction: Prediction
    maps: Mapping[str, np.ndarray]
    explained: tuple[int, str]


def write_look(look: Look, folder: PictureFolder, *, model: str, alpha: float, face: Face, save_maps: bool) -> Path:
    """Writes an image's pictures, and its maps as numbers if wanted; returns the path of the contact sheet.

    Of several heads, the mean is drawn; the numbers keep them. Each map has its own scale: from its least value to its
    largest, Grad-CAM's from 0.
    """
    file = look.prediction["file_name"]
    name, picture = folder.name_of(file), enlarged(look.picture, least=PANEL // 2)
    panels = [Panel("what the model saw", picture)]
    for kind, found in look.maps.items():
        one = found.mean(0) if found.ndim == 3 else found
        drawn = overlay(picture, scaled(one, from_zero=kind == "grad_cam"), alpha=alpha)
        folder.write_picture(f"{name}_{kind}", drawn)
        panels.append(Panel(_title(kind, one, look.explained), drawn))
    sheet = contact_sheet(panels, look.prediction, heading=file, model=model, face=face)
    if save_maps:
        folder.write_arrays(f"{name}_maps", {**look.maps, "class_id": np.array(look.explained[0])})
    return folder.write_picture(f"{name}_sheet", sheet)


def _title(kind: str, values: np.ndarray, explained: tuple[int, str]) -> str:
    if kind != "grad_cam":
        return TITLES[kind]
    nothing = " nothing speaks for" if not values.any() else ""
    return f"{TITLES[kind]}:{nothing} {class_label(*explained)}"
