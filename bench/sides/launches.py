"""What a step of training in Paddle is asked for; its kernels are counted by Paddle's profiler, on a CPU."""

from collections.abc import Callable, Iterator
from typing import Any

from paddle import profiler

from bench.side import serve
from bench.sides.peak import serve_peak

# What Paddle counts as a kernel and a GPU need not run: the same values under another shape.
VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")
_LAUNCH = " kernel launch"


def serve_step(step: Callable[[], float], *, memory: bool, launches: bool) -> None:
    """Serves what a step of training returns, its speed, or the process's peak memory in GB, or a step's kernels."""
    if memory:
        serve_peak(step)
    elif launches:
        serve(lambda: float(count_launches(step)))
    else:
        serve(step)


def count_launches(step: Callable[[], object]) -> int:
    """Returns how many kernels a call of `step` launches, views left out."""
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
    return sum(name.removesuffix("_grad") not in VIEWS for name in names)


def _nodes(root: Any) -> Iterator[Any]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting += node.children_node
        yield node
