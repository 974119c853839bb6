"""A font that can write the names of classes, in whatever script they are."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

from util.errors import MissingInputError, UsageError
from util.files import kind_of
from util.prediction import tell

# Where fonts with Chinese, Japanese and Korean characters, and then those with other alphabets, usually are.
PLACES = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/wenquanyi/wqy-microhei/wqy-microhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/simhei.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
    "C:/Windows/Fonts/arial.ttf",
)
NO_CHARACTER = "\U0010ffff"  # no font has a glyph for it: drawn as what stands for those that are missing
MAX_NAMED = 10  # characters named in a warning


@dataclass(frozen=True)
class Face:
    """A font in any size. path: its file; none: the one that comes with Pillow."""

    path: str | None = None

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """Returns the font at a size in pixels."""
        return _load(self.path, size)

    def lacks(self, text: Iterable[str]) -> list[str]:
        """Returns the characters of a text that it cannot draw, sorted, once each."""
        return sorted(character for character in set(text) if not _draws(self.path, character))

    def known(self, text: str) -> str:
        """Returns a text as it can be drawn: on one line, with `?` for what the font lacks."""
        return "".join(c if _draws(self.path, c) else "?" for c in " ".join(text.split()))


@functools.lru_cache(maxsize=32)
def _load(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    if path is not None:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # every wheel of Pillow has FreeType
    return font


@functools.lru_cache(maxsize=100_000)
def _draws(path: str | None, character: str) -> bool:
    """Whether a font has a glyph for a character: it is not drawn like what no font has one for."""
    if character == " ":
        return True
    if not character.isprintable():
        return False
    font = _load(path, 24)
    return _drawn(font, character) != _drawn(font, NO_CHARACTER)


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def choose_face(texts: Iterable[str], font: str | None) -> Face:
    """Returns the font to write texts with, and says once on standard error what it cannot write.

    font: a file; one that is missing is a MissingInputError, one that is no font a UsageError. None: Pillow's own, or
    if that lacks a character the first of `PLACES` that lacks none, else the one that lacks the fewest.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(" ".join(text.split()))
    if font is not None:
        faces: Iterator[Face] = iter([_named_face(font)])
    else:
        faces = (face for face in (Face(), *map(Face, PLACES)) if face.path is None or Path(face.path).is_file())
    best, missing = Face(), sorted(characters)
    for i, face in enumerate(faces):
        lacking = face.lacks(characters)
        if i == 0 or len(lacking) < len(missing):
            best, missing = face, lacking
        if not missing:
            break
    if missing:
        shown = " ".join(c if c.isprintable() else repr(c)[1:-1] for c in missing[:MAX_NAMED])
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        tell(f"no font here has {shown}{more}; pictures show ? instead: name a font that does with --font FILE"
             if font is None else f"{font} lacks {shown}{more}; pictures show ? instead")  # fmt: skip
    return best


def _named_face(font: str) -> Face:
    if kind_of(Path(font)) != "file":
        raise MissingInputError(f"--font {font}: no such file")
    try:
        ImageFont.truetype(font, 24)
    except OSError as error:
        raise UsageError(f"--font {font}: not a font that Pillow can read: {error}") from None
    return Face(font)
