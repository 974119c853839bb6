"""One thread, set before any test imports paddle, so that results do not depend on the machine's cores."""

from util import runtime

runtime.start(cpu_threads=1)
