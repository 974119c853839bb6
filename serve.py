"""Serves an exported model over HTTP: images in, classes out.

    python serve.py --model_dir DIR
    curl --data-binary @demo/chelsea.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/v1/classify

It listens at 127.0.0.1 unless --host says otherwise, and ends on SIGTERM when it has answered what it accepted.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from util import options, runtime
from util.deploy.chosen import choose
from util.deploy.engine_choice import is_installed
from util.errors import UsageError, run_script
from util.files import read_text
from util.settings import Settings, parse

REQUIREMENTS = "pip install -r requirements-serve.txt"
KEY_VARIABLE = "PADDLE_CVT_API_KEY"


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Settings):
    model: options.EngineOptions
    serve: options.ServeOptions
    names: options.ClassNamesOptions
    preprocess: options.PreprocessOptions
    device: options.DeviceOptions
    threads: options.ThreadOptions


def read_key(file: str | None) -> str | None:
    """Returns the key that clients must send: from the file, else from the environment; an empty one is refused."""
    key = os.environ.get(KEY_VARIABLE) if file is None else read_text(Path(file))
    key = None if key is None else key.strip()  # headers have no blanks around their values either
    if key is not None and not (key and key.isascii() and key.isprintable()):
        raise UsageError(f"{file or KEY_VARIABLE}: a key is a line of printable ASCII")
    return key


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(ServeSettings, argv, description=__doc__ or "")
    for package in ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        if not is_installed(package):
            raise UsageError(f"serve.py needs {package}: {REQUIREMENTS}")
    model, serve = settings.model, settings.serve
    api_key = read_key(serve.api_key_file)

    # Model: verified here, so that what is wrong is said at once, and again by each process that loads it
    chosen = choose(
        model,
        settings.names,
        settings.preprocess,
        device=settings.device.device,
        cpu_threads=settings.threads.cpu_threads,
    )
    program, engine = chosen.program, chosen.engine

    from util.serving.admission import Admission
    from util.serving.api_key import ApiKey
    from util.serving.app import create_app
    from util.serving.batcher import Batcher, Listeners
    from util.serving.classifier import Classifier, RequestLimits
    from util.serving.engine_process import EngineProcess, EngineSpec, StartError
    from util.serving.metrics import Metrics
    from util.serving.observed import Journal, say
    from util.serving.protocol import Limits
    from util.serving.server import Holder, run, start_log

    # Server
    start_log()
    for note in chosen.notes:
        say("program", note=note)
    spec = EngineSpec(
        place=str(program.path.absolute()),  # the processes work in another folder
        params=str(program.params.absolute()) if chosen.is_foreign or model.params_file is not None else None,
        name=engine.name,
        precision=engine.precision,
        programs=(program.path.name,),
        device=chosen.device,
        threads=max(1, runtime.count_threads(settings.threads.cpu_threads) // serve.engines),
        onednn=model.onednn,
        image_shape=chosen.preprocessing.input_size,
        max_batch=serve.max_batch,
        manifest=asdict(program.manifest),
        is_foreign=chosen.is_foreign,
    )
    metrics, holder = Metrics(), Holder()

    def ready() -> None:
        say("engine ready")

    def died(reason: str) -> None:
        metrics.deaths.inc()
        say("engine failed", reason=reason)

    def computed(images: int, seconds: float) -> None:
        metrics.images.inc(images)
        metrics.batch_images.observe(images)
        metrics.batch_seconds.observe(seconds)

    def make_batcher() -> Batcher:
        try:
            engines = [EngineProcess(spec) for _ in range(serve.engines)]
        except (OSError, ValueError) as error:
            holder.end_with(StartError(f"there is no memory for {serve.engines} engines, or no open file: {error}", 70))
            raise
        return Batcher(
            engines,
            max_batch=serve.max_batch,
            max_queue=serve.max_queue,
            deadline=serve.deadline,
            decode_threads=serve.decode_threads,
            listeners=Listeners(ready=ready, batch=computed, death=died, failure=holder.end_with),
        )

    limits = RequestLimits(
        max_bytes=serve.max_body << 20,
        max_images=serve.max_images,
        max_pixels=serve.max_pixels,
        seconds=serve.deadline,
    )
    classifier = Classifier(
        program.manifest, chosen.class_names, chosen.preprocessing, make_batcher, limits,
        image_shape=chosen.preprocessing.input_size, engine=f"{engine}, {chosen.device}",
        decode_threads=serve.decode_threads,
    )  # fmt: skip
    journal, key = Journal(metrics, serve.log_requests), ApiKey(api_key)
    app, admission = create_app(classifier, journal, key=key), Admission(classifier, journal, key)
    of_connections = Limits(request_seconds=serve.deadline, connections=serve.max_connections)
    run(app, classifier, admission, of_connections, host=serve.host, port=serve.port, drain=serve.drain, holder=holder)


if __name__ == "__main__":
    run_script(main)
