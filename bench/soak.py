"""Keeps serve.py at half of what it can do for an hour, with broken pictures among the good: does anything grow?

    python -m bench.soak [--minutes 60] [--model cvt_nano_32x32] [--engine auto] [--json FILE]

Each minute is a line: answers, those that are not as they should be, memory, open files and threads of the server and
its engine. A good picture's answer must be the one it had at first, a broken one's the same 4xx. At the end come how
memory has grown from the tenth minute on, and the exit code: 1 if an answer was wrong.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench import comparisons
from bench.load import Told, closed_loops, open_loop, quantile, rate, run
from bench.machine import describe
from bench.photographs import shared_photographs
from bench.server import Server, Use

SETTLED = 10  # minutes until caches are filled
GOOD = 95  # of a hundred requests; the others' pictures are broken


@dataclass(frozen=True, kw_only=True)
class Minute:
    """What a minute of requests has come to; wrong: another answer than at first, and no 503. p99: in seconds."""

    sent: int
    refused: int
    wrong: int
    p99: float
    use: Use


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--model", default="cvt_nano_32x32")
    parser.add_argument("--engine", default="auto", choices=("auto", "paddle", "openvino", "onnxruntime"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the engine")
    parser.add_argument("--rate", type=float, help="requests a second; without, half of what the server can answer")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    return parser.parse_args(argv)


def mixed(pictures: Sequence[bytes]) -> list[bytes]:
    """Returns a hundred files, every twentieth of them broken: cut off, of another kind, or without a picture."""
    broken = [pictures[0][:2000], b"no picture", b"\xff\xd8\xff", pictures[1][: len(pictures[1]) // 2], b"GIF89a"]
    files = [pictures[i % len(pictures)] for i in range(GOOD)]
    for i, file in enumerate(broken):
        files.insert(20 * i, file)
    return files


def is_same(told: Told, first: Told) -> bool:
    """Returns whether a picture is answered as it was at first, its scores within 1e-5."""
    if told.status != first.status or told.status == 0:
        return False
    if told.status != 200:
        return bool(told.values["error"] == first.values["error"])
    [found], [expected] = told.values["predictions"], first.values["predictions"]
    return found["class_ids"] == expected["class_ids"] and np.allclose(
        found["scores"], expected["scores"], rtol=0, atol=1e-5
    )


def growth(minutes: Sequence[Minute]) -> float:
    """Returns MB in ten minutes: the slope of a line through the memory from the tenth minute on."""
    settled = [minute.use.megabytes for minute in minutes[SETTLED:]]
    if len(settled) < 2:
        return float("nan")
    return 10 * float(np.polyfit(np.arange(len(settled)), settled, 1)[0])


def soak(server: Server, files: Sequence[bytes], *, wanted: float | None, minutes: int) -> list[Minute]:
    server.wait_ready(files[1])
    first = run(lambda: closed_loops(server.port, files, clients=1, requests=len(files)))
    each = wanted or 0.5 * rate(run(lambda: closed_loops(server.port, files, clients=16, seconds=10.0)), 10.0)
    print(f"{each:.0f} requests a second; {sum(t.status != 200 for t in first)} of {len(files)} pictures are broken")
    print("minute  answers  refused  wrong  p99 (ms)       MB  files  threads", flush=True)
    found: list[Minute] = []
    for i in range(minutes):
        told = run(lambda: open_loop(server.port, files, rate=each, seconds=60.0))
        answered = [t for t in told if t.status != 503]
        wrong = [t for t in answered if not is_same(t, first[t.image % len(files)])]
        for t in wrong[:5]:
            print(f"wrong: picture {t.image % len(files)} after {t.seconds:.3f} s: {t.status} {t.body[:300]!r}")
        refused = len(told) - len(answered)
        found.append(
            Minute(sent=len(told), refused=refused, wrong=len(wrong), p99=quantile(told, 0.99), use=server.use())
        )
        now = found[-1]
        print(f"{i + 1:6} {now.sent:8} {now.refused:8} {now.wrong:6} {1e3 * now.p99:9.1f} {now.use.megabytes:8.1f} "
              f"{now.use.files:6} {now.use.threads:8}", flush=True)  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> None:
    given = parse(argv)
    print(describe(None, threads=given.threads), flush=True)
    files = mixed([path.read_bytes() for path in shared_photographs()])
    program = "model.onnx" if given.engine == "onnxruntime" else "model.pdmodel"
    model_dir = comparisons.exported_by_us(given.model, program)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(model_dir, engine=given.engine, threads=given.threads, log=Path(folder, "log"))
        try:
            minutes = soak(server, files, wanted=given.rate, minutes=given.minutes)
        finally:
            code = server.stop()
    wrong = sum(minute.wrong for minute in minutes)
    refused = sum(minute.refused for minute in minutes)
    print(f"\n{sum(minute.sent for minute in minutes)} answers, {refused} refused, {wrong} wrong; "
          f"{growth(minutes):.2f} MB in ten minutes; stopped with {code}")  # fmt: skip
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(minute) for minute in minutes], indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if wrong or code else 0)


if __name__ == "__main__":
    main()
