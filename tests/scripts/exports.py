"""A small exported model for tests of infer.py."""

from pathlib import Path

from safetensors.numpy import save_file

from models import create_model
from tests.scripts.run import run


def export_random(folder: Path) -> None:
    """Writes an export of cvt_nano_32x32 with ten classes and random weights to `model` in the folder."""
    state = create_model("cvt_nano_32x32", num_classes=10).state_dict()
    save_file({key: value.numpy() for key, value in state.items()}, folder / "weights.safetensors")
    run("export_model.py", "--model", "cvt_nano_32x32", "--pretrained", "weights.safetensors", "--output", "model",
        "--num_classes", "10", cwd=folder)  # fmt: skip
