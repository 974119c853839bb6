"""One thread, set before any test imports paddle, so that results do not depend on the machine's cores."""

import signal

from util import runtime

runtime.start(cpu_threads=1)

# A shell starts a job in the background with Ctrl-C ignored, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
