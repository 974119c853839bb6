"""How a setting is declared and checked."""

from dataclasses import field
from typing import Any, Literal

from util.errors import UsageError

Scope = Literal["result", "place", "machine"]


def setting(default: Any, help: str, *, flags: tuple[str, ...] = (), scope: Scope = "result", yaml: bool = True) -> Any:
    """Declares a setting.

    flags: other spellings on the command line.
    scope: `result` settings change what a run computes and must be equal when it is resumed; `place` settings say where
        things are and are saved with the run; `machine` settings are neither.
    yaml: whether a YAML file may set it.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "scope": scope, "yaml": yaml})


def check_text(name: str, value: str | None) -> None:
    """Raises a UsageError if a path is empty or not UTF-8: logs and Paddle's own code take text alone."""
    is_text = value is None or not any("\ud800" <= character <= "\udfff" for character in value)
    check(is_text and value != "", name, "UTF-8 text", repr(value))


def check(condition: bool, name: str, expected: str, value: object) -> None:
    """Raises a UsageError that says what setting `name` must be, unless the condition holds."""
    if not condition:
        raise UsageError(f"{name} must be {expected}; got {value}")
