"""From the dataclasses of `util.options` to flags, YAML keys and checked values.

A script declares a frozen dataclass whose fields are option groups; `parse` fills it from the command line and the YAML
file. Flags take `-` for `_`, every boolean has `--x` and `--no_x`, and `none` is null. Nothing is abbreviated, nothing
unknown is accepted.
"""

import argparse
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from util import options
from util.errors import MissingInputError, UsageError

MAX_YAML_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of a script's settings: remembers which names were on the command line."""

    on_command_line: frozenset[str]


S = TypeVar("S", bound=Settings)


def convert(name: str, value: Any, hint: Any) -> Any:
    """Returns `value`, from YAML or the command line, as the type `hint`; UsageError says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value in (None, "none", ["none"]):
            return None
        return convert(name, value, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        if value not in arguments:
            raise UsageError(f"{name} is one of {', '.join(arguments)}; got {value!r}{_nearest(str(value), arguments)}")
        return value
    if origin is tuple:
        return _convert_tuple(name, value, arguments)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = hint(value)
        except (ValueError, OverflowError):
            number = None
        if number is not None and math.isfinite(number) and (hint is float or not isinstance(value, float)):
            return number
    raise UsageError(f"{name} must be {_describe(hint)}; got {value!r}")


def _convert_tuple(name: str, value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if arguments[-1] is Ellipsis:
        if values in ([None], ["none"]):
            return ()
        return tuple(convert(name, v, arguments[0]) for v in values)
    if len(values) != len(arguments):
        raise UsageError(f"{name} takes {len(arguments)} values; got {len(values)}: {' '.join(map(str, values))}")
    return tuple(convert(name, v, a) for v, a in zip(values, arguments, strict=True))


def _describe(hint: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text (quote it)"}
    return names.get(hint, str(hint))


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and aliases (which can blow a small file up)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("anchors and aliases are not supported")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.YAMLError(f"line {line}: a key must be text; got {key!r}")
            if key in seen:
                raise yaml.YAMLError(f"{key} stands twice, in lines {seen[key]} and {line}; keep one")
            seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the settings of a YAML file, keys checked, values not yet. Errors name the file and the key."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MAX_YAML_BYTES:
            raise UsageError(f"{path}: a configuration is a text file of at most {MAX_YAML_BYTES} bytes")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise MissingInputError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected lines `key: value`, got {type(values).__name__}")
    known = options.yaml_keys()
    command_line_only = options.all_keys() - known
    for key in values:
        if key in options.REMOVED:
            raise UsageError(f"{path}: {key} does not exist here: {options.REMOVED[key]}; remove the line")
        if key in command_line_only:
            raise UsageError(f"{path}: {key} belongs on the command line: --{key}; remove the line")
        if key not in known:
            raise UsageError(f"{path}: unknown setting {key}{_nearest(key.lower(), sorted(known))}")
    return values


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print and exit with, as a UsageError."""

    def error(self, message: str) -> typing.NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def tool_parser(module: str, description: str | None) -> Parser:
    """Returns the parser of a command `python -m <module>`, which has arguments instead of settings."""
    return Parser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _build_parser(
    groups: dict[str, type[Any]], *, description: str, positional: str | None, prog: str | None
) -> tuple[Parser, dict[str, Any]]:
    """Returns the parser and each setting's type. Values stay text here; `convert` gives them their types."""
    first = f"[{positional.removesuffix('_dir').upper()}] " if positional else ""
    parser = Parser(
        prog=prog,
        usage=f"%(prog)s {first}[--config YAML] [--SETTING VALUE ...]",
        description=description,
        epilog="every switch --x also has --no_x; none is null",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    hints: dict[str, Any] = {}
    if positional is not None:
        parser.add_argument(f"{positional}_argument", nargs="?", metavar=positional, help=f"same as --{positional}")
    parser.add_argument("--config", "-c", "--cfg", metavar="YAML", help="file with settings; the command line wins")
    for group in groups.values():
        section = parser.add_argument_group(group.__doc__)
        group_hints = typing.get_type_hints(group)
        for f in fields(group):
            hint = hints[f.name] = group_hints[f.name]
            flags = [f"--{f.name}", *f.metadata["flags"]]
            text = f"{f.metadata['help']} (default: {_show(f.default)})".replace("%", "%%")
            if hint is bool:
                section.add_argument(*flags, dest=f.name, action="store_true", help=text)
                off = [flag.replace("--", "--no_", 1) for flag in flags]
                section.add_argument(*off, dest=f.name, action="store_false", help=argparse.SUPPRESS)
            else:
                section.add_argument(*flags, dest=f.name, **_arity(hint), help=text)
    return parser, hints


def _arity(hint: Any) -> dict[str, Any]:
    """Returns argparse's nargs and metavar for a type. A tuple that can be none takes any number; `convert` counts."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    inner = next(a for a in typing.get_args(hint) if a is not type(None)) if optional else hint
    arguments = typing.get_args(inner)
    if typing.get_origin(inner) is Literal:
        return {"metavar": "{" + ",".join(arguments) + "}"}
    if typing.get_origin(inner) is tuple:
        nargs = "+" if optional or arguments[-1] is Ellipsis else len(arguments)
        return {"nargs": nargs, "metavar": _arity(arguments[0])["metavar"]}
    return {"metavar": inner.__name__.upper()}


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_show(v) for v in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _normalise(token: str) -> str:
    """`--batch-size=3` -> `--batch_size=3`; values are left alone."""
    name, equals, value = token.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if token.startswith("--") else token


_OVERRIDE = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")  # TRAIN.LR, as yacs-based repositories override settings


def _refuse_unknown(unknown: list[str], hints: dict[str, Any]) -> None:
    first = unknown[0]
    name = first.lstrip("-").partition("=")[0]
    if name in options.REMOVED:
        raise UsageError(f"--{name} does not exist here: {options.REMOVED[name]}; leave it out")
    if _OVERRIDE.fullmatch(first):
        key = first.rsplit(".", 1)[-1].lower()
        key = options.YACS_NAMES.get(key, key)
        near = [key] if key in hints else difflib.get_close_matches(key, hints, n=1)
        value = unknown[1] if len(unknown) > 1 else "VALUE"
        advice = f"write --{near[0]} {value}" if near else "--help lists them"
        raise UsageError(f"settings are changed with flags, not {first}: {advice}")
    if first.lower() in ("true", "false"):
        raise UsageError(f"unexpected {first}: a switch takes no value; write --name or --no_name")
    if first.startswith("-"):
        raise UsageError(f"unknown option {first}{_nearest(name, sorted(hints), prefix='--')} (--help lists them)")
    raise UsageError(f"unexpected argument {first!r} (--help lists the options)")


def parse(
    settings: type[S],
    argv: Sequence[str] | None,
    *,
    description: str,
    positional: str | None = None,
    prog: str | None = None,
) -> S:
    """Returns a script's settings from the command line and the YAML file it names.

    settings: dataclass whose fields, besides those of `Settings`, are option groups.
    positional: the one setting that may also be given without a flag. prog: how the script is called, if not by its
    file.
    """
    groups = {f.name: typing.get_type_hints(settings)[f.name] for f in fields(settings) if f.name not in _BASE_FIELDS}
    for_yaml = {f.name for group in groups.values() for f in fields(group) if f.metadata["yaml"]}
    parser, hints = _build_parser(groups, description=description, positional=positional, prog=prog)
    tokens = [_normalise(token) for token in (sys.argv[1:] if argv is None else argv)]
    arguments, unknown = parser.parse_known_args(tokens)
    command_line = vars(arguments)
    first = command_line.get(f"{positional}_argument")
    if first is not None and _OVERRIDE.fullmatch(first) and not Path(first).exists():
        unknown = tokens[tokens.index(first) :]
    if unknown:
        _refuse_unknown(unknown, hints)
    if positional is not None and f"{positional}_argument" in command_line:
        value = command_line.pop(f"{positional}_argument")
        if command_line.setdefault(positional, value) != value:
            raise UsageError(f"{positional} is given twice: {value} and {command_line[positional]}")
    config = command_line.pop("config", None)
    in_yaml = read_yaml(Path(config)) if config is not None else {}
    in_yaml = {name: value for name, value in in_yaml.items() if name in for_yaml}
    values = {}
    for name, value in (in_yaml | command_line).items():
        if name in hints:
            source = f"--{name}" if name in command_line else f"{config}: {name}"
            values[name] = convert(source, value, hints[name])
    return settings(
        on_command_line=frozenset(command_line),
        **{
            field: group(**{f.name: values[f.name] for f in fields(group) if f.name in values})
            for field, group in groups.items()
        },
    )


_BASE_FIELDS = {f.name for f in fields(Settings)}


def to_plain(settings: Settings, scopes: frozenset[str] = frozenset({"result", "place"})) -> dict[str, Any]:
    """Returns the settings of these scopes as plain values, tuples as lists; what `args.yaml` holds."""
    plain: dict[str, Any] = {}
    for f in fields(settings):
        if f.name in _BASE_FIELDS:
            continue
        group = getattr(settings, f.name)
        values = asdict(group)
        for option in fields(group):
            if option.metadata["scope"] in scopes and option.metadata["yaml"]:
                value = values[option.name]
                plain[option.name] = list(value) if isinstance(value, tuple) else value
    return plain
