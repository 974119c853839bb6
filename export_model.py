"""Exports a checkpoint for deployment: programs in both of Paddle's formats, parameters, and a manifest.

    python export_model.py --model cvt_13_224x224 --output DIR --resume CHECKPOINT

    python export_model.py --resume CHECKPOINT --output DIR --format onnx
    python export_model.py --resume CHECKPOINT --output DIR --int8 FOLDER_OF_PICTURES

    python export_model.py --resume CHECKPOINT --output DIR --attention

Each program is run on the spot and compared with the model. The output is logits, with --attention also a map.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from util import options, runtime
from util.errors import UsageError, run_script
from util.interrupts import Interrupts
from util.settings import Settings, parse
from util.weights.sources import list_if_asked

if TYPE_CHECKING:
    from util.deploy.manifest import Manifest
    from util.restore import Trained


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    export: options.ExportOptions
    names: options.ClassNamesOptions
    preprocess: options.PreprocessOptions
    model: options.ModelOptions
    weights: options.WeightsOptions
    ema: options.EmaChoiceOptions
    threads: options.ThreadOptions


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(ExportSettings, argv, description=__doc__ or "")
    if list_if_asked(settings.weights.pretrained):
        return
    if settings.export.output is None:
        raise UsageError("no output: name the folder for the exported files with --output")
    arithmetic = runtime.start(settings.threads.cpu_threads)
    Interrupts(lambda: "the export was not finished").listen()  # so that nothing unfinished is left

    # What imports paddle comes after `runtime.start`, which sets what Paddle reads when it loads.
    import models
    from models.attention_maps import Attended
    from models.deploy import deployed
    from util import distributed
    from util.deploy.bundle import INT8, load_bundle
    from util.deploy.calibration import read_calibration
    from util.deploy.export import export
    from util.deploy.onnx_export import check_packages
    from util.deploy.triton import version_folder, write_model
    from util.log import start_logging
    from util.restore import chosen_weights, restore

    log = start_logging(is_main=True)
    distributed.start("cpu")  # the written programs do not depend on the device
    trained = restore(
        chosen_weights(settings.weights, settings.on_command_line),
        settings.model,
        settings.preprocess,
        use_ema=settings.ema.use_ema,
        names_file=settings.names.class_names,
        registry=models,
    )
    _, height, width = trained.preprocessing.input_size
    open_size = settings.export.dynamic_size
    if open_size and trained.model.position_tables():
        raise UsageError(
            f"--dynamic_size: {trained.name} has a position for each patch of images of {height} x {width}; leave it "
            "out, and export once for each --input_size"
        )
    if open_size and settings.export.attention:
        raise UsageError(
            "--attention: a map has the grid of one size; leave out --dynamic_size, export once for each --input_size"
        )
    if open_size and not settings.export.fold and settings.export.format != "paddle":
        raise UsageError("--no_fold with --dynamic_size cannot be written as ONNX: paddle2onnx ends in a crash")
    folder = Path(settings.export.output)
    chosen = settings.export
    onnx = chosen.format != "paddle"
    if onnx or chosen.int8 is not None:
        check_packages()
    calibration = None
    if chosen.int8 is not None:
        calibration = read_calibration(chosen.int8, trained.preprocessing.transform(), at_most=chosen.int8_images)
    sizes = [(height, width), (height + 16, width + 48)] if open_size else [(height, width)]
    manifest = manifest_of(trained, open_size=open_size, licence=chosen.licence)
    if chosen.format == "triton":
        if folder.suffix == ".zip":
            raise UsageError("--format triton writes a folder, the model repository; got an --output that ends in .zip")
        repository, folder = folder, version_folder(folder, manifest)
    differences = export(
        trained.model,
        manifest,
        folder,
        threads=arithmetic.threads,
        sizes=sizes,
        form=deployed(trained.model, attention=chosen.attention) if chosen.fold else None,
        attended=Attended(trained.model) if chosen.attention else None,
        onnx=onnx,
        calibration=calibration,
    )
    if chosen.format == "triton":
        write_model(repository, load_bundle(folder).manifest)
    for program, difference in differences.items():
        log.info(f"{folder / program}: largest difference from the model {difference:.2e}")
    if calibration is not None:
        figures = load_bundle(folder).manifest.int8
        log.info(
            f"{folder / INT8}: its best class is that of fp32 for {100 * figures['agreement']:.2f} % of "
            f"{figures['held_out_images']} pictures that it was not calibrated with"
        )
    if chosen.format == "triton":
        log.info(f"serve it: tritonserver --model-repository {shlex.quote(str(repository))}")
    log.info(f"run it: python infer.py --model_dir {shlex.quote(str(folder))} --input_file IMAGE")


def manifest_of(trained: "Trained", *, open_size: bool, licence: str | None) -> "Manifest":
    """Returns what `export.json` will say, before the files are written: no hashes, no int8, no attention."""
    import paddle

    from util.deploy.manifest import Manifest

    channels, height, width = trained.preprocessing.input_size
    return Manifest(
        model=trained.name,
        input_shape=(None, channels, None, None) if open_size else (None, channels, height, width),
        input_dtype="float32",
        num_classes=trained.num_classes,
        class_names=tuple(trained.class_names),
        preprocess=trained.preprocessing.to_plain(),
        sha256={},
        numerics=trained.model.numerics(),
        card=trained.card if licence is None else replace(trained.card, licence=licence),
        versions={"paddle": paddle.__version__},
    )


if __name__ == "__main__":
    run_script(main)
