"""docs/reliability.md: every promise has its test, numbers are the code's, both languages have the same tables."""

import ast
import re
from pathlib import Path

import pytest

from tests.docs.test_readme import text
from tests.docs.test_training_docs import named, tables_with
from util import errors, storage
from util.job import LONGEST_PAUSE, STOP_SECONDS
from util.options import LoaderOptions, RunOptions
from util.train.epoch import IN_UPDATE_PATIENCE
from util.train.rejected import MAX_LISTED
from util.train.step import MAX_SKIPPED
from util.train.tracking import PATIENCE

ROOT = Path(__file__).parents[2]
PAGES = ("docs/reliability.md", "docs/reliability_cn.md")


def missing_tests(names: list[str]) -> list[str]:
    """The `path::test` that are no test function of such a file."""
    missing = []
    for name in names:
        path, _, function = name.partition("::")
        file = ROOT / path
        tree = ast.parse(file.read_text(encoding="utf-8") if file.exists() else "")
        if function not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}:
            missing.append(name)
    return missing


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_has_a_test_that_exists(page: str) -> None:
    (table,) = tables_with(page, "promise/承诺", "test/测试")
    for row in table[1:]:
        assert named(row[1]), row[0]
        assert row[2], row[0]
    cells = [name for row in table[1:] for cell in row[1:] for name in named(cell)]
    assert len(cells) > 15
    assert missing_tests(cells) == []
    assert missing_tests([cells[0] + "x", "tests/test_nothing.py::test_a"]) == [
        cells[0] + "x",
        "tests/test_nothing.py::test_a",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_has_a_command_whose_files_and_tests_exist(page: str) -> None:
    (table,) = tables_with(page, "what/内容", "figure/数值")
    assert len(table) > 8
    for row in table[1:]:
        (command,) = named(row[2])
        for path in re.findall(r"[\w/]+\.py", command):
            assert (ROOT / path).exists(), command
            words = re.findall(r"-k \"?([\w ]+)\"?", command)
            source = (ROOT / path).read_text(encoding="utf-8")
            for word in (word for words_ in words for word in words_.split(" or ")):
                assert re.search(rf"^def test_\w*{word}", source, re.M), f"{command}: no test has {word} in its name"


@pytest.mark.parametrize("page", PAGES)
def test_the_numbers_are_the_codes(page: str) -> None:
    content = text(page)
    told = {
        "`--save_minutes`": RunOptions().save_minutes,
        "`--data_timeout`": LoaderOptions().data_timeout,
    }
    for name, value in told.items():
        assert re.search(rf"{name}\W{{1,2}}{value:g}\b", content), name
    assert "1、2、4" in content or "1, 2 and 4 seconds" in content
    assert storage.PAUSES == (1.0, 2.0, 4.0)
    for number, word in (
        (STOP_SECONDS, r"120 (秒|seconds)"), (LONGEST_PAUSE, r"300 (秒|seconds)"), (MAX_SKIPPED, r"20 (次|in a row)"),
        (IN_UPDATE_PATIENCE, r"(每个再等|each is awaited for) 5 (秒|seconds)"),
        (PATIENCE, r"5 (秒|seconds)"), (MAX_LISTED, r"20 (个路径|paths)"),
    ):  # fmt: skip
        assert re.search(rf"\b{number:g}\b", word)
        assert re.search(word, content), word


@pytest.mark.parametrize("page", PAGES)
def test_exit_codes_are_those_of_the_scripts(page: str) -> None:
    known = {e.exit_code for e in errors.UserError.__subclasses__()} | {errors.INTERRUPTED, errors.TERMINATED}
    (stopping,) = tables_with(page, "signal/信号", "what happens/结果")
    (failing,) = tables_with(page, "what/情况", "when it is noticed, and what is said/何时发现、报告什么")
    codes = [int(row[2]) for table in (stopping, failing) for row in table[1:]]
    assert set(codes) <= known
    assert set(codes) == {65, 73, 74, 75, 76, 78, 130, 143}
    in_text = {int(code) for code in re.findall(r"(?:exit code|退出码)\s*(\d+)", text(page))}
    assert in_text <= known
    assert len(in_text) > 3


def test_both_pages_name_the_same_tests_and_commands() -> None:
    english, chinese = (re.findall(r"`((?:tests/|pytest |python bench)[^`]+)`", text(page)) for page in PAGES)
    assert english == chinese
