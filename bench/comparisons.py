"""What is compared with what, and the ratios that are aimed at."""

import atexit
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.comparison import Comparison, Side
from bench.photographs import shared_photographs
from bench.side import ROOT, Command, Served, run

TRAIN_FIGURES = {  # unit: what is compared, and how its side is asked for it
    "images/s": ("training step of CvT-13", ()),
    "GB": ("peak memory of that step", ("--memory",)),
    "launches": ("kernels that a GPU would launch for that step", ("--launches",)),
}
PEER_PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "torchvision")


def served(python: str, script: str, *arguments: str) -> Callable[[], Side]:
    """Returns what starts a side: a script of bench/sides under an interpreter."""
    return lambda: Served(python, script, arguments)


def command(*words: str) -> Callable[[], Side]:
    """Returns what starts a side whose figure is the time of a whole command."""
    return lambda: Command(words)


def pipeline(peers: str, *, threads: int) -> list[Comparison]:
    """Images per second and core: file -> batch, for the CvT recipe and for evaluation; and with workers."""
    found = []
    bars = {("train", "fast"): 2.0, ("eval", "fast"): 1.5, ("train", "pil"): None, ("eval", "pil"): None}
    for (what, backend), bar in bars.items():
        found.append(
            Comparison(
                name=f"{what} pipeline, --image_backend {backend}, one core",
                unit="images/s",
                ours=served(sys.executable, "pipeline_ours.py", what, "--image_backend", backend),
                peer_name="timm",
                peer=served(peers, "pipeline_timm.py", what),
                bar=bar,
                needs="timm",
            )
        )
    workers = served(sys.executable, "pipeline_ours.py", "train", "--workers", str(threads))
    alone = served(sys.executable, "pipeline_ours.py", "train", "--workers", "1")
    timms = served(peers, "pipeline_timm.py", "train", "--workers", str(threads))
    for peer_name, peer, aim, needs in (
        ("1 worker of ours", alone, 0.9 * threads, None),
        (f"timm, {threads} workers", timms, None, "timm"),
    ):
        found.append(
            Comparison(
                name=f"train pipeline, {threads} workers", unit="images/s", ours=workers, peer_name=peer_name,
                peer=peer, bar=aim, needs=needs,
            )
        )  # fmt: skip
    return found


def train(peers: str, *, threads: int) -> list[Comparison]:
    """One update of CvT-13 on 224 x 224 pictures, batch 16, AdamW: speed, the process's peak memory, and kernels."""
    given = ("--threads", str(threads))

    def compared(
        peer_name: str, python: str, script: str, *more: str, bar: float | None, needs: str | None = None,
        unit: str = "images/s",
    ) -> Comparison:  # fmt: skip
        name, asked = TRAIN_FIGURES[unit]
        return Comparison(
            name=name, unit=unit, ours=served(sys.executable, "train_ours.py", *given, *asked), peer_name=peer_name,
            peer=served(python, script, *given, *more, *asked), bar=bar, needs=needs,
        )  # fmt: skip

    upstream = ("upstream's model in Paddle", sys.executable, "train_upstream.py")
    return [
        compared("PyTorch", peers, "train_torch.py", bar=1.0, needs="torch"),
        compared("PyTorch, compiled", peers, "train_torch.py", "--compile", bar=None, needs="torch"),
        compared(*upstream, bar=None),
        compared("PyTorch", peers, "train_torch.py", bar=1.0, needs="torch", unit="GB"),
        compared(*upstream, bar=None, unit="GB"),
        compared(*upstream, bar=2.0, unit="launches"),
    ]


def infer(peers: str, *, threads: int) -> list[Comparison]:
    """Engines on exported models, batch 1 and 16: OpenVINO on other projects' exports, upstream's path; a whole job."""
    found = [row for batch in (1, 16) for row in _engines(peers, batch=batch, threads=threads)]
    for engine in ("paddle", "auto"):
        found.append(
            Comparison(
                name=f"infer.py on 160 pictures, --engine {engine}", unit="images/s", ours=job("job", engine, threads),
                peer_name="its engine alone", peer=job("engine", engine, threads), bar=0.95,
            )
        )  # fmt: skip
    return found


def _engines(peers: str, *, batch: int, threads: int) -> list[Comparison]:
    words = ("--batch_size", str(batch), "--threads", str(threads))

    def ours(*more: str, model: str = "cvt_13_224x224", program: str = "model.pdmodel") -> Callable[[], Side]:
        return lambda: Served(
            sys.executable, "infer_ours.py", ("--model_dir", exported_by_us(model, program), *more, *words)
        )

    def openvino(model: str) -> Callable[[], Side]:
        return lambda: Served(peers, "infer_openvino.py", ("--onnx", exported_by_torch(peers, model), *words))

    def onnxruntime(model: str) -> Callable[[], Side]:
        return lambda: Served(peers, "infer_onnxruntime.py", ("--onnx", exported_by_torch(peers, model), *words))

    def compared(
        name: str, mine: Callable[[], Side], peer_name: str, peer: Callable[[], Side], bar: float | None,
        needs: str | None = None,
    ) -> Comparison:  # fmt: skip
        return Comparison(
            name=f"{name}, batch {batch}", unit="images/s", ours=mine, peer_name=peer_name, peer=peer, bar=bar,
            needs=needs,
        )  # fmt: skip

    within, int8 = ("--engine", "openvino", "--within_paddle"), ours("--precision", "int8", program="model.int8.onnx")
    return [
        compared("CvT-13 in Paddle Inference", ours(*within), "OpenVINO, official model", openvino("cvt_13"), 1.0,
                 "openvino"),
        compared("CvT-13, --engine auto", ours(), "OpenVINO, official model", openvino("cvt_13"), 1.0, "openvino"),
        compared("CvT-13 in Paddle Inference", ours(*within), "upstream's model with oneDNN",
                 served(sys.executable, "infer_upstream.py", *words), 1.6),
        compared("CvT-13 in Paddle Inference", ours(*within), "that with our allocator's settings",
                 served(sys.executable, "infer_upstream.py", "--our_memory", *words), None),
        compared("CvT-13, --engine auto", ours(), "ONNX Runtime, official model", onnxruntime("cvt_13"), None,
                 "onnxruntime"),
        compared("CvT-13, --engine auto", ours(), "PyTorch", served(peers, "infer_torch.py", *words), None, "torch"),
        compared("CvT-13, bf16", ours("--precision", "bf16"), "ours in fp32", ours(), 1.5),
        compared("CvT-13, int8", int8, "ours in bf16", ours("--precision", "bf16"), 1.3),
        compared("CvT-13, int8", int8, "ours in fp32", ours(), None),
        compared("ConViT-tiny, --engine auto", ours(model="convit_tiny"), "OpenVINO, timm's model",
                 openvino("convit_tiny"), 1.0, "openvino"),
        compared("ViT-B/32, --engine auto", ours(model="vit_b_32_224"), "OpenVINO, timm's model",
                 openvino("vit_base_patch32_224"), 1.0, "openvino"),
    ]  # fmt: skip


def job(what: str, engine: str, threads: int) -> Callable[[], Side]:
    """Returns what starts a job over photographs with an engine of infer.py, or that engine alone."""

    def start() -> Side:
        folder, pictures = exported_by_us("cvt_13_224x224", "model.pdmodel"), str(shared_photographs()[0].parent)
        words = ("--model_dir", folder, "--images", pictures, "--engine", engine, "--threads", str(threads))
        return Served(sys.executable, "job_ours.py", (what, *words))

    return start


@functools.cache
def exported_by_torch(peers: str, model: str) -> str:
    """Returns the ONNX program that PyTorch writes of the official CvT or a model of timm's."""
    folder = tempfile.mkdtemp(prefix="bench.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = str(Path(folder, f"{model}.onnx"))
    script = str(ROOT / "bench/sides/infer_torch.py")
    run([peers, script, "--model", model, "--write_onnx", path])
    return path


@functools.cache
def exported_by_us(name: str, program: str) -> str:
    """Returns the folder of an export of a random model, with the program that an engine needs."""
    folder = tempfile.mkdtemp(prefix="bench.")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    code = (
        "import sys; from util import runtime; runtime.start(2); from pathlib import Path; from bench.exported import "
    )
    code += "export_random as e; e(sys.argv[1], Path(sys.argv[2]), program=sys.argv[3], threads=2)"
    run([sys.executable, "-c", code, name, folder, program])
    return folder


def startup(peers: str, *, threads: int) -> list[Comparison]:
    """One picture, from the command to its answer on CvT-13, against `import paddle` alone."""

    def answer(engine: str, program: str) -> Side:
        folder = exported_by_us("cvt_13_224x224", program)
        words = ("--model_dir", folder, "--input_file", "demo/chelsea.jpg", "--engine", engine)
        return Command([sys.executable, "infer.py", *words, "--cpu_threads", str(threads)])

    return [
        Comparison(
            name=f"infer.py, one image, --engine {engine}", unit="s", ours=functools.partial(answer, engine, program),
            peer_name="import paddle", peer=command(sys.executable, "-c", "import paddle"), bar=1 / times,
        )
        for engine, program, times in (("paddle", "model.json", 2.3), ("onnxruntime", "model.onnx", 1.0))
    ]  # fmt: skip


def scan(peers: str, *, threads: int) -> list[Comparison]:
    """From a folder of 100,000 files in 1,000 classes to the list of its images: with and without our index."""
    return [
        Comparison(
            name=f"100,000 files, {what}", unit="s", ours=served(sys.executable, "scan_ours.py", *words),
            peer_name="timm", peer=served(peers, "scan_timm.py"), bar=bar, needs="timm",
        )
        for what, words, bar in (("with the index", ("--index",), 1.0), ("without it", (), None))
    ]  # fmt: skip
