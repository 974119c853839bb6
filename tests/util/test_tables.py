"""Aligned text tables."""

import pytest

from util.tables import table_text


def test_columns_are_aligned_to_their_side_and_nothing_trails() -> None:
    rows = [("name", "size", "of"), ("a", "12,345", "x"), ("longer", "7", "")]
    assert table_text(rows, "<><").splitlines() == ["name      size  of", "a       12,345  x", "longer       7"]
    assert table_text(rows, "><<").splitlines() == ["  name  size    of", "     a  12,345  x", "longer  7"]


def test_an_empty_column_has_no_width() -> None:
    assert table_text([("a", "", "b"), ("c", "", "d")], "<<>") == "a    b\nc    d"


@pytest.mark.parametrize(
    ("rows", "alignment"), [([("a", "b"), ("c",)], "<<"), ([("a", "b")], "<"), ([("a", "b")], "<<<")]
)
def test_a_column_too_many_or_too_few_is_an_error(rows: list[tuple[str, ...]], alignment: str) -> None:
    with pytest.raises(ValueError, match=r"argument 2 is (shorter|longer)"):
        table_text(rows, alignment)
