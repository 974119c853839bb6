"""The page in a headless Chromium: images that are given to it in every way, and what becomes of them."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.serving.browser import ENTER
from tests.serving.conftest import KEY
from tests.serving.page import CHELSEA, COFFEE, GIVE, Page, assert_answered
from tests.serving.served import Serving


def test_a_picked_file_has_the_classes_that_the_server_answers(page: Page) -> None:
    page.pick(CHELSEA)
    [card] = page.cards(1)
    assert_answered(card, CHELSEA, page.server)
    assert card["pixels"] == 451
    assert len(set(card["bars"])) > 1
    assert re.fullmatch(r"\d+ ms from sending to the answer", card["time"])
    facts = page.server.get("/v1/model").values
    assert page.text("#model").split("\n") == ["cvt_nano_32x32", "7 classes", "input 32 × 32", facts["engine"]]
    assert page.text("#count") == "1 of 1 done"
    assert page.text("#news") == f"chelsea.jpg: {card['labels'][0]}, {card['scores'][0]}"


def test_dropped_files_have_cards_in_their_order(page: Page) -> None:
    page.give("drop", COFFEE, CHELSEA)
    found = page.cards(2)
    for card, file in zip(found, (COFFEE, CHELSEA), strict=True):
        assert_answered(card, file, page.server)
    assert found[0]["scores"] != found[1]["scores"]


def test_a_pasted_image_is_classified_wherever_the_focus_is(page: Page) -> None:
    page.browser.run("document.querySelector('[data-language=en]').focus()")
    page.give("paste", CHELSEA)
    assert_answered(page.cards(1)[0], CHELSEA, page.server)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_text_is_no_image_and_a_folder_no_file(kind: str, page: Page) -> None:
    page.give(kind, text="a text")
    assert page.text("#message").startswith("That was not an image file")
    folders = "DataTransferItem.prototype.webkitGetAsEntry = function() { return {isDirectory: %s} }"
    page.browser.run(folders % "true")
    page.give(kind, CHELSEA)
    assert page.text("#message").startswith("Folders cannot be dropped")
    assert page.cards(0) == []
    page.browser.run(folders % "false")
    page.give(kind, CHELSEA)
    page.cards(1)
    assert not page.is_shown("#message")


def test_an_unreadable_file_has_the_reason_on_its_card(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "notes.jpg"
    bad.write_text("no image\n")
    page.pick(bad, CHELSEA)
    failed, good = page.cards(2, without_preview=1)
    page.expected_errors = [r"v1/classify.* 415 "]
    answer = page.server.classify(bad.read_bytes())
    assert (answer.status, f"image 0: {failed['reason']}") == (415, answer.error)
    assert (failed["state"], failed["labels"], failed["preview"], failed["again"]) == ("failed", [], False, False)
    assert_answered(good, CHELSEA, page.server)


def test_what_only_the_server_can_read_has_classes_without_a_preview(page: Page, tmp_path: Path) -> None:
    page.intercept("""(path, options, real) => path === "v1/model" ? real(path, options) : Response.json(
        {predictions: [{label_names: ["<b>bold</b>"], scores: [0.5], attention: {rows: 1, cols: 1, values: [1]}}]})""")
    odd = tmp_path / "<img src=x onerror=throw(1)>.tiff"
    odd.write_bytes(b"II*\0")
    page.pick(odd)
    [card] = page.cards(1, without_preview=1)
    assert (card["preview"], card["name"], card["labels"]) == (False, odd.name, ["<b>bold</b>"])
    assert not page.is_shown(".card .attention")
    assert page.browser.run("return document.querySelectorAll('.card b, .card h2 img').length") == 0


def test_four_images_are_sent_at_a_time_and_cards_keep_their_order(page: Page, tmp_path: Path) -> None:
    """The first image is answered last."""
    page.intercept("""async (path, options, real) => {
      if (path === "v1/model") return real(path, options);
      const place = (window.sent = (window.sent ?? 0) + 1);
      window.now = (window.now ?? 0) + 1;
      window.most = Math.max(window.most ?? 0, window.now);
      await new Promise(done => setTimeout(done, place === 1 ? 400 : 20));
      window.now--;
      return Response.json({predictions: [{label_names: [options.body.name], scores: [1]}]});
    }""")
    files = [tmp_path / f"{i}.jpg" for i in range(7)]
    for file in files:
        file.write_bytes(b"x")
    page.pick(*files)
    found = page.cards(7, without_preview=7)
    assert [(card["name"], card["labels"]) for card in found] == [(file.name, [file.name]) for file in files]
    assert page.browser.run("return [window.sent, window.most]") == [7, 4]


def test_a_busy_server_is_asked_once_more_and_then_when_the_user_says_so(page: Page) -> None:
    """Time does not pass by itself here."""
    page.intercept("""async (path, options, real) => {
      if (path === "v1/model" || window.sent === 2) return real(path, options);
      window.sent = (window.sent ?? 0) + 1;
      return Response.json({error: "image 0: busy " + window.sent}, {status: 503, headers: {"Retry-After": "7"}});
    }""")
    page.browser.run("""const now = window.setTimeout;
        window.setTimeout = (what, ms) => ms < 1000 ? now(what, ms) : (window.delayed = {what, ms})""")
    page.pick(CHELSEA)
    page.browser.wait("window.delayed")
    assert page.browser.run("return [window.delayed.ms, window.sent]") == [7000, 1]
    assert page.text(".card .state") == "Not answered yet; tried again after 7 s"
    assert (page.text(".card .reason"), page.is_shown(".card .again")) == ("busy 1", True)
    page.browser.run("window.delayed.what(); window.delayed = null")
    [card] = page.cards(1)
    assert (card["state"], card["reason"], card["again"]) == ("failed", "busy 2", True)
    assert page.browser.run("return window.delayed") is None
    page.browser.click(".card .again")
    page.browser.wait("document.querySelector('[data-state=done]')")
    [card] = page.cards(1)
    assert_answered(card, CHELSEA, page.server)
    assert (card["reason"], card["again"]) == (None, False)


@pytest.mark.parametrize(("answer", "reason", "again"), [
    ("Promise.reject(new TypeError('Failed to fetch'))", "The server cannot be reached", True),
    ("new Response('<h1>Bad gateway</h1>', {status: 502})", "The server answered with status 502", True),
    ("Response.json({error: 'too large'}, {status: 413})", "too large", False),
    ("Response.json({error: 'not in time'}, {status: 408})", "not in time", True),
    ("Response.json({})", "The server answered with status 200", False),
])  # fmt: skip
def test_other_failures_are_named(answer: str, reason: str, again: bool, page: Page) -> None:
    page.intercept(f"async (path, options, real) => path === 'v1/model' ? real(path, options) : {answer}")
    page.pick(CHELSEA)
    [card] = page.cards(1)
    assert (card["state"], card["reason"], card["again"]) == ("failed", reason, again)


def test_the_key_is_asked_for_and_kept_nowhere(locked_page: Page) -> None:
    page, browser = locked_page, locked_page.browser
    page.expected_errors = [r" 401 "]
    page.intercept("""async (path, options, real) => {
      if (!window.begin) await new Promise(done => window.begin = done); // the first request, for the model
      return real(path, options);
    }""")
    page.pick(CHELSEA)
    browser.wait("document.querySelector('[data-state=waiting]')")
    browser.run("window.begin()")
    browser.wait("document.querySelector('[data-state=needsKey]')")
    assert page.text("#key-form label") == "This server asks for an API key"
    assert not browser.run(GIVE, "paste", [], KEY), "the browser cannot paste a key into the field, which has the focus"
    browser.press(*"wrong", ENTER)
    browser.wait("document.querySelector('#key-form label').innerText.includes('not accept')")
    browser.press(*KEY, ENTER)
    assert_answered_with_key(page.cards(1)[0], page.server)
    assert not page.is_shown("#key-form")
    assert page.text("#model").startswith("cvt_nano_32x32")
    kept = "[{...localStorage}, {...sessionStorage}, document.cookie, location.href, document.body.outerHTML]"
    assert KEY not in browser.run(f"return JSON.stringify({kept})")
    assert browser.run("return document.querySelector('#key').value") == ""
    page.open()
    browser.run("window.begin()")
    browser.wait("!document.querySelector('#key-form').hidden")


def test_a_refusal_that_comes_after_the_key_does_not_ask_again(page: Page) -> None:
    """Two images are refused for want of a key, the second one when the key was given already."""
    page.intercept("""async (path, options, real) => {
      if (path === "v1/model" || options.headers["X-API-Key"] === "later") return real(path, options);
      if (options.body.name === "coffee.jpg") await new Promise(done => window.refuse = done);
      return Response.json({error: "no key"}, {status: 401});
    }""")
    page.pick(CHELSEA, COFFEE)
    page.browser.wait("window.refuse && document.querySelector('[data-state=needsKey]')")
    page.browser.press(*"later", ENTER)
    page.browser.wait("document.querySelector('[data-state=done]')")
    page.browser.run("window.refuse()")
    for card, file in zip(page.cards(2), (CHELSEA, COFFEE), strict=True):
        assert_answered(card, file, page.server)
    assert not page.is_shown("#key-form")


def assert_answered_with_key(card: dict[str, Any], server: Serving) -> None:
    [wanted] = server.classify(CHELSEA.read_bytes(), X_API_Key=KEY).predictions
    assert (card["state"], card["labels"]) == ("done", wanted["label_names"])


def test_removed_images_leave_nothing_behind(page: Page) -> None:
    page.intercept("""(path, options, real) => {
      if (path === "v1/model") return real(path, options);
      return new Promise((_, refuse) => options.signal.addEventListener("abort", () => {
        window.stopped = (window.stopped ?? 0) + 1;
        refuse(options.signal.reason);
      }));
    }""")
    page.browser.run("""window.urls = new Set();
        const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = file => { const url = make(file); window.urls.add(url); return url; };
        URL.revokeObjectURL = url => { window.urls.delete(url); revoke(url); };""")
    page.give("drop", *[CHELSEA] * 6)
    page.browser.wait("document.querySelectorAll('[data-state=sent]').length === 4")
    assert page.browser.run("return window.urls.size") == 6
    page.browser.click(".card:nth-child(2) .remove")
    page.browser.wait("document.querySelectorAll('[data-state=sent]').length === 4")
    assert page.browser.run("return [window.urls.size, window.stopped]") == [5, 1]
    page.browser.click("#clear")
    page.browser.wait("window.stopped === 5")
    assert page.browser.run("return window.urls.size") == 0
    assert page.cards(0) == []


def test_a_server_that_was_away_is_asked_for_its_model_again(page: Page) -> None:
    page.intercept("""async (path, options, real) => {
      if (path !== "v1/model" || window.wasAway) return real(path, options);
      window.wasAway = true;
      throw new TypeError("Failed to fetch");
    }""")
    page.browser.wait("document.querySelector('#message').innerText === 'The server cannot be reached'")
    assert page.text("#model") == ""
    page.pick(CHELSEA)
    page.cards(1)
    page.browser.wait("document.querySelector('#model').innerText.startsWith('cvt_nano_32x32')")
    assert not page.is_shown("#message")


def test_a_file_is_an_image_by_its_content_alone(page: Page, tmp_path: Path) -> None:
    """Sent as JSON, this one would be answered: the server takes images in JSON, too."""
    file = tmp_path / "image.json"
    file.write_text(json.dumps({"image": base64.b64encode(CHELSEA.read_bytes()).decode()}))
    assert page.server.classify(file.read_bytes(), kind="application/json").status == 200
    plain = tmp_path / "no_extension"
    plain.write_bytes(CHELSEA.read_bytes())
    page.give("drop", file, plain)
    page.expected_errors = [r"v1/classify.* 415 "]
    first, second = page.cards(2, without_preview=1)
    assert (first["state"], second["state"]) == ("failed", "done")
    assert first["reason"].startswith("is not an image")
    assert_answered(second, plain, page.server)


def test_other_places_are_kept_out_and_would_be_seen(page: Page) -> None:
    script = "window.wasThrown = false; setTimeout(() => { window.wasThrown = true; throw Error('oops') })"
    page.browser.run(f"fetch('http://127.0.0.1:9/').catch(() => 0); {script}")
    page.browser.wait("window.wasThrown")
    errors = "\n".join(page.browser.errors())
    assert "Content Security Policy" in errors
    assert "oops" in errors
    assert [url for url in page.browser.requested() if ":9/" in url] == []
    page.browser.open("data:text/html,<img src='http://127.0.0.1:9/elsewhere'>")
    page.browser.errors()
    assert "http://127.0.0.1:9/elsewhere" in page.browser.requested()
    page.open()
