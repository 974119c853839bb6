"""Tables as aligned text."""

from collections.abc import Sequence


def table_text(rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Returns rows, of which the first may be a heading, as lines of aligned columns, two spaces apart.

    alignment: a character a column, "<" to the left or ">" to the right. Rows of other lengths are a ValueError.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)).rstrip()
        for row in rows
    )
