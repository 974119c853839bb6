"""Reads a Dockerfile: stages, instructions, and which files of the context it may copy.

As much of the language as deploy/Dockerfile needs; what is beyond that is a UsageError, so that nothing is passed over.
https://docs.docker.com/reference/dockerfile/
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from util.errors import UsageError

KNOWN = {
    "ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "STOPSIGNAL", "USER", "WORKDIR",
}  # fmt: skip
FLAG = re.compile(r"--([a-z-]+)=(\S+)\s+")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction. rest: what follows its name and flags, on one line; line: where it begins, from 1."""

    name: str
    flags: Mapping[str, str]
    rest: str
    line: int

    @property
    def words(self) -> list[str]:
        """Returns the arguments: those of the exec form (a list of JSON), else what spaces separate."""
        if not self.rest.startswith("["):
            return self.rest.split()
        try:
            words = json.loads(self.rest)
        except ValueError:
            raise UsageError(f"line {self.line}: {self.name} has no list of JSON: {self.rest}") from None
        return [str(word) for word in words]

    @property
    def is_exec_form(self) -> bool:
        """Returns whether it starts a program itself, which gets the signals, and not a shell that starts it."""
        return self.rest.startswith("[")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one FROM begins."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """defaults: of the ARGs before the first FROM, by which bases may be chosen."""

    defaults: Mapping[str, str]
    stages: tuple[Stage, ...]

    def chain(self, arguments: Mapping[str, str]) -> tuple[str, list[Instruction]]:
        """Returns the image that the last stage comes from in the end, and all instructions on the way from there.

        arguments: build arguments. One that no ARG declares is a UsageError.
        """
        declared = set(self.defaults) | {i.rest.partition("=")[0] for s in self.stages for i in named(s, "ARG")}
        for name in arguments:
            if name not in declared:
                raise UsageError(f"no ARG {name}; there are {', '.join(sorted(declared))}")
        values = {**self.defaults, **{name: value for name, value in arguments.items() if name in self.defaults}}
        by_name = {stage.name: stage for stage in self.stages}
        stage, found = self.stages[-1], list(self.stages[-1].instructions)
        while (base := substitute(stage.base, values)) in by_name:
            stage = by_name.pop(base)
            found = [*stage.instructions, *found]
        return base, found


def named(stage: Stage, name: str) -> list[Instruction]:
    """Returns a stage's instructions of one name."""
    return [instruction for instruction in stage.instructions if instruction.name == name]


def substitute(text: str, values: Mapping[str, str]) -> str:
    """Returns the text with `$NAME` and `${NAME}` replaced; an unknown one is empty, as in an image's build."""
    return VARIABLE.sub(lambda match: values.get(match[1] or match[2], ""), text)


def read_dockerfile(text: str) -> Dockerfile:
    """Returns the stages of a Dockerfile. An instruction that is not KNOWN here is a UsageError."""
    defaults: dict[str, str] = {}
    stages: list[tuple[str, str, list[Instruction]]] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            base, *alias = instruction.words
            if alias and (len(alias) != 2 or alias[0].upper() != "AS"):
                raise UsageError(f"line {instruction.line}: FROM IMAGE AS NAME; got {instruction.rest}")
            stages.append((alias[1] if alias else str(len(stages)), base, []))
        elif stages:
            stages[-1][2].append(instruction)
        else:
            name, _, value = instruction.rest.partition("=")
            defaults[name] = value
    if not stages:
        raise UsageError("a Dockerfile begins with FROM")
    return Dockerfile(
        defaults=defaults, stages=tuple(Stage(name=n, base=b, instructions=tuple(i)) for n, b, i in stages)
    )


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        first = first if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if line.rstrip().endswith("\\"):
            continue
        name, _, rest = " ".join(parts).partition(" ")
        if name.upper() not in KNOWN:
            raise UsageError(f"line {first}: {name} is not among {', '.join(sorted(KNOWN))}")
        flags, rest = {}, rest.strip()
        while match := FLAG.match(rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        found.append(Instruction(name=name.upper(), flags=flags, rest=rest, line=first))
        parts = []
    return found


def ignored(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    """Returns whether the lines of a .dockerignore keep a file of the context back. The last line that fits decides.

    path: relative to the context. A line also fits what lies below the folders that it fits.
    """
    result = False
    above = [path, *list(path.parents)[:-1]]
    for line in patterns:
        if line.strip() and not line.startswith("#"):
            pattern = re.compile(_expression(line.strip().removeprefix("!")))
            if any(pattern.fullmatch(str(place)) for place in above):
                result = not line.startswith("!")
    return result


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in parts)


def context_files(context: Path, source: str) -> list[PurePosixPath]:
    """Returns the files of a COPY's source, relative to the context, without those that .dockerignore keeps back.

    A source without any file is a UsageError, as it is for an image's build.
    """
    patterns = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    start = context / source
    paths = sorted(start.rglob("*")) if start.is_dir() else [start]
    relative = [PurePosixPath(path.relative_to(context).as_posix()) for path in paths if path.is_file()]
    found = [path for path in relative if not ignored(path, patterns)]
    if not found:
        raise UsageError(f"COPY {source}: nothing there that .dockerignore lets through")
    return found
