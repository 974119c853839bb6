"""Measures serve.py on this machine: throughput, latency, overload, slow clients.

    python -m bench.serving [--model cvt_13_224x224] [--engine auto] [--json FILE]

The model has random weights. Clients are in this process and share the machine's cores with the server, which is what
limits small models here. Throughput and latency are measured in turns with infer.py's code on the same pictures. It
takes five minutes, and nothing else should run meanwhile.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import comparisons
from bench.load import Told, closed_loops, open_loop, quantile, rate, run, slow_bodies, slow_heads, slow_readers
from bench.machine import describe
from bench.photographs import shared_photographs
from bench.server import Server
from bench.side import Served

HEALTHY = 4  # clients beside the slow ones
SLOW = 200
CONNECTIONS = 400  # of an overload; where all of them wait, nothing is sent
Figures = dict[str, float]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cvt_13_224x224")
    parser.add_argument("--engine", default="auto", choices=("auto", "paddle", "openvino", "onnxruntime"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the engine")
    parser.add_argument("--only", metavar="TEXT", default="", help="measures whose name has this regular expression")
    parser.add_argument("--pairs", type=int, default=5, help="of throughput and latency")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--clients", type=int, default=32, help="that saturate the server")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    return parser.parse_args(argv)


def answered(told: Sequence[Told], status: int = 200) -> list[Told]:
    return [t for t in told if t.status == status]


def throughput(server: Server, images: Sequence[bytes], job: Served, *, clients: int, pairs: int) -> Figures:
    """Returns pictures a second of a saturated server and of infer.py's job on the same files, and their ratio."""
    rates, jobs = [], []
    for _ in range(pairs):
        jobs.append(job.measure())
        told = run(lambda: closed_loops(server.port, images, clients=clients, seconds=8.0))
        rates.append(rate(told, 8.0))
    ratios = [rate / other for rate, other in zip(rates, jobs, strict=True)]
    return {
        "served a second": statistics.median(rates),
        "infer.py's job a second": statistics.median(jobs),
        "ratio": statistics.median(ratios),
        "least ratio": min(ratios),
        "greatest ratio": max(ratios),
    }


def latency(server: Server, image: bytes, direct: Served, *, pairs: int) -> Figures:
    """Returns milliseconds of a lone request, and of the same picture without a server: decoding, model, top 5."""
    served, alone = [], []
    for _ in range(pairs):
        alone.append(1e3 * direct.measure())
        served.append(1e3 * quantile(run(lambda: closed_loops(server.port, [image], clients=1, requests=40)), 0.5))
    added = [one - other for one, other in zip(served, alone, strict=True)]
    return {
        "lone request (ms)": statistics.median(served),
        "without a server (ms)": statistics.median(alone),
        "added (ms)": statistics.median(added),
        "least added (ms)": min(added),
        "most added (ms)": max(added),
    }


def overload(server: Server, images: Sequence[bytes], *, clients: int, seconds: float) -> Figures:
    """Returns what becomes of four times as many requests as can be answered."""
    closed = run(lambda: closed_loops(server.port, images, clients=clients, seconds=10.0))
    peak = rate(closed, 10.0)
    before = server.use().megabytes
    with server.watched() as seen:
        told = run(lambda: open_loop(server.port, images, rate=4 * peak, seconds=seconds, connections=CONNECTIONS))
    good, refused = answered(told), answered(told, 503)
    return {
        "peak a second": peak,
        "sent a second": len(told) / seconds,
        "answered a second": rate(told, seconds),
        "goodput": rate(told, seconds) / peak,
        "accepted p50 (s)": quantile(good, 0.5),
        "accepted p99 (s)": quantile(good, 0.99),
        "accepted, slowest (s)": quantile(good, 1.0),
        "refused p50 (ms)": 1e3 * quantile(refused, 0.5),
        "refused p99 (ms)": 1e3 * quantile(refused, 0.99),
        "neither": float(len(told) - len(good) - len(refused)),
        "memory grown (MB)": max(seen) - before,
    }


def slow_clients(server: Server, image: bytes) -> Figures:
    """Returns the 99th percentile of a few clients' requests, alone and beside many slow ones of each kind."""

    def healthy() -> float:
        return 1e3 * quantile(run(lambda: closed_loops(server.port, [image], clients=HEALTHY, seconds=8.0)), 0.99)

    async def beside(slow: object) -> list[Told]:
        others = asyncio.create_task(slow(server.port, count=SLOW, seconds=8.0))  # type: ignore[operator]
        await asyncio.sleep(0.5)
        told = await closed_loops(server.port, [image], clients=HEALTHY, seconds=7.0)
        await others
        return told

    found = {"alone p99 (ms)": healthy()}
    for name, slow in (("heads", slow_heads), ("bodies", slow_bodies), ("readers", slow_readers)):
        told = run(lambda slow=slow: beside(slow))  # type: ignore[misc]
        found[f"beside {SLOW} slow {name} p99 (ms)"] = 1e3 * quantile(told, 0.99)
        found[f"not answered beside slow {name}"] = float(len(told) - len(answered(told)))
    found["alone again p99 (ms)"] = healthy()
    return found


@contextlib.contextmanager
def sides(model_dir: str, pictures: Sequence[Path], *, engine: str, threads: int) -> Iterator[tuple[Served, Served]]:
    """Starts infer.py's job and the lone picture, each in a process that waits while the other side is measured."""
    words = ("--model_dir", model_dir, "--images", str(pictures[0].parent), "--engine", engine)
    both = [Served(sys.executable, "job_ours.py", (what, *words, "--threads", str(threads))) for what in ("job", "one")]
    try:
        yield both[0], both[1]
    finally:
        for side in both:
            side.close()


def main(argv: Sequence[str] | None = None) -> None:
    given = parse(argv)
    print(describe(None, threads=given.threads), flush=True)
    pictures = shared_photographs()
    images = [path.read_bytes() for path in pictures]
    program = "model.onnx" if given.engine == "onnxruntime" else "model.pdmodel"
    model_dir = comparisons.exported_by_us(given.model, program)
    figures: dict[str, Figures] = {}

    def tell(name: str, found: Figures) -> None:
        figures[name] = found
        print(f"\n{name}", *(f"  {key:40} {value:10.2f}" for key, value in found.items()), sep="\n", flush=True)

    with (
        tempfile.TemporaryDirectory() as folder,
        sides(model_dir, pictures, engine=given.engine, threads=given.threads) as (job, one),
    ):
        server = Server(model_dir, engine=given.engine, threads=given.threads, log=Path(folder, "log"))
        try:
            server.wait_ready(images[0])
            measures: dict[str, Callable[[], Figures]] = {
                "throughput": lambda: throughput(server, images, job, clients=given.clients, pairs=given.pairs),
                "latency": lambda: latency(server, images[0], one, pairs=given.pairs),
                "slow clients": lambda: slow_clients(server, images[0]),
                "overload": lambda: overload(server, images, clients=given.clients, seconds=given.seconds),
            }
            for name, measure in measures.items():
                if re.search(given.only, name):
                    tell(name, measure())
        finally:
            code = server.stop()
        print(f"\nstopped with {code}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
