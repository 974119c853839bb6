"""Environments that hold what a requirements file asks for and nothing else, made without a network.

A new virtual environment gets links to the packages of the one that runs the tests. A package that a file does not
name, and that none of the named ones needs, is not there at all.
"""

import os
import subprocess
import venv
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def requirements(file: Path) -> Iterator[Requirement]:
    """Every requirement of a file and of those that it includes."""
    for line in file.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from requirements(file.parent / line.removeprefix("-r ").strip())
        elif line:
            yield Requirement(line)


def with_dependencies(wanted: Iterable[Requirement]) -> dict[str, metadata.Distribution]:
    """Returns the distributions that pip would install, by name."""
    found: dict[str, metadata.Distribution] = {}
    pending = list(wanted)
    while pending:
        requirement = pending.pop()
        name = requirement.name.lower().replace("_", "-")
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(found[name].version, prereleases=True), requirement
        pending += [Requirement(line) for line in found[name].requires or ()]
    return found


def make_environment(folder: Path, files: Iterable[str], *, without: str = "") -> Path:
    """Makes an environment with what requirements files name, but for one distribution; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    [site] = folder.glob("lib/python3*/site-packages")
    wanted = [requirement for file in files for requirement in requirements(ROOT / file)]
    for name, distribution in with_dependencies(wanted).items():
        if name == without:
            continue
        for top in {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
            link, target = site / top, Path(str(distribution.locate_file(top)))
            if not link.exists() and target.exists():
                link.symlink_to(target)
    return folder / "bin" / "python"


def call(python: Path, *command: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a script of the project in an environment, with `cwd` as the home folder; a traceback is never shown."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
