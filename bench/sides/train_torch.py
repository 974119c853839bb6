"""Images per second of a training step of PyTorch on the official CvT-13: model, loss, gradient, AdamW."""

import argparse
import time

import torch
import torch.nn.functional as F

from bench.side import serve
from bench.sides.peak import serve_peak
from bench.sides.torch_cvt import create

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="cvt_13")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--memory", action="store_true", help="take three steps, and answer with the peak memory in GB")
given = parser.parse_args()
torch.set_num_threads(given.threads)
torch.manual_seed(0)
model = create(given.model).train().requires_grad_(True)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
forward = torch.compile(model) if given.compile else model
images = torch.randn(given.batch_size, 3, 224, 224)
labels = torch.randint(0, 1000, (given.batch_size,))


def measure() -> float:
    begun = time.perf_counter()
    F.cross_entropy(forward(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return given.batch_size / (time.perf_counter() - begun)


if given.memory:
    serve_peak(measure)
else:
    serve(measure)
