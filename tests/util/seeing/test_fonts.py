"""Names in scripts that the font at hand does not have."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from util.errors import MissingInputError, UsageError
from util.seeing import fonts
from util.seeing.fonts import Face, choose_face

DEJAVU = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def box(left: int, bottom: int, right: int, top: int) -> Any:
    pen = TTGlyphPen(None)
    pen.moveTo((left, bottom))
    for corner in ((left, top), (right, top), (right, bottom)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A font with two Chinese characters and the Latin ones that a label needs, each a box of its own."""
    characters = "猫狗 0123456789abcdefghijklmnopqrstuvwxyz.%?-…"
    names = [".notdef", *(f"u{ord(c):04x}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): name for c, name in zip(characters, names[1:], strict=True)})
    builder.setupGlyf({name: box(50, 0, 400 + 5 * i, 700) for i, name in enumerate(names)})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Two", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    path = tmp_path_factory.mktemp("fonts") / "two.ttf"
    builder.save(path)
    return str(path)


def test_pillows_own_font_knows_english_alone() -> None:
    assert Face().lacks("Egyptian cat, 3 % (tabby)") == []
    assert Face().lacks("caféя猫") == ["é", "я", "猫"]
    assert Face().known("a 猫\n\tb\x07\udcff") == "a ? b??"
    assert Face(DEJAVU).lacks("caféя猫") == ["猫"]


def test_latin_names_are_written_in_pillows_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_face(["tabby, tabby cat", "Egyptian cat"], None) == Face()
    assert capsys.readouterr().err == ""


def test_a_font_that_is_installed_and_knows_the_names_is_found(
    chinese: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fonts, "PLACES", ("/nowhere/x.ttf", DEJAVU, chinese))
    assert choose_face(["猫", "狗"], None) == Face(chinese)
    assert choose_face(["café"], None) == Face(DEJAVU)
    assert capsys.readouterr().err == ""


def test_what_no_font_knows_is_said_once_and_drawn_as_a_question_mark(
    chinese: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fonts, "PLACES", (DEJAVU,))
    face = choose_face(["café", "猫", "狗", "猫狗"], None)
    assert face == Face(DEJAVU)  # which lacks fewer
    said = capsys.readouterr().err
    assert said == "no font here has 狗 猫; pictures show ? instead: name a font that does with --font FILE\n"
    assert face.known("café 猫") == "café ?"

    assert choose_face(["猫é"], chinese) == Face(chinese)
    assert capsys.readouterr().err == f"{chinese} lacks é; pictures show ? instead\n"
    many = "".join(map(chr, range(0x4E00, 0x4E10)))
    choose_face([many], None)
    assert "and 6 more" in capsys.readouterr().err


def test_the_named_font_is_drawn(chinese: str) -> None:
    """Pixels, not only what is said: both characters differ, and neither is the sign of a missing one."""
    drawn = []
    for character in "猫狗?":
        picture = Image.new("L", (40, 40))
        ImageDraw.Draw(picture).text((2, 2), Face(chinese).known(character), 255, Face(chinese).at(24))
        drawn.append(np.asarray(picture))
    assert all(picture.max() == 255 for picture in drawn)
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_a_font_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"--font .*nothing.ttf: no such file"):
        choose_face(["a"], str(tmp_path / "nothing.ttf"))
    with pytest.raises(MissingInputError, match="no such file"):
        choose_face(["a"], str(tmp_path))
    (tmp_path / "text.ttf").write_text("no font")
    with pytest.raises(UsageError, match="not a font that Pillow can read"):
        choose_face(["a"], str(tmp_path / "text.ttf"))
