"""What a step of training in Paddle is asked for; its kernels are counted by Paddle's profiler, on a CPU."""

from collections.abc import Callable, Iterator
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, profiler
from paddle.autograd import PyLayer, PyLayerContext

from bench.side import serve
from bench.sides.peak import serve_peak

# What Paddle counts as a kernel and a GPU need not run: the same values under another shape, memory as it is found.
NOT_LAUNCHED = ("reshape", "flatten", "squeeze", "unsqueeze", "empty", "empty_like")
_LAUNCH = " kernel launch"


def serve_step(step: Callable[[], float], *, memory: bool, launches: bool) -> None:
    """Serves what a step of training returns, its speed, or the process's peak memory in GB, or a step's kernels."""
    if memory:
        serve_peak(step)
    elif launches:
        use_gpu_operators()
        serve(lambda: float(count_launches(step)))
    else:
        serve(step)


class _OneKernel(PyLayer):
    """In the place of the fused attention, which a CPU does not have: a kernel forward and one backward, no results."""

    @staticmethod
    def forward(ctx: PyLayerContext, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(k, v)
        return paddle.zeros_like(q)

    @staticmethod
    def backward(ctx: PyLayerContext, grad: Tensor) -> tuple[Tensor, ...]:
        return paddle.zeros_like(grad), *(paddle.empty_like(t) for t in ctx.saved_tensor())


def use_gpu_operators() -> None:
    """Lets models call what they call on a GPU: a linear layer is one operator, ours fuses attention to one, too."""
    F.linear = lambda x, weight, bias=None, name=None: paddle._C_ops.linear_v2(x, weight, bias, False)
    F.scaled_dot_product_attention = lambda q, k, v, **_: _OneKernel.apply(q, k, v)


def count_launches(step: Callable[[], object]) -> int:
    """Returns how many of Paddle's kernels a call of `step` launches, each operator's backward being one."""
    tracer = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
    tracer.start()
    step()
    tracer.stop()
    names = [
        node.name.removesuffix(_LAUNCH)
        for root in tracer.profiler_result.get_data().values()
        for node in _nodes(root)
        if node.name.endswith(_LAUNCH)
    ]
    return sum(name.removesuffix("_grad") not in NOT_LAUNCHED for name in names)


def _nodes(root: Any) -> Iterator[Any]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting += node.children_node
        yield node
