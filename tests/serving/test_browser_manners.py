"""The page in a headless Chromium: its languages, colours, sizes and keys, and maps of attention."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.serving.browser import DELETE, ENTER, SHIFT, SPACE, TAB
from tests.serving.page import CHELSEA, COFFEE, DESKTOP, Page, assert_answered
from util.seeing.colours import colour

PHONE = (390, 844)


def test_the_language_can_be_changed_and_is_remembered(page: Page, tmp_path: Path) -> None:
    page.pick(CHELSEA)
    page.cards(1)
    assert (page.text("h1"), page.text("#pick strong")) == ("Image classification", "Choose images")
    page.browser.click("[data-language=zh]")
    assert (page.text("h1"), page.text("#pick strong"), page.text("#count")) == ("图像分类", "选择图片", "已完成 1 / 1")
    assert "7 个类别" in page.text("#model")
    assert re.fullmatch(r"从发送到收到结果用时 \d+ 毫秒", page.text(".card .time"))
    assert page.browser.run("return document.querySelector('.remove').ariaLabel") == "移除 chelsea.jpg"
    assert page.browser.run("return [document.title, document.documentElement.lang]") == ["图像分类", "zh-CN"]
    page.browser.screenshot(tmp_path / "chinese.png")
    page.open()
    assert page.text("h1") == "图像分类"
    page.browser.click("[data-language=en]")
    assert page.text("h1") == "Image classification"


@pytest.mark.parametrize(("accepted", "title"), [("zh-TW,en", "图像分类"), ("de-DE,de", "Image classification")])
def test_the_language_is_the_browsers_at_first(accepted: str, title: str, page: Page) -> None:
    agent = page.browser.run("return navigator.userAgent")
    page.browser.devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=accepted)
    try:
        page.open()
        assert page.text("h1") == title
    finally:
        page.browser.devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage="en-US,en")


def lightness(page: Page, selector: str, name: str) -> float:
    """Returns the mean of a colour's red, green and blue."""
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    parts = re.findall(r"\d+", page.browser.run(style, selector, name))
    return sum(map(int, parts[:3])) / 3


def test_it_is_dark_where_the_system_is(page: Page, tmp_path: Path) -> None:
    page.pick(CHELSEA, COFFEE)
    page.cards(2)
    page.browser.screenshot(tmp_path / "desktop.png")
    assert lightness(page, "body", "backgroundColor") > 200 > 60 > lightness(page, ".label", "color")
    page.browser.prefer("dark")
    for selector in ("body", ".card"):
        assert lightness(page, selector, "backgroundColor") < 60
    assert lightness(page, ".label", "color") > 200
    page.browser.screenshot(tmp_path / "dark.png")


def focused(page: Page) -> str:
    return str(page.browser.run("return document.activeElement.id || document.activeElement.className"))


def test_the_keyboard_is_enough(page: Page) -> None:
    browser = page.browser
    browser.run("""window.opened = 0;
        const count = event => { window.opened++; event.preventDefault(); };
        document.querySelector("#files").addEventListener("click", count);""")
    for _ in range(3):  # both languages come first
        assert focused(page) != "pick"
        browser.press(TAB)
    assert focused(page) == "pick"
    browser.press(ENTER, SPACE)
    assert browser.run("return window.opened") == 2
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.give("paste", CHELSEA, COFFEE)
    page.cards(2)
    browser.press(TAB, TAB)
    assert focused(page) == "card"
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press(TAB)
    assert focused(page) == "remove"
    browser.press(DELETE)
    [card] = page.cards(1)
    assert (card["name"], focused(page)) == ("coffee.jpg", "card")
    browser.press(TAB, ENTER)
    assert (page.cards(0), focused(page), page.is_shown("#clear")) == ([], "pick", False)
    page.give("paste", CHELSEA)
    page.cards(1)
    browser.press(TAB, SPACE)
    assert (page.cards(0), focused(page)) == ([], "pick")
    browser.press(TAB, holding=SHIFT)
    assert browser.run("return document.activeElement.dataset.language") == "zh"


def test_a_phone_has_one_column_and_a_camera(page: Page, tmp_path: Path) -> None:
    assert not page.is_shown("#photo")
    long = tmp_path / f"{'a_long_name' * 12}.jpg"
    long.write_bytes(CHELSEA.read_bytes())
    page.browser.resize(*PHONE)
    page.pick(CHELSEA, long)
    page.cards(2)
    assert page.is_shown("#photo")
    assert page.browser.run("return document.querySelector('#camera').getAttribute('capture')") == "environment"
    assert page.browser.run("return [document.documentElement.scrollWidth, innerWidth]") == [PHONE[0]] * 2
    edges = "return [...document.querySelectorAll('.card')].map(e => e.getBoundingClientRect().left)"
    assert len(set(page.browser.run(edges))) == 1
    page.browser.screenshot(tmp_path / "phone.png")
    page.browser.resize(*DESKTOP)
    assert len(set(page.browser.run(edges))) == 2
    page.browser.type("#camera", str(COFFEE))
    assert_answered(page.cards(3)[2], COFFEE, page.server)


PIXELS = """
const canvas = document.querySelector(".card canvas"), image = document.querySelector(".card img");
const [c, i] = [canvas, image].map(e => e.getBoundingClientRect()), {width, height} = canvas;
const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
const at = (x, y) => [...data.slice(4 * (Math.floor(y * height) * width + Math.floor(x * width))).slice(0, 4)];
return {
  box: [(c.left - i.left) / i.width, (c.top - i.top) / i.height,
    (c.right - i.left) / i.width, (c.bottom - i.top) / i.height],
  ratio: i.width / i.height,
  hot: at(5 / 6, 1 / 4), cold: at(1 / 6, 3 / 4), row: [0, 1, 2, 3, 4, 5, 6].map(n => at(1 / 6 + n / 9, 1 / 4)),
};
"""


def test_an_attention_map_lies_over_what_the_model_saw(page: Page, tmp_path: Path) -> None:
    """Of 2 x 3 cells the last of the first row has all attention."""
    page.intercept("""async (path, options, real) => {
      const values = await (await real(path.replace("&attention=true", ""), options)).json(); // its model has none
      if (path === "v1/model") return Response.json({...values, attention: true});
      window.asked = path;
      values.predictions[0].attention = {rows: 2, cols: 3, values: [0, 0, 1, 0, 0, 0], box: [0.25, 0.1, 0.75, 1]};
      return Response.json(values);
    }""")
    page.pick(CHELSEA)
    page.cards(1)
    page.browser.wait("document.querySelector('.card canvas').checkVisibility()")
    assert page.browser.run("return window.asked") == "v1/classify?top_k=5&attention=true"
    found = page.browser.run(PIXELS)
    assert found["box"] == pytest.approx([0.25, 0.1, 0.75, 1], abs=0.01)
    assert found["ratio"] == pytest.approx(451 / 300, abs=0.01)
    assert found["hot"] == pytest.approx([*map(int, colour(np.array(0.97))), 153], abs=15)  # near its centre
    assert found["cold"] == pytest.approx([*map(int, colour(np.array(0.0))), 153], abs=3)
    greens = [pixel[1] for pixel in found["row"]]
    assert greens == sorted(greens)
    assert len(set(greens)) > 3  # smooth, from cell to cell
    page.browser.screenshot(tmp_path / "attention.png")
    page.browser.click(".card .attention")
    assert not page.is_shown(".card canvas")
    assert page.browser.run("return document.querySelector('.card .attention').ariaPressed") == "false"


def test_without_a_map_there_is_nothing_to_show_or_hide(page: Page) -> None:
    page.pick(CHELSEA)
    page.cards(1)
    assert not page.is_shown(".card .attention")
    assert not page.is_shown(".card canvas")
    assert [url for url in page.browser.requested() if "classify" in url] == [f"{page.url}v1/classify?top_k=5"]
    page.open()  # what it asked for was looked at already
