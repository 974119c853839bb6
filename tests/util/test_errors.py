"""What errors say: of many names the first, and how many more there are."""

import pytest

from util.errors import listed


@pytest.mark.parametrize(("count", "limit", "expected"), [
    (0, 3, ""), (1, 3, "0"), (3, 3, "0, 1, 2"), (4, 3, "0, 1, 2, and 1 more"), (1500, 1, "0, and 1,499 more"),
])  # fmt: skip
def test_the_first_are_named_and_the_others_counted(count: int, limit: int, expected: str) -> None:
    assert listed((str(i) for i in range(count)), limit) == expected


def test_names_are_separated_as_asked() -> None:
    assert listed(["a, b", "c", "d"], 2, separator="; ") == "a, b; c; and 1 more"
    assert listed(["a", "b", "c"], 2, separator="\n  ") == "a\n  b\n  and 1 more"
