"""Pillow's pixels of translations, shears and smoothing, several times as fast as Pillow computes them.

A translation or shear moves each line of a picture along itself: one-dimensional interpolation, where Pillow's general
transform interpolates in two dimensions. The arithmetic is Pillow's (libImaging/Geometry.c, Filter.c), in its order and
precision, so the results are the same bits on x86-64; where a compiler fuses Pillow's multiplications and additions
(ARM), a pixel may differ by one level.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
NEAR = 2e-3  # levels; float32's error is below 3e-4
ROUNDING = 1e-9  # pixels; far above float64's error of a place in a picture
LINES_AT_ONCE = 56  # so that what is computed stays in the processor's cache
REACH = 2  # pixels that a filter looks beyond the first and the last


def move_lines(
    image: Image.Image,
    *,
    slope: float,
    shift: float,
    fill: tuple[int, int, int],
    resample: Image.Resampling,
    exact: bool = True,
) -> Image.Image | None:
    """Returns an RGB picture whose pixel (x, y) is the source's at x + slope * (y + 0.5) + shift on the same line.

    What lies outside becomes `fill`: Image.transform with the affine matrix (1, slope, shift, 0, 1, 0), slope or shift
    being 0. None where this is no bicubic or bilinear interpolation, or where a line moves by a multiple of half a
    pixel, so that rounding decides which pixels are taken: Pillow must do it. exact: Pillow's pixels; if not, one in
    some hundred is a level more.
    """
    width, height = image.size
    moves = slope * (np.arange(height) + 0.5) + shift  # (H,), how far each line moves
    if resample not in (BICUBIC, BILINEAR) or (np.abs(2 * moves - np.rint(2 * moves)) < ROUNDING).any():
        return None
    steps = np.floor(moves)
    begins, ends = (np.ceil(bound - 0.5 - moves).clip(0, width).astype(int) for bound in (0, width))  # what is inside
    lines = _moved(np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3), steps.astype(np.int64))
    if exact:
        result = _interpolate_exactly(lines, moves, begins, ends, cubic=resample == BICUBIC)
    else:
        result = _interpolate_nearly(lines, moves - steps, cubic=resample == BICUBIC)
    _fill_outside(result, 3 * begins, 3 * ends, np.tile(np.asarray(fill, np.uint8), width))
    return Image.frombytes("RGB", image.size, result.tobytes())


def _interpolate_exactly(
    lines: np.ndarray, moves: np.ndarray, begins: np.ndarray, ends: np.ndarray, *, cubic: bool
) -> np.ndarray:
    """Returns Pillow's pixels between [begin, end) of each line, uint8 (H, 3 * W); others are arbitrary.

    lines: as `_moved` returns them. moves: how far each line moves, float64 (H,).
    """
    width = lines.shape[1] // 3 - 3
    result, is_near = _interpolate(lines, moves - np.floor(moves), cubic=cubic)
    at = np.flatnonzero(is_near)
    line, column = at // (3 * width), at % (3 * width)
    inside = (column >= 3 * begins[line]) & (column < 3 * ends[line])
    at, line, column = at[inside], line[inside], column[inside]
    place = (column // 3 + 0.5 + moves[line]) - 0.5  # rounded as Pillow does, a pixel at a time
    result.ravel()[at] = _interpolate_at(at + 9 * line, lines, place - np.floor(place), cubic=cubic)
    return result


def _interpolate_nearly(lines: np.ndarray, fraction: np.ndarray, *, cubic: bool) -> np.ndarray:
    """The same in float32, with a little more before rounding down, so that whole numbers stay: uint8 (H, 3 * W).

    fraction: how far between the second and the third of each four pixels, float64 (H,).
    """
    same = bool((fraction == fraction[:1]).all())  # a translation: numbers for weights take half the time
    weights = _weights(fraction[:1, None] if same else fraction[:, None], cubic=cubic)
    height, width = len(lines), lines.shape[1] - 9
    result = np.empty((height, width), np.uint8)
    value, part = np.empty((2, min(height, LINES_AT_ONCE), width), np.float32)
    for start in range(0, height, LINES_AT_ONCE):
        rows = slice(start, min(start + LINES_AT_ONCE, height))
        total, product = value[: rows.stop - start], part[: rows.stop - start]
        levels = np.add(lines[rows], np.float32(NEAR / 2), dtype=np.float32)
        for i, (place, weight) in enumerate(weights):
            factor = weight[0, 0] if same else weight[rows]
            np.multiply(levels[:, place : place + width], factor, out=product if i else total)
            if i:
                np.add(total, product, out=total)
        result[rows] = np.clip(total, np.float32(0), np.float32(255), out=total)
    return result


def _fill_outside(lines: np.ndarray, begins: np.ndarray, ends: np.ndarray, fill: np.ndarray) -> None:
    """Fills each line outside of [begin, end) with a line of `fill`; lines in a row that agree on these at once."""
    changes = np.flatnonzero((np.diff(begins) != 0) | (np.diff(ends) != 0)) + 1
    first = [0, *changes.tolist()]
    for start, stop in zip(first, [*first[1:], len(lines)], strict=True):
        lines[start:stop, : begins[start]] = fill[: begins[start]]
        lines[start:stop, ends[start] :] = fill[ends[start] :]


def _moved(pixels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns each line's pixels from steps - 1 to steps + W + 1, flat, (H, 3 * (W + 3)); the ends are repeated twice.

    What is farther outside is arbitrary.
    """
    height, width, _ = pixels.shape
    steps = steps.clip(-width - REACH, width + REACH)
    margin = int(np.abs(steps).max()) + REACH + 1
    padded = np.zeros((height, width + 2 * margin, 3), np.uint8)
    padded[:, margin : margin + width] = pixels
    padded[:, margin - REACH : margin] = pixels[:, :1]
    padded[:, margin + width : margin + width + REACH] = pixels[:, -1:]
    first = 3 * (steps + margin - 1)
    if (first == first[:1]).all():  # a translation
        return padded.reshape(height, -1)[:, first[0] : first[0] + 3 * (width + 3)]
    windows = sliding_window_view(padded.reshape(height, -1), 3 * (width + 3), axis=1)
    return windows[np.arange(height), first]


def _interpolate(lines: np.ndarray, fraction: np.ndarray, *, cubic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Interpolates in float32 between the second and third of each four pixels of a channel, and rounds down.

    fraction: how far between them, float64 (H,). Returns uint8 (H, 3 * W), and where the value was so near to a whole
    number that float64 might round it otherwise, bool (H, 3 * W).
    """
    used = _weights(fraction[:, None], cubic=cubic)
    height, width = len(lines), lines.shape[1] - 9
    result, is_near = np.empty((height, width), np.uint8), np.empty((height, width), bool)
    for start in range(0, height, LINES_AT_ONCE):
        rows = slice(start, start + LINES_AT_ONCE)
        levels = lines[rows].astype(np.float32)
        value, part = np.zeros((2, len(levels), width), np.float32)
        for place, weight in used:
            value += np.multiply(levels[:, place : place + width], weight[rows], out=part)
        np.subtract(value, np.rint(value, out=part), out=part)
        np.less(np.abs(part, out=part), NEAR, out=is_near[rows])
        result[rows] = np.clip(value, 0.0, 255.0, out=value)
    return result, is_near


def _weights(d: np.ndarray, *, cubic: bool) -> list[tuple[int, np.ndarray]]:
    """Returns the place among four pixels of three channels, and the weight, float32 like d, of those that count."""
    if cubic:  # Pillow's polynomial, a = -1
        four = [d * (2 * d - 1 - d * d), 1 - d * d * (2 - d), d * (1 + d - d * d), d * d * (d - 1)]
        return [(3 * tap, weight.astype(np.float32)) for tap, weight in enumerate(four)]
    return [(3, (1 - d).astype(np.float32)), (6, d.astype(np.float32))]


def _interpolate_at(at: np.ndarray, lines: np.ndarray, fraction: np.ndarray, *, cubic: bool) -> np.ndarray:
    """Returns the same at some places alone, uint8, as Pillow computes it: in float64 and its order of operations.

    at: of the first of the four pixels, in the flat lines. fraction: float64, of each place.
    """
    before, here, there, behind = (lines.ravel()[at + 3 * tap].astype(np.float64) for tap in range(4))
    d = fraction
    if not cubic:
        return (here + (there - here) * d).astype(np.uint8)
    p2, p3, p4 = there - before, 2 * (before - here) + there - behind, here - before - there + behind
    return np.clip(here + d * (p2 + d * (p3 + d * p4)), 0.0, 255.0).astype(np.uint8)


def smooth(image: Image.Image) -> Image.Image:
    """Returns image.filter(ImageFilter.SMOOTH) of an RGB picture: 3 x 3 pixels, the middle one 5 times; edges stay.

    The sum of 13 levels is divided and rounded in integers. Pillow does so in float32, whose error is far below the
    distance of any such quotient from a half.
    """
    pixels = np.asarray(image)
    height, width, _ = pixels.shape
    result = pixels.copy()
    if height > 2 and width > 2:
        lines = pixels.reshape(height, -1).astype(np.uint16)
        inner = 3 * (width - 2)
        sums = lines[:, :inner] + lines[:, 3 : 3 + inner]
        sums += lines[:, 6:]
        total = sums[:-2] + sums[1:-1]
        total += sums[2:]
        total += 4 * lines[1:-1, 3 : 3 + inner]
        result.reshape(height, -1)[1:-1, 3 : 3 + inner] = _THIRTEENTHS[total]
    return Image.fromarray(result)


_THIRTEENTHS = ((2 * np.arange(13 * 255 + 1) + 13) // 26).astype(np.uint8)
