"""A model repository for Triton Inference Server, whose ONNX Runtime backend runs the export's `model.onnx`.

    NAME/config.pbtxt    what the model takes and returns, and that requests are batched
    NAME/labels.txt      a class a line, for the classification extension
    NAME/1/              the whole export; Triton reads `model.onnx` of it

Source: Triton's model configuration, https://github.com/triton-inference-server/server (docs/user_guide). Imports no
paddle.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from util.deploy.bundle import ONNX
from util.deploy.engines import tell_nobody
from util.deploy.manifest import Manifest
from util.whole_files import write_text

MAX_BATCH = 16
QUEUE_MICROSECONDS = 1000  # that a request waits for others


def version_folder(repository: Path, manifest: Manifest) -> Path:
    """Returns where the export itself goes."""
    return repository / manifest.model / "1"


def write_model(repository: Path, manifest: Manifest) -> None:
    """Writes what stands beside an export that is in its version folder; a SaveError says why not."""
    place = repository / manifest.model
    write_text(place / "labels.txt", "".join(f"{' '.join(name.split())}\n" for name in manifest.class_names))
    write_text(place / "config.pbtxt", _config(manifest, *_names(place / "1" / ONNX)))


def _names(program: Path) -> tuple[str, list[str]]:
    """Returns the names of an ONNX program's input and outputs."""
    tell_nobody()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
    return session.get_inputs()[0].name, [output.name for output in session.get_outputs()]


def _config(manifest: Manifest, input_name: str, output_names: Sequence[str]) -> str:
    sides = [-1 if side is None else side for side in manifest.input_shape[1:]]
    attention = ""
    if manifest.attention is not None:
        attention = f""",
  {{ name: {json.dumps(output_names[1])} data_type: TYPE_FP32 dims: {_list(manifest.attention)} }}"""
    return f"""name: {json.dumps(manifest.model)}
backend: "onnxruntime"
default_model_filename: "{ONNX}"
max_batch_size: {MAX_BATCH}
input [
  {{ name: {json.dumps(input_name)} data_type: TYPE_FP32 dims: {_list(sides)} }}
]
output [
  {{
    name: {json.dumps(output_names[0])} data_type: TYPE_FP32 dims: {_list([manifest.num_classes])}
    label_filename: "labels.txt"
  }}{attention}
]
dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_MICROSECONDS} }}
"""


def _list(numbers: Sequence[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"
