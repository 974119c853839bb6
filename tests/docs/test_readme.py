"""The documents: commands that the scripts accept, links that resolve, figures that are the code's."""

import functools
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval import EvalSettings
from export_model import ExportSettings
from infer import InferSettings
from models import model_info
from predict import PredictSettings
from serve import ServeSettings
from tests.models.test_registry import SIZES
from train import TrainSettings
from util import errors
from util.settings import Settings, parse, read_yaml
from util.weights.__main__ import ConvertSettings
from util.weights.sources import require_source
from visualize import VisualizeSettings

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README_cn.md")
DOCUMENTS = (*READMES, "docs/architecture.md")
SCRIPTS: dict[str, tuple[type[Settings], str | None]] = {
    "train.py": (TrainSettings, "data_dir"),
    "eval.py": (EvalSettings, "data_dir"),
    "predict.py": (PredictSettings, None),
    "visualize.py": (VisualizeSettings, None),
    "export_model.py": (ExportSettings, None),
    "infer.py": (InferSettings, None),
    "serve.py": (ServeSettings, None),
    "util.weights": (ConvertSettings, "source"),
}
TOOLS = {  # started with `python -m`, with options of their own
    "models", "util.checkpoint", "util.data.split", "util.data.check", "util.data.shard", "util.report",
}  # fmt: skip
RUN_SH = {  # each takes a value
    "-g", "--gpus", "-t", "--job-type", "-p", "--port", "--nodes", "--rank", "--master", "--tries", "--pause",
}  # fmt: skip


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    """The content of every fenced block in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(document), re.M | re.S)


def prose(document: str) -> str:
    """The document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(document), flags=re.M | re.S)


def commands(document: str) -> list[list[str]]:
    """Every command of every shell block, as words."""
    lines = "".join(blocks(document, "shell")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def unknown_tool_options(words: Sequence[str]) -> list[str]:
    """Returns the options of a tool's command, `python -m TOOL ...`, that its --help does not name."""
    call = " ".join(words[2:4] if words[2] == "util.checkpoint" else words[2:3])
    return [word for word in words[3:] if word.startswith("--") and word not in tool_options(call)]


@functools.cache
def tool_options(call: str) -> set[str]:
    """Returns the options that a tool's --help names; call: its module, and its command if it has several."""
    shown = subprocess.run(
        [sys.executable, "-m", *call.split(), "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[\w-]+", shown.stdout))


def is_script(words: Sequence[str]) -> bool:
    """Whether a command starts one of SCRIPTS."""
    return words[0] in ("python", "bash") and (words[1] != "-m" or words[2] not in TOOLS)


def to_script(words: Sequence[str]) -> list[str]:
    """The script and its arguments, without `python`, the launcher or run.sh and its own options."""
    if words[:2] == ["bash", "run.sh"]:
        job, arguments, rest = "train", [], list(words[2:])
        while rest:
            word = rest.pop(0)
            if word not in RUN_SH:
                arguments.append(word)
            elif (value := rest.pop(0)) and word == "-t":
                job = value
        return [{"train": "train.py", "test": "eval.py", "infer": "infer.py"}[job], *arguments]
    first = next(i for i, word in enumerate(words) if word in SCRIPTS)
    assert first == 1 or (words[1] == "-m" and (first == 2 or words[2] == "paddle.distributed.launch")), words
    return list(words[first:])


def check_command(words: Sequence[str]) -> str:
    """Parses a command's arguments as its script does, and returns the script; published names must exist."""
    script, *arguments = to_script(words)
    settings, positional = SCRIPTS[script]
    parse(settings, arguments, description="", positional=positional)
    for name, value in itertools.pairwise(arguments):
        if name == "--pretrained" and value != "list" and "/" not in value and "." not in value[-12:]:
            require_source(value)
    return script


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", READMES)
def test_shell_blocks_can_be_pasted(document: str) -> None:
    found = blocks(document, "shell")
    assert len(found) > 15
    for block in found:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        assert not re.search(r"\\\n\s*(#|$)", block), f"a back-slashed command is cut:\n{block}"
    others = re.sub(r"^```shell\n.*?^```$", "", text(document), flags=re.M | re.S)
    assert not re.search(r"^(python|bash|pip|make) ", others, re.M), "a command outside a shell block"


@pytest.mark.parametrize("document", READMES)
def test_scripts_know_every_option(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # recipes are named relative to it
    used = {check_command(words) for words in commands(document) if is_script(words)}
    assert used == set(SCRIPTS)
    in_tables = re.findall(r"\| `(python [^`]+)` \|", text(document))
    assert len(in_tables) == 7
    for command in in_tables:
        check_command(shlex.split(command))
    tools = [words for words in commands(document) if words[0] == "python" and not is_script(words)]
    assert {words[2] for words in tools} >= {"util.data.check", "util.data.shard", "util.report"}
    assert [words for words in tools if unknown_tool_options(words)] == []
    assert unknown_tool_options(["python", "-m", "util.report", "RUN", "--output", "a.html", "--out"]) == ["--out"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(str(target.relative_to(ROOT))), re.M)
            assert anchor in map(slug, headings), link


def test_both_readmes_say_the_same() -> None:
    english, chinese = READMES
    assert commands(english) == commands(chinese)
    for language in ("python", "bibtex"):
        assert blocks(english, language) == blocks(chinese, language)
    for pattern in (r"^## ", r"^\|(---\|)+$", r"^\| ", r"^- ", r"^```"):
        counts = [len(re.findall(pattern, text(document), re.M)) for document in READMES]
        assert counts[0] == counts[1] > 0, pattern


def model_rows(document: str) -> dict[str, list[str]]:
    """The table of models: name -> its other cells, the recipes first."""
    rows = re.findall(r"^\| `(\w+)` \| (\[.*) \|$", text(document), re.M)
    assert len(dict(rows)) == len(rows)
    return {name: cells.split(" | ") for name, cells in rows}


@pytest.mark.parametrize("document", READMES)
def test_the_model_table_has_the_golden_sizes(document: str) -> None:
    rows = model_rows(document)
    assert rows.keys() == SIZES.keys()
    for name, (_, parameters, gmacs, size, *_) in rows.items():
        assert (int(parameters.replace(",", "")), float(gmacs)) == SIZES[name]
        assert int(size) == model_info(name).input_size[1]


@pytest.mark.parametrize("document", READMES)
def test_the_model_table_links_every_recipe_of_its_model(document: str) -> None:
    linked = {link: name for name, row in model_rows(document).items() for link in re.findall(r"\]\(([^)]+)\)", row[0])}
    recipes = {str(path.relative_to(ROOT)) for path in (ROOT / "configs" / "train").glob("*/*.yaml")}
    assert linked.keys() == recipes | {"demo/digits.yaml"}
    assert {link: read_yaml(ROOT / link)["model"] for link in linked} == linked


@pytest.mark.parametrize("document", READMES)
def test_the_accuracies_are_the_first_of_the_page_of_models(document: str) -> None:
    page = text(document.replace("README", "docs/models"))
    there = re.findall(r"^\| `(\w+)` \| [\d,]+ \| .* \| ([^|]+) \| ([^|]+) \|$", page, re.M)
    first = {name: [results.split("<br>")[0], sources.split("<br>")[0]] for name, results, sources in there}
    assert {name: row[-2:] for name, row in model_rows(document).items()} == first


@pytest.mark.parametrize("document", READMES)
def test_every_exit_code_is_listed(document: str) -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text(document), re.M)}
    raised = {error.exit_code for error in errors.UserError.__subclasses__()}
    assert listed == raised | {0, errors.INTERNAL, errors.INTERRUPTED, errors.TERMINATED}


def test_the_architecture_names_every_module() -> None:
    names = {path.name for top in ("models", "util") for path in (ROOT / top).rglob("*.py")} - {"__init__.py"}
    assert {name for name in names if name not in text("docs/architecture.md")} == set()
