"""Writes the small weights files of PyTorch and MindSpore beside this file.

Run once, in an environment with PyTorch 2.15, and once more, in one with MindSpore 2.10:
`python tests/golden/make_weights_files.py torch` and `... mindspore`.
"""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def make_torch() -> None:
    import torch  # type: ignore[import-not-found]

    grid = torch.arange(24.0).reshape(4, 6)
    marked = torch.nn.Parameter(grid[0].clone())
    marked.origin = "here"
    state: Any = OrderedDict(
        plain=grid,
        transposed=grid.t(),
        strided=grid[1:3, ::2],
        half=(grid / 8).half(),
        brain=(grid / 8).bfloat16(),
        double=(grid / 8).double(),
        number=torch.tensor(7),
        parameter=torch.nn.Parameter(grid[0].clone()),
        marked=marked,
        empty=torch.zeros(0, 3),
        flags=torch.tensor([True, False]),
        unsigned=torch.tensor([1, 65535], dtype=torch.uint16),
    )
    state._metadata = {"": {"version": 1}}
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "model": "cvt",
        "state_dict": state,
        "state_dict_ema": OrderedDict(plain=grid + 1),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, opt_betas=(0.9, 0.999), names=["a"], device="cpu"),
        "best": np.float64(71.5),
        "perf": torch.tensor(71.5),
        "size": torch.Size([1, 2]),
        "where": torch.device("cpu"),
    }
    torch.save(checkpoint, HERE / "torch_checkpoint.pth")
    torch.save(model.state_dict(), HERE / "torch_legacy.pth", _use_new_zipfile_serialization=False)


def make_mindspore() -> None:
    import mindspore as ms  # type: ignore[import-not-found]

    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {
        "plain": ms.Tensor(grid),
        "half": ms.Tensor((grid / 8).astype(np.float16)),
        "brain": ms.Tensor(grid / 8).astype(ms.bfloat16),
        "scalar": ms.Tensor(np.float32(2.5)),
        "number": ms.Tensor(np.arange(3)),
    }
    values = [{"name": name, "data": data} for name, data in tensors.items()]
    more = {"epoch_num": 3, "note": "text", "flag": True}
    ms.save_checkpoint(values, str(HERE / "mindspore_types.ckpt"), append_dict=more)
    ms.save_checkpoint(values[:1], str(HERE / "mindspore_crc.ckpt"), crc_check=True)
    ms.save_checkpoint(values[:1], str(HERE / "mindspore_encrypted.ckpt"), enc_key=b"0123456789abcdef")
    for path in HERE.glob("mindspore_*.ckpt"):
        path.chmod(0o644)


if __name__ == "__main__":
    {"torch": make_torch, "mindspore": make_mindspore}[sys.argv[1]]()
