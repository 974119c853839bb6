"""Predictions and maps on pictures: what stands where, under which name, and what the files hold."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from util.data.images import ImageError
from util.errors import OutputError, SaveError
from util.prediction import Prediction
from util.seeing.bars import (
    BLUE,
    LEAST_WIDTH,
    LINE,
    MARGIN,
    class_label,
    draw_bars,
    draw_each,
    draw_prediction,
    fit_text,
    upright_picture,
)
from util.seeing.colours import colour
from util.seeing.folder import PictureFolder
from util.seeing.fonts import Face
from util.seeing.looks import Look, write_look
from util.seeing.sheets import CELL, PANEL, gates_sheet, positions_sheet


def prediction(file: str = "a.png", scores: tuple[float, ...] = (0.75, 0.25, 0.0)) -> Prediction:
    ids = list(range(len(scores)))
    return Prediction(class_ids=ids, scores=list(scores), file_name=file, label_names=[f"class {i}, x" for i in ids])


def pixels_of(picture: Image.Image, colour_name: str) -> np.ndarray:
    """Where a picture has exactly this colour, bool (H, W)."""
    return np.all(np.asarray(picture) == ImageColor.getrgb(colour_name), axis=-1)


# --- bars


def test_bars_are_as_long_as_the_scores() -> None:
    sheet = Image.new("RGB", (640, 200), "white")
    draw_bars(sheet, prediction(), Face(), left=20, top=10, width=600)
    lengths = [int(pixels_of(sheet, BLUE)[10 + 26 * i + 13].sum()) for i in range(3)]
    whole = [length + int(pixels_of(sheet, LINE)[10 + 26 * i + 13].sum()) for i, length in enumerate(lengths)]
    assert whole[0] == whole[1] == whole[2] > 200
    assert lengths[0] == round(0.75 * whole[0])
    assert lengths[1] == round(0.25 * whole[0])
    assert lengths[2] == 1  # a score of 0 has still a place
    outside = np.asarray(sheet).copy()
    outside[10 : 10 + 3 * 26, 20:621] = 255
    assert outside.min() == 255


def test_labels() -> None:
    assert class_label(281, "tabby, tabby cat") == "281 tabby"
    assert class_label(3, "3") == "3"
    assert class_label(3, "3_three") == "3_three"
    assert class_label(3, "35 mm film") == "3 35 mm film"


def test_long_names_are_cut_to_fit() -> None:
    face = Face()
    assert fit_text("short", face, 15, 200) == "short"
    cut = fit_text("a very long name of a class that nobody can read", face, 15, 100)
    assert cut.startswith("a very")
    assert cut.endswith("…")
    assert face.at(15).getlength(cut) <= 100
    assert fit_text("猫", face, 15, 100) == "?"


def test_a_picture_keeps_its_pixels_above_its_bars() -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (300, 500, 3), dtype=np.uint8))
    sheet = draw_prediction(picture, prediction(), Face())
    inside = sheet.crop((MARGIN, MARGIN, MARGIN + 500, MARGIN + 300))
    np.testing.assert_array_equal(np.asarray(inside), np.asarray(picture))
    assert pixels_of(sheet, BLUE)[:316].sum() == 0
    assert pixels_of(sheet, BLUE)[316:].sum() > 1000
    small = draw_prediction(Image.new("RGB", (8, 8), "#123456"), prediction(), Face())
    assert small.width == LEAST_WIDTH
    assert pixels_of(small, "#123456").sum() == 320 * 320


def test_pictures_are_upright_and_not_too_large(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 20), "black")
    picture.paste("white", (0, 0, 20, 20))  # to the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to see it
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = upright_picture(str(tmp_path / "turned.jpg"))
    assert upright.size == (20, 60)
    assert np.asarray(upright)[5:15].mean() > 240  # on top
    assert np.asarray(upright)[45:].mean() < 15
    picture.save(tmp_path / "damaged.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12")
    with warnings.catch_warnings(action="error"):  # which Pillow's own reading of it would be
        assert upright_picture(str(tmp_path / "damaged.jpg")).size == (60, 20)
    Image.new("RGB", (3000, 1500)).save(tmp_path / "large.png")
    assert upright_picture(str(tmp_path / "large.png")).size == (1024, 512)
    with pytest.raises(ImageError, match=r"nothing\.png"):
        upright_picture(str(tmp_path / "nothing.png"))


def test_predictions_pass_while_they_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("one/cat.png", "two/cat.jpg", "gone.png", "two/CAT.png")]
    for i, file in enumerate(files):
        Path(file).parent.mkdir(exist_ok=True)
        if "gone" not in file:
            Image.new("RGB", (200, 200), (50 * i, 0, 0)).save(file)
    given, bad = [prediction(file) for file in files], []  # type: list[Prediction], list[ImageError]
    drawn = list(draw_each(given, PictureFolder(str(tmp_path / "out")), Face(), bad=bad))
    assert drawn == given
    assert [error.path for error in bad] == [files[2]]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["CAT-3.png", "cat-2.png", "cat.png"]
    for name, red in (("cat", 0), ("cat-2", 50), ("CAT-3", 150)):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert abs(int(np.asarray(picture)[100, 240, 0]) - red) <= 2
    assert capsys.readouterr().err == f"3 pictures in {tmp_path / 'out'}\n"


# --- the folder


def test_names_are_taken_once() -> None:
    folder = PictureFolder.__new__(PictureFolder)
    folder._taken = set()
    files = ["a/x.png", "b/x.jpg", "x-2.png", "b/X.png", "c/y", ".hidden.png"]
    assert [folder.name_of(file) for file in files] == ["x", "x-2", "x-2-2", "X-3", "y", ".hidden"]
    long = folder.name_of("é" * 120 + ".png")
    assert long == "é" * 100


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OutputError, match="file: cannot be written"):
        PictureFolder(str(tmp_path / "file"))
    folder = PictureFolder(str(tmp_path / "out"))
    folder.write_picture("a", Image.new("RGB", (2, 2)))
    before = (tmp_path / "out" / "a.png").read_bytes()

    def fail(self: Image.Image, path: Path, format: str) -> None:
        Path(path).write_bytes(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SaveError, match=r"a\.png: not written: No space left"):
        folder.write_picture("a", Image.new("RGB", (3, 3)))
    assert (tmp_path / "out" / "a.png").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


# --- maps


def look(**maps: np.ndarray) -> Look:
    return Look(
        picture=Image.new("RGB", (64, 32), "black"), prediction=prediction("in/cat.jpg"), maps=maps,
        explained=(1, "class 1"),
    )  # fmt: skip


def test_an_image_gets_its_overlays_a_sheet_and_its_numbers(tmp_path: Path) -> None:
    heads = np.zeros((3, 4, 8), np.float32)
    heads[0, 1, 2], heads[1, 3, 7] = 0.5, 0.2
    cam = np.zeros((4, 8), np.float32)
    folder = PictureFolder(str(tmp_path))
    given = look(class_attention=heads, grad_cam=cam)
    path = write_look(given, folder, model="vit", alpha=1.0, face=Face(), save_maps=True)
    names = ["cat_class_attention.png", "cat_grad_cam.png", "cat_maps.npz", "cat_sheet.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert path == tmp_path / "cat_sheet.png"

    with Image.open(tmp_path / "cat_class_attention.png") as drawn:
        assert drawn.size == (128, 64)  # twice 64 x 32: small pictures are enlarged
        lightest = np.asarray(drawn).astype(int).sum(-1)
    y, x = np.unravel_index(lightest.argmax(), lightest.shape)
    assert (y // 16, x // 16) == (1, 2)  # the mean of the heads is largest there
    with Image.open(tmp_path / "cat_grad_cam.png") as drawn:
        assert np.all(np.asarray(drawn) == colour(np.array(0.0)))  # nothing is not stretched to something
    with np.load(tmp_path / "cat_maps.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["class_attention"], heads)
        np.testing.assert_array_equal(arrays["grad_cam"], cam)
        assert int(arrays["class_id"]) == 1
    with Image.open(path) as sheet:
        assert sheet.width == 2 * MARGIN + 3 * PANEL + 2 * MARGIN
        overlay = sheet.crop((MARGIN + PANEL + MARGIN, 68, MARGIN + 2 * PANEL + MARGIN, 68 + PANEL // 2))
        lightest = np.asarray(overlay).astype(int).sum(-1)
    y, x = np.unravel_index(lightest.argmax(), lightest.shape)
    assert (y // 32, x // 32) == (1, 2)

    write_look(given, folder, model="vit", alpha=1.0, face=Face(), save_maps=False)
    assert sorted(p.name for p in tmp_path.iterdir() if "-2" in p.name) == [
        "cat-2_class_attention.png", "cat-2_grad_cam.png", "cat-2_sheet.png"
    ]  # fmt: skip


def test_gates_have_their_colours() -> None:
    gates = np.array([[0.0, 0.25, 1.0], [0.5, 0.75, 0.9]], np.float32)
    sheet = np.asarray(gates_sheet(gates, model="convit", face=Face()))
    for (layer, head), value in np.ndenumerate(gates):
        corner = sheet[76 + layer * (CELL // 2 + 6) + 2, MARGIN + 84 + head * (CELL + 6) + 2]
        np.testing.assert_array_equal(corner, colour(np.array(float(value))))


def test_positions_have_their_peaks_and_a_frame() -> None:
    maps = np.full((2, 4, 5, 7), 0.001, np.float32)
    maps[1, 2, 4, 6] = 0.5
    maps[0, 0, 0, 1] = 0.01
    sheet = np.asarray(positions_sheet(maps, model="convit", face=Face()))
    factor = CELL // 7
    for layer, head, y, x in ((1, 2, 4, 6), (0, 0, 0, 1)):
        top, left = 76 + layer * (5 * factor + 6), MARGIN + 84 + head * (7 * factor + 6)
        cell = sheet[top : top + 5 * factor, left : left + 7 * factor].astype(int)
        np.testing.assert_array_equal(cell[y * factor + 5, x * factor + 5], colour(np.array(1.0)))
        np.testing.assert_array_equal(cell[2 * factor - 1, 3 * factor], ImageColor.getrgb("#35c4ff"))  # round (2, 3)
