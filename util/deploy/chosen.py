"""From settings to a verified program, its engine, and what its images and classes are. Imports no paddle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util import runtime
from util.data.class_names import read_class_names
from util.data.preprocessing import Preprocessing, resolve_preprocessing
from util.deploy.bundle import Program, load_bundle
from util.deploy.engine_choice import Engine, choose_engine, may_have_gpu
from util.deploy.foreign import find_foreign, load_foreign
from util.deploy.manifest import check_input_size
from util.options import ClassNamesOptions, EngineOptions, PreprocessOptions


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What infer and serve run.

    is_foreign: whether it is another project's program, without a manifest; then notes are what was found out about it,
    for standard error, a line each.
    """

    program: Program
    engine: Engine
    device: str
    preprocessing: Preprocessing
    class_names: Sequence[str]
    is_foreign: bool = False
    notes: tuple[str, ...] = ()


def choose(
    model: EngineOptions,
    names: ClassNamesOptions,
    preprocess: PreprocessOptions,
    *,
    device: str,
    cpu_threads: int | None,
) -> Chosen:
    """Returns what the settings name, verified before native code reads any of it.

    device: as `--device`; Paddle is loaded only where it must be asked which there is. cpu_threads: as `--cpu_threads`.
    """
    if device == "auto" and (model.engine in ("openvino", "onnxruntime") or not may_have_gpu()):
        device = "cpu"  # known without loading Paddle
    elif device != "cpu":
        runtime.start(cpu_threads)
        device = runtime.resolve_device(device)
    foreign = find_foreign(Path(model.place))
    if foreign is not None:
        return _choose_foreign(foreign, model, names, preprocess, device=device)
    bundle = load_bundle(model.place, params=model.params_file)
    engine = choose_engine(
        model.engine, model.precision, device=device, given=bundle.given, onednn=model.onednn, contents=bundle.contents
    )
    program = bundle.program(engine.programs)
    preprocessing = resolve_preprocessing(preprocess, bundle.manifest.preprocess)
    check_input_size(bundle.manifest, preprocessing)
    class_names: Sequence[str] = bundle.manifest.class_names
    if names.class_names is not None:
        class_names = read_class_names(Path(names.class_names), bundle.manifest.num_classes)
    return Chosen(program=program, engine=engine, device=device, preprocessing=preprocessing, class_names=class_names)


def _choose_foreign(
    path: Path, model: EngineOptions, names: ClassNamesOptions, preprocess: PreprocessOptions, *, device: str
) -> Chosen:
    """Returns another project's program, and what was found out about it."""
    loaded = load_foreign(path, params=model.params_file, preprocess=preprocess, names_file=names.class_names)
    engine = choose_engine(
        model.engine, model.precision, device=device, given=path.name, onednn=model.onednn, contents=loaded.contents
    )
    return Chosen(
        program=loaded.program,
        engine=engine,
        device=device,
        preprocessing=loaded.preprocessing,
        class_names=loaded.program.manifest.class_names,
        is_foreign=True,
        notes=loaded.notes,
    )
