"""Kernels that a step launches: counted on a CPU by Paddle's profiler, with the operators that a GPU would be given."""

from collections.abc import Callable, Iterator
from typing import Any

from paddle import profiler

from bench.side import serve

# What Paddle counts as a kernel and a GPU need not run: the same values under another shape.
VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")
_LAUNCH = " kernel launch"


def serve_launches(step: Callable[[], object]) -> None:
    """Answers with the number of kernels of one step, views left out."""
    serve(lambda: float(count_launches(step)))


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
