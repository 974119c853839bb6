"""Running the application: uvicorn with deadlines, a stop that lets accepted requests be answered, an exit code."""

import asyncio
import contextlib
import ipaddress
import json
import logging
import math
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import uvicorn
from fastapi import FastAPI

from util.errors import LimitError, OutputError, UserError
from util.files import as_line
from util.serving.admission import Admission
from util.serving.classifier import Classifier
from util.serving.observed import log, say
from util.serving.protocol import GuardedProtocol, Limits, protocol_with

BACKLOG = 256  # connections that the system holds until they are taken, all at once
OTHER_FILES = 64  # engines, the log, libraries
LEAST_CONNECTIONS = 16
SWITCH_SECONDS = 0.001  # Python's threads take turns so often: decoding must not keep answers waiting


class Server(uvicorn.Server):
    """uvicorn's, whose SIGTERM and SIGINT are a wish and no error, and which can be told to end with an error."""

    def __init__(self, config: uvicorn.Config, *, drain: float, on_stop: Callable[[], object]) -> None:
        super().__init__(config)
        self._drain = drain
        self._on_stop = on_stop
        self.error: UserError | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes both signals while the server runs. A second one does not wait for what was accepted."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: object) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._on_stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for what was accepted; after `drain` seconds the rest is refused."""
        late = asyncio.get_running_loop().call_later(self._drain, self._refuse_rest)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()
            if self.server_state.connections:  # a second signal does not wait
                self._refuse_rest()

    def _refuse_rest(self) -> None:
        rest = [c for c in self.server_state.connections if isinstance(c, GuardedProtocol)]
        rest = [connection for connection in rest if not connection.transport.is_closing()]
        if rest:
            say("drain is over", connections=len(rest))
        for connection in rest:
            connection.refuse(503, "the server is stopping", at_once=True)

    def end_with(self, error: UserError) -> None:
        """Ends the server; `error` is for whoever started it."""
        self.error = self.error or error
        self.should_exit = True
        self._on_stop()


class _Lines(logging.Formatter):
    """Our events are JSON already; what libraries say becomes the same."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == log.name and record.exc_info is None:
            return record.getMessage()
        return json.dumps({"event": "log", "logger": record.name, "message": super().format(record)})


def start_log() -> None:
    """Lets events go to standard error, each a line of JSON; what libraries warn of, too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(message)s"))
    logging.getLogger().handlers = [handler]
    log.setLevel(logging.INFO)
    for name in ("uvicorn", "python_multipart"):  # about clients, who are told, or whose requests our lines show
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run(
    app: FastAPI, classifier: Classifier, admission: Admission, limits: Limits, *, host: str, port: int, drain: float,
    holder: "Holder",
) -> None:  # fmt: skip
    """Serves until SIGTERM or SIGINT, then answers what was accepted, for `drain` seconds at most.

    A port that cannot be opened is an OutputError. holder: where engines find the server when they cannot go on.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    connections = _allow_files(limits.connections)
    if connections < limits.connections:
        say("few open files", connections=connections, note="the system's limit of open files allows no more")
    limits = replace(limits, connections=connections)
    config = uvicorn.Config(
        app, http=protocol_with(limits, admission), ws="none", loop="asyncio", lifespan="on", log_config=None,
        access_log=False, server_header=False, backlog=BACKLOG, timeout_graceful_shutdown=math.ceil(drain) + 1,
        timeout_keep_alive=5,
    )  # fmt: skip

    def stopping() -> None:
        classifier.is_draining = True

    holder.server = server = Server(config, drain=drain, on_stop=stopping)
    try:
        asyncio.run(_serve(server, host, port, has_key=admission.has_key))
    except SystemExit:  # uvicorn's, where the application could not start
        if server.error is None:
            raise
    if server.error is not None:
        raise server.error


def _allow_files(connections: int) -> int:
    """Raises the limit of open files so that all connections fit, and returns how many do; a LimitError below 16.

    Beside them there are those that are refused at the moment.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = 2 * BACKLOG + OTHER_FILES
    wanted = connections + others
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    most = wanted if hard == resource.RLIM_INFINITY else max(soft, min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most - others < LEAST_CONNECTIONS:
        raise LimitError(
            f"a process may open {hard} files here; the server needs {others + LEAST_CONNECTIONS}: raise `ulimit -n`"
        )
    return min(connections, most - others)


async def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at the first address of `host`; one that cannot be opened is an OutputError."""
    loop = asyncio.get_running_loop()
    try:
        [address, *_] = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # the protocol is named, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for the client
        listening = socket.socket(address[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address[4])
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:  # what is no host name is a UnicodeError
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(as_line(f"{host}:{port}: cannot be listened at: {reason}")) from None
    return listening


async def _serve(server: Server, host: str, port: int, *, has_key: bool) -> None:
    with await listen(host, port) as listening:
        where = listening.getsockname()
        name = f"[{where[0]}]" if ":" in where[0] else where[0]
        say("listening", url=f"http://{name}:{where[1]}")
        if not (has_key or ipaddress.ip_address(where[0].partition("%")[0]).is_loopback):
            say("open to all", note="whoever reaches this address may ask; --api_key_file asks for a key")
        await server.serve(sockets=[listening])
    say("stopped")


class Holder:
    """Where the server will be, once there is one."""

    server: Server | None = None

    def end_with(self, error: UserError) -> None:
        """Ends the server with an error."""
        if self.server is not None:
            self.server.end_with(error)
