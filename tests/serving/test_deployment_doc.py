"""docs/deployment.md: its options, figures and client are those of serve.py, in both languages."""

import ast
import contextlib
import io
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.scripts.run import ROOT
from tests.serving.served import Serving
from tests.serving.test_classify import CHELSEA
from util.options import EngineOptions, ServeOptions

PAGES = ("deployment.md", "deployment_cn.md")


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    """The code of a page, without comments, which are in its language."""
    return [re.sub(r" *# .*", "", block) for block in re.findall(r"```\w+\n(.*?)```", text(page), re.DOTALL)]


def test_both_languages_have_the_same_code_figures_and_options() -> None:
    english, chinese = map(text, PAGES)
    assert blocks(PAGES[0]) == blocks(PAGES[1])
    assert len(blocks(PAGES[0])) >= 6
    for pattern in (r"`--\w+[^`]*`", r"`paddle_cvt_\w+", r"(?<![\w.])\d+\.\d+(?![\w.])"):
        assert sorted(set(re.findall(pattern, english))) == sorted(set(re.findall(pattern, chinese)))


@pytest.mark.parametrize("page", PAGES)
def test_defaults_are_those_of_the_options(page: str) -> None:
    known = {field.name: field.default for options in (ServeOptions, EngineOptions) for field in fields(options)}
    rows = re.findall(r"^\| `--(\w+)(?: ([^`]+))?` \|", text(page), re.MULTILINE)
    assert len(rows) >= 6
    for name, value in rows:
        assert name in known
        if value:
            assert float(value) == known[name], name


def test_figures_are_those_of_the_server(server: Serving) -> None:
    figures = server.get("/metrics").body.decode()
    named = set(re.findall(r"`(paddle_cvt_\w+)", text(PAGES[0])))
    assert len(named) >= 6
    for name in named:
        assert re.search(rf"^# (HELP|TYPE) {name} ", figures, re.MULTILINE), name


def test_the_client_gets_the_answer(server: Serving, exported: Path) -> None:
    [client] = [block for block in blocks(PAGES[0]) if "tritonclient" in block]
    for named, here in (
        ("output/repository/cvt_13_224x224/1", str(exported)),
        ("localhost:8000", f"127.0.0.1:{server.port}"),
        ("demo/chelsea.jpg", str(ROOT / "demo/chelsea.jpg")),
    ):
        assert named in client
        client = client.replace(named, here)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(client, "docs/deployment.md", "exec"), {})
    [found] = ast.literal_eval(printed.getvalue())
    [wanted] = server.classify(CHELSEA).predictions
    assert found["label_names"] == wanted["label_names"]
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=0, atol=1e-5)
