"""The page's files: what they are served as, that they name no other place, and that both languages say all of it."""

import re

import numpy as np
import pytest

from tests.serving.conftest import KEY
from tests.serving.served import Serving
from tests.util.data.test_images_odd import BASELINE
from util.seeing.colours import ANCHORS
from util.serving.pages import FILES, FOLDER

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# An address with a host, with or without its protocol, and what CSS loads
ELSEWHERE = re.compile(r"\w+://|[\"'`(=]\s*//|\burl\(|@import")
# What turns text into HTML or code
MARKUP = re.compile(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTML")


def source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


SCRIPTS = [name for name, _ in FILES.values() if name.endswith(".js")]


def texts(language: str) -> dict[str, str]:
    """Returns a language's part of the table of texts."""
    [table] = re.findall(rf"^  {language}: {{\n(.*?)^  }},$", source("words.js"), re.M | re.S)
    found = re.findall(r'^    (\w+): "([^"]+)",$', table, re.M)
    assert len(dict(found)) == len(table.splitlines()), "a line of another form, or a key twice"
    return dict(found)


def test_every_file_is_served() -> None:
    assert {name for name, _ in FILES.values()} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("path", FILES)
def test_a_file_has_its_type_and_stays_where_it_is(path: str, server: Serving) -> None:
    name, _ = FILES[path]
    answer = server.get(path)
    assert (answer.status, answer.body) == (200, (FOLDER / name).read_bytes())
    assert answer.headers["content-type"] == f"{KINDS[name[name.index('.') :]]}; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob: data:",
        "connect-src": "'self'", "form-action": "'none'", "base-uri": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", FILES)
def test_a_file_is_sent_again_only_when_it_is_another(path: str, server: Serving) -> None:
    first = server.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        answer = server.get(path, If_None_Match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert server.get(path, If_None_Match='"other"').body == first.body
    head = server.ask("HEAD", path)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(first.body)))
    assert server.ask("POST", path, b"x").status == 405


def test_other_answers_stay_as_they_were(server: Serving) -> None:
    answer = server.get("/healthz")
    assert "content-security-policy" not in answer.headers
    assert not set(server.get("/openapi.json").values["paths"]) & set(FILES)
    assert [server.get(path).status for path in ("/index.html", "/page", "/page/page.js")] == [404] * 3


def test_the_page_is_open_and_the_model_is_not(locked: Serving) -> None:
    assert [locked.get(path).status for path in FILES] == [200] * len(FILES)
    assert [locked.get(path).status for path in ("/v1/model", "/index.html", "//", "/page.js/")] == [401] * 4
    assert locked.classify(BASELINE).status == 401
    assert locked.classify(BASELINE, X_API_Key=KEY).status == 200
    assert KEY.encode() not in b"".join(locked.get(path).body for path in FILES)


@pytest.mark.parametrize("name", [name for name, _ in FILES.values()])
def test_no_file_names_another_place(name: str) -> None:
    text = source(name)
    assert ELSEWHERE.search(text) is None
    assert MARKUP.search(text) is None
    assert len(text.encode()) < 20_000


def test_what_would_be_another_place_is_found() -> None:
    for bad in ('src="https://x/y.js"', "fetch('//x/y')", "href=//x/y", "@import 'x.css'", "background: url(x.png)"):
        assert ELSEWHERE.search(bad), bad
    assert MARKUP.search("card.innerHTML = name")
    assert ELSEWHERE.search("x = 1; // a comment") is None


def test_the_page_loads_what_is_served_and_has_no_code_or_style_of_its_own() -> None:
    page = source("index.html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sorted(loaded) == ["data:,", "page.css", "page.js"]  # relative: a proxy may serve it below a path
    imported = [name for script in SCRIPTS for name in re.findall(r'from "\./([^"]+)"', source(script))]
    assert {f"/{name}" for name in (*loaded, *imported)} - {"/data:,"} == set(FILES) - {"/"}
    assert re.search(r"\s(style|on\w+)=|<style|<script>", page) is None  # the policy forbids both


def test_both_languages_say_everything() -> None:
    english, chinese = texts("en"), texts("zh")
    assert list(english) == list(chinese)
    for name, text in english.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[name])), name
    words = re.compile("[\u4e00-\u9fff]")
    assert [name for name, text in english.items() if words.search(text)] == []
    assert [name for name, text in chinese.items() if not words.search(text)] == ["newsDone", "newsFailed"]


def test_every_text_is_used_and_every_used_one_is_there() -> None:
    page, script = source("index.html"), source("page.js")
    named = set(re.findall(r'data-(?:text|label)="(\w+)"', page))
    said = set(re.findall(r'(?:say|label)\([^;]*?, "(\w+)"|phrase\("(\w+)"', script))
    said_names = {name for pair in said for name in pair if name}
    assert named | said_names <= set(texts("en"))
    quoted = set(re.findall(r'"(\w+)"', script))
    assert set(texts("en")) - named - quoted == set()


def test_maps_have_the_colours_of_visualize() -> None:
    text = source("attention.js")
    rows = re.findall(r"\[(\d\.\d+), (\d+), (\d+), (\d+)\]", text)
    np.testing.assert_array_equal(np.array(rows, float), ANCHORS)
