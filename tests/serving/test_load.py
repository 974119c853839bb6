"""Many clients at once: no answer is wrong, swapped or lost; too many are refused at once; a stop answers what it took.

The short forms run by default, the long ones with `make test-all`.
"""

import io
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.load import closed_loops, open_loop, quantile, run
from tests.scripts.background import SLOWNESS, wait_until
from tests.scripts.run import last_error
from tests.scripts.run import run as run_script
from tests.serving.conftest import NAMES
from tests.serving.served import Answered, Serving, form
from tests.serving.test_classify import CHELSEA, COFFEE
from tests.util.data.test_images_odd import BASELINE, EXACT
from util.deploy.manifest import read_manifest
from util.processes import children

LONG = pytest.mark.slow


def pictures() -> list[bytes]:
    """Returns a hundred files whose answers differ: clouds of colours, of many sizes."""
    rng, files = np.random.default_rng(0), []
    for _ in range(100):
        colours = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        width, height = (int(side) for side in rng.integers(40, 400, 2))
        file = io.BytesIO()
        colours.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


PICTURES = pictures()


@pytest.fixture(scope="module")
def alone(server: Serving) -> list[list[float]]:
    """The scores of each picture, asked for one after the other."""
    found = [server.classify(file, "?top_k=7").predictions[0] for file in PICTURES]
    return [[score for _, score in sorted(zip(f["class_ids"], f["scores"], strict=True))] for f in found]


@pytest.mark.parametrize("requests", [1000, pytest.param(5000, marks=LONG)])
def test_no_answer_is_wrong_swapped_or_lost(requests: int, server: Serving, alone: list[list[float]]) -> None:
    told = run(lambda: closed_loops(server.port, PICTURES, clients=64, requests=requests, query="?top_k=7"))
    assert len(told) == requests
    assert {t.status for t in told} <= {200, 503}
    answered = [t for t in told if t.status == 200]
    assert len(answered) > requests / 2
    for t in answered:
        assert t.values["request_id"] == str(t.image)
        [found] = t.values["predictions"]
        scores = [score for _, score in sorted(zip(found["class_ids"], found["scores"], strict=True))]
        np.testing.assert_allclose(scores, alone[t.image % 100], rtol=0, atol=1e-5)
    spread = np.abs(np.array(alone)[:, None] - np.array(alone)[None]).max(-1)[np.triu_indices(100, 1)]
    assert (spread > 2e-5).mean() > 0.95, "most swapped answers would be seen"
    batches = server.metric("paddle_cvt_batch_images_count")
    assert server.metric("paddle_cvt_batch_images_sum") > 1.5 * batches, "images are computed together"


def test_a_queue_that_is_full_refuses_at_once(exported: Path, tmp_path: Path) -> None:
    options = ("--engine", "onnxruntime", "--max_queue", "4", "--max_batch", "2")
    with Serving(exported, tmp_path, *options) as server:
        server.wait_ready()
        peak = run(lambda: closed_loops(server.port, [BASELINE], clients=4, seconds=2.0))
        rate = len([t for t in peak if t.status == 200]) / 2.0
        told = run(lambda: open_loop(server.port, [BASELINE], rate=min(4 * rate, 800.0), seconds=3.0))
        statuses = {t.status for t in told}
        assert statuses <= {200, 503}
        refused = [t for t in told if t.status == 503]
        assert refused
        assert all("images are waiting" in t.values["error"] for t in refused)
        assert quantile(refused, 0.5) < 0.1 * SLOWNESS
        assert server.classify(BASELINE).status == 200
        assert server.metric("paddle_cvt_held_images") == 0


def test_more_images_than_fit_are_refused_whole(exported: Path, tmp_path: Path) -> None:
    options = ("--engine", "onnxruntime", "--max_queue", "1", "--max_batch", "2")
    with Serving(exported, tmp_path, *options) as server:
        server.wait_ready()
        answer = server.classify(form(*[BASELINE] * 4)[0], kind=form()[1])
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert len(server.classify(form(*[BASELINE] * 3)[0], kind=form()[1]).predictions) == 3


@LONG
def test_an_overload_of_a_minute(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "onnxruntime", "--no_log_requests") as server:
        server.wait_ready()
        closed = run(lambda: closed_loops(server.port, PICTURES, clients=32, seconds=10.0))
        peak = len([t for t in closed if t.status == 200]) / 10.0
        before = Path(f"/proc/{server.pid}/statm").read_text().split()[1]
        told = run(lambda: open_loop(server.port, PICTURES[:1], rate=4 * peak, seconds=60.0, connections=400))
        after = Path(f"/proc/{server.pid}/statm").read_text().split()[1]
        accepted, refused = ([t for t in told if t.status == code] for code in (200, 503))
        print(f"peak {peak:.0f}/s, goodput {len(accepted) / 60:.0f}/s, refused p99 {quantile(refused, 0.99):.3f} s, "
              f"accepted p99 {quantile(accepted, 0.99):.3f} s")  # fmt: skip
        assert len(accepted) + len(refused) == len(told)
        assert accepted
        assert refused
        assert quantile(accepted, 1.0) < 10.0 * SLOWNESS
        assert (int(after) - int(before)) * os.sysconf("SC_PAGE_SIZE") < 100 << 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_accepted(number: signal.Signals, exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "onnxruntime") as server:
        server.wait_ready()
        threading.Timer(1.0, lambda: os.kill(server.pid, number)).start()
        told = run(lambda: closed_loops(server.port, PICTURES, clients=16, seconds=3.0))
        answered = [t for t in told if t.status == 200]
        assert len(answered) >= 8
        # a connection may end between two requests, never after one was read
        assert {t.status for t in told} <= {200, 503, 0}
        logged = [event["status"] for event in server.events("request") if event["path"] == "/v1/classify"]
        assert logged.count(200) == len(answered), "who was accepted is answered, and its client has got it"
        assert set(logged) <= {200, 503}
        assert server.code(12 * SLOWNESS) == 0
        assert [event["event"] for event in server.events("stopped")] == ["stopped"]


def test_what_is_not_answered_when_the_drain_is_over_is_refused(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "onnxruntime", "--drain", "1", "--deadline", "60") as server:
        server.wait_ready()
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGSTOP)
        answers: list[Answered] = []
        asking = threading.Thread(target=lambda: answers.append(server.classify(BASELINE)))
        asking.start()
        wait_until(lambda: server.metric("paddle_cvt_held_images") == 1, "accepted", 5 * SLOWNESS)
        os.kill(server.pid, signal.SIGTERM)
        asking.join()
        assert (answers[0].status, answers[0].error) == (503, "the server is stopping")
        assert server.code(6 * SLOWNESS) == 0
        assert [event["connections"] for event in server.events("drain is over")] == [1]


def test_pictures_that_decode_slowly_are_given_up_at_the_deadline(exported: Path, tmp_path: Path) -> None:
    """What was being decoded for them keeps its places, so that nobody is let in behind it to wait in vain."""
    file = io.BytesIO()
    Image.new("RGB", (6300, 6300)).save(file, "PNG")
    with Serving(exported, tmp_path, "--engine", "onnxruntime", "--deadline", "2") as server:
        server.wait_ready()
        answer = server.classify(form(*[file.getvalue()] * 16)[0], kind=form()[1])
        assert (answer.status, "not computed in time" in answer.error) == (503, True)
        assert answer.seconds < (2 + 2) * SLOWNESS
        wait_until(lambda: server.metric("paddle_cvt_held_images") == 0, "threads free", 20 * SLOWNESS)
        assert server.classify(BASELINE).status == 200


def test_a_stop_while_the_model_is_loaded(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "paddle") as server:
        os.kill(server.pid, signal.SIGTERM)
        assert server.code(12 * SLOWNESS) == 0


def test_an_engine_that_dies_is_replaced(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "onnxruntime") as server:
        server.wait_ready()
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGKILL)
        begun = time.monotonic()
        answer = server.classify(BASELINE)
        assert answer.status in (200, 503)
        assert time.monotonic() - begun < 12 * SLOWNESS
        wait_until(lambda: server.get("/readyz").status == 200, "ready again", 30 * SLOWNESS)
        assert server.classify(BASELINE).status == 200
        assert "signal 9" in server.events("engine failed")[0]["reason"]
        assert children()[server.pid] != [engine]


def test_an_engine_that_dies_while_nobody_asks_is_replaced(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "onnxruntime") as server:
        server.wait_ready()
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGKILL)
        wait_until(lambda: len(server.events("engine ready")) == 2, "ready again", 30 * SLOWNESS)
        assert server.metric("paddle_cvt_engine_deaths_total") == 1
        assert server.classify(BASELINE).status == 200


def test_an_engine_that_is_stuck_is_replaced_and_nobody_waits_for_it(exported: Path, tmp_path: Path) -> None:
    with Serving(exported, tmp_path, "--engine", "onnxruntime", "--deadline", "2") as server:
        server.wait_ready()
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGSTOP)
        answer = server.classify(BASELINE)
        assert (answer.status, "not computed in time" in answer.error) == (503, True)
        assert answer.seconds < (2 + 2) * SLOWNESS
        wait_until(lambda: server.classify(BASELINE).status == 200, "answers again", 30 * SLOWNESS)
        assert engine not in children()[server.pid]


def test_another_export_in_its_place_ends_the_server(exported: Path, tmp_path: Path) -> None:
    """It would answer with the old names and preprocessing."""
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    with Serving(copy, tmp_path, "--engine", "onnxruntime") as server:
        server.wait_ready()
        replace(read_manifest(copy), class_names=NAMES[::-1]).write(copy)
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGKILL)
        assert server.code(30 * SLOWNESS) == 65
        assert "is another export than when the server started" in server.stderr


def test_a_model_that_is_gone_ends_the_server(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    with Serving(copy, tmp_path, "--engine", "onnxruntime") as server:
        server.wait_ready()
        (copy / "model.onnx").write_bytes(b"another")
        [engine] = children()[server.pid]
        os.kill(engine, signal.SIGKILL)
        server.classify(BASELINE)
        assert server.code(30 * SLOWNESS) != 0
        assert "model.onnx is damaged, or of another export" in server.stderr


def test_the_port_of_another_is_one_line(exported: Path, server: Serving, tmp_path: Path) -> None:
    done = run_script(
        "serve.py", "--model_dir", str(exported), "--port", str(server.port), "--engine", "onnxruntime", cwd=tmp_path,
        code=73,
    )  # fmt: skip
    assert f"127.0.0.1:{server.port}: cannot be listened at" in last_error(done)


def test_engines_give_the_same_answers(exported: Path, server: Serving, tmp_path: Path) -> None:
    files = [CHELSEA, COFFEE, *(part[0] for part in list(EXACT.values())[:4])]
    expected = [server.classify(file, "?top_k=7").predictions[0] for file in files]
    for engine in ("paddle", "openvino"):
        with Serving(exported, tmp_path, "--engine", engine, "--engines", "2") as other:
            other.wait_ready()
            for file, wanted in zip(files, expected, strict=True):
                found = other.classify(file, "?top_k=7").predictions[0]
                assert found["class_ids"] == wanted["class_ids"]
                np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=0, atol=1e-5)
