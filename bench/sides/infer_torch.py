"""Images per second of PyTorch on the official CvT or a model of timm; or that model as an ONNX program."""

import argparse
import time

import torch

from bench.side import serve
from bench.sides.torch_cvt import create

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="cvt_13", help="cvt_13, cvt_21, or a name of timm's, such as convit_small")
parser.add_argument("--write_onnx", help="write the program to this file instead, batch left open")
parser.add_argument("--size", type=int, default=224)
parser.add_argument("--batch_size", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
given = parser.parse_args()
PASSES = max(1, 16 // given.batch_size)
torch.set_num_threads(given.threads)
model = create(given.model)
images = torch.randn(given.batch_size, 3, given.size, given.size)


def measure() -> float:
    begun = time.perf_counter()
    with torch.inference_mode():
        for _ in range(PASSES):
            model(images)
    return PASSES * given.batch_size / (time.perf_counter() - begun)


if given.write_onnx:
    example = torch.randn(2, 3, given.size, given.size)
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.onnx.export(
        model, (example,), given.write_onnx, input_names=["images"], output_names=["logits"],
        dynamic_shapes=({0: batch},), dynamo=True, external_data=False,
    )  # fmt: skip
else:
    serve(measure)
