"""Reading the numbers of a string such as `rand-m9-mstd0.5-inc1`, the language of all automatic augmentations."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from util.errors import UsageError

# The letters of a part -> the field it sets and the type of its number.
Keys = Mapping[str, tuple[str, Callable[[str], object]]]


def read_parts(text: str, keys: Keys) -> dict[str, Any]:
    """Returns field -> number of the parts after the name; UsageError names the part that is wrong."""
    values: dict[str, Any] = {}
    for part in text.split("-")[1:]:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", part)
        if match is None or match[1] not in keys:
            raise UsageError(f"aa: {part!r} in {text!r} is not one of {', '.join(keys)} followed by a number")
        field, convert = keys[match[1]]
        if field in values:
            raise UsageError(f"aa: {match[1]} stands twice in {text!r}")
        try:
            values[field] = convert(match[2])
        except ValueError:
            raise UsageError(f"aa: {part!r} in {text!r} needs an integer") from None
    return values
