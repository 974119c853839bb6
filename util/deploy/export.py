"""Writing an exported model: both static formats and ONNX, checked against the model on the spot."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from paddle.static import InputSpec

from util.deploy.archive import SUFFIX, pack
from util.deploy.bundle import INFERENCE_YML, INT8, ONNX, PARAMS, PROGRAMS, Program
from util.deploy.calibration import Calibration
from util.deploy.engines import onnxruntime_engine, paddle_engine
from util.deploy.inference_yml import LINKS, link_programs, write_inference_yml
from util.deploy.manifest import MANIFEST, Manifest, file_sha256
from util.deploy.onnx_export import check_packages, write_int8, write_onnx
from util.errors import MismatchError, NonFiniteLossError, OutputError, SaveError, WeightsError
from util.weights.exported import read_parameters

TOLERANCE = 1e-5  # relative to the largest logit
CHECK_BATCHES = (1, 3)
OUTPUTS = ("", "'s attention map")  # as errors call them


def _save_program(model: nn.Layer, stem: Path, shape: tuple[int | None, ...], *, old_format: bool) -> None:
    """Writes `<stem>.pdmodel` or `<stem>.json`, with `<stem>.pdiparams`."""
    spec = InputSpec([-1 if n is None else n for n in shape], "float32", "images")
    guard = paddle.pir_utils.OldIrGuard() if old_format else contextlib.nullcontext()
    # OldIrGuard lets Paddle count names from 0 again: what is built later would have those of this model's weights
    with paddle.utils.unique_name.guard(), guard:
        static = paddle.jit.to_static(model, input_spec=[spec], full_graph=True)
        try:
            paddle.jit.save(static, str(stem))
        finally:
            model.forward = static.forward.rollback()


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder in `target`; nothing of it is left, nor of a new `target` that stayed empty."""
    new: list[Path] = []
    try:
        new = [place for place in (target, *target.parents) if not place.exists()]
        target.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tmp-export-", dir=target))
    except OSError as error:
        _remove_empty(new)
        raise OutputError(f"{target}: cannot be written: {error.strerror}; choose another --output") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(new)


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # there are files in it: the export
            folder.rmdir()


def _check_finite(model: nn.Layer) -> None:
    """Refuses weights with NaN or infinite values."""
    for name, tensor in model.state_dict().items():
        if not np.isfinite(tensor.numpy()).all():
            raise NonFiniteLossError(f"the model's {name} has NaN or infinite values; nothing was written")


def export(
    model: nn.Layer,
    manifest: Manifest,
    folder: Path,
    *,
    threads: int,
    sizes: list[tuple[int, int]],
    form: nn.Layer | None = None,
    attended: nn.Layer | None = None,
    onnx: bool = False,
    calibration: Calibration | None = None,
) -> dict[str, float]:
    """Writes the bundle to `folder`, or to one `.zip`, and returns each program's largest difference from the model.

    manifest: everything but hashes, int8 and attention. sizes: heights and widths to compare at. form: what is written
    in place of the model, with the same forward and other weights. attended: the model with an attention map as its
    second output; then the programs return both, and `form` does, too. onnx: also write `model.onnx`; calibration: and
    `model.int8.onnx`, which is not compared with the model, but its best classes with those of fp32. Beside them go
    `inference.yml` and, in a folder, the names that PaddleX looks for, where its form can say the preprocessing. What
    was there and is not written is removed.

    The programs are run by Paddle Inference and ONNX Runtime on random images at batch 1 and 3; a difference above 1e-5
    of the largest logit, or of 1 in a map, is a MismatchError, NaN or infinity in weights or logits a
    NonFiniteLossError. Then nothing in `folder` changes, and a new one is not left.
    """
    _check_finite(model)
    onnx = onnx or calibration is not None
    if onnx:
        check_packages()
    whole = model if attended is None else attended
    if attended is not None:
        manifest = replace(manifest, attention=_map_grid(attended, manifest))
    is_archive = folder.suffix == SUFFIX
    with _folder_beside(folder.parent if is_archive else folder) as beside:
        try:
            _write(whole if form is None else form, beside, manifest.input_shape, onnx=onnx)
            if form is None:
                manifest = replace(manifest, parameters=_parameter_names(model, beside / PARAMS))
        except OSError as error:
            raise SaveError(f"{folder}: not written: {error.strerror or error}") from None
        try:
            differences = {
                program.path.name: _difference(whole, program, threads, sizes)
                for program in _programs(beside, manifest, onnx=onnx)
            }
        except WeightsError as error:  # Paddle does not notice a full disk while it writes
            raise SaveError(f"{folder}: what was written cannot be read back (is the disk full?): {error}") from None
        try:
            if calibration is not None:
                manifest = replace(manifest, int8=write_int8(beside, manifest, calibration, threads=threads))
            links = []
            if write_inference_yml(beside, manifest) and not is_archive:  # an archive would hold the files twice
                links = link_programs(beside)
            names = [name for name in (*PROGRAMS, PARAMS, ONNX, INT8, INFERENCE_YML) if (beside / name).exists()]
            replace(manifest, sha256={name: file_sha256(beside / name) for name in names}).write(beside)
        except OSError as error:
            raise SaveError(f"{folder}: not written: {error.strerror or error}") from None
        if is_archive:
            _pack(beside, folder, [*names, MANIFEST])
        else:
            _move(beside, folder, [*names, *links, MANIFEST])
    return differences


def _pack(beside: Path, target: Path, names: list[str]) -> None:
    """Puts the files into an archive, which takes its place when it is whole."""
    packed = beside / f"packed{SUFFIX}"
    try:
        pack(beside, names, packed)
        os.replace(packed, target)
    except OSError as error:
        raise SaveError(f"{target}: not written: {error.strerror}") from None


def _move(beside: Path, folder: Path, names: list[str]) -> None:
    """Puts the files in their places, the manifest last, and removes what an export before had and this one has not."""
    name = names[0]
    try:
        for name in names:
            os.replace(beside / name, folder / name)
        for name in {ONNX, INT8, INFERENCE_YML, *LINKS} - set(names):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise SaveError(f"{folder / name}: not written: {error.strerror}") from None


def _programs(folder: Path, manifest: Manifest, *, onnx: bool) -> list[Program]:
    """Returns each program in float32."""
    files = [(name, PARAMS) for name in PROGRAMS] + ([(ONNX, ONNX)] if onnx else [])
    return [Program(path=folder / name, params=folder / params, manifest=manifest) for name, params in files]


def _write(layer: nn.Layer, folder: Path, shape: tuple[int | None, ...], *, onnx: bool) -> None:
    _save_program(layer, folder / "model", shape, old_format=False)
    params = file_sha256(folder / PARAMS)
    _save_program(layer, folder / "model", shape, old_format=True)
    if file_sha256(folder / PARAMS) != params:
        raise MismatchError("the two formats wrote different parameters; please report this with your Paddle version")
    if onnx:
        write_onnx(folder)


def _parameter_names(model: nn.Layer, params: Path) -> tuple[str | None, ...]:
    """Returns the structured names of the tensors in a parameters file, in its order; None for other buffers.

    Paddle orders them by its own names. What it does not document is checked: every tensor must be the model's.
    """
    weights = model.state_dict()
    own = {tensor.name: None for tensor in model.buffers()} | {tensor.name: name for name, tensor in weights.items()}
    names = tuple(own[paddle_name] for paddle_name in sorted(own))
    stored = read_parameters(params, names)
    if any(not np.array_equal(stored[name], tensor.numpy()) for name, tensor in weights.items()):
        raise MismatchError(
            "the parameters file is in an unexpected order; please report this with your Paddle version"
        )
    return names


@paddle.no_grad()
def _map_grid(attended: nn.Layer, manifest: Manifest) -> tuple[int, ...]:
    """Returns rows and columns of the map of one image."""
    _, attention = attended(paddle.zeros([1, *manifest.preprocessing().input_size]))
    return tuple(attention.shape[1:])


@paddle.no_grad()
def _difference(model: nn.Layer, program: Program, threads: int, sizes: list[tuple[int, int]]) -> float:
    if program.path.name == ONNX:
        forward = onnxruntime_engine(program, threads=threads)
    else:
        forward = paddle_engine(program, device="cpu", threads=threads, onednn=True)
    rng = np.random.default_rng(0)
    channels = program.manifest.preprocessing().input_size[0]
    largest = 0.0
    for height, width in sizes:
        for batch in CHECK_BATCHES:
            images = rng.standard_normal((batch, channels, height, width), dtype=np.float32)
            outputs = model(paddle.to_tensor(images))
            expected = [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
            if not np.isfinite(expected[0]).all():
                raise NonFiniteLossError("the model gives NaN or infinite logits; nothing was written")
            for i, (found, wanted) in enumerate(zip(forward.outputs(images), expected, strict=True)):
                difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
                limit = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
                if not difference <= limit:
                    raise MismatchError(
                        f"{program.path.name}{OUTPUTS[i]} differs from the model by {difference:.2e} (limit "
                        f"{limit:.2e}) at batch {batch}, {height} x {width}; nothing was written"
                    )
                largest = max(largest, difference)
    return largest
