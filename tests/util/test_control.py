"""Processes of a job meet and agree on numbers, whoever else knocks at the door while they meet."""

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Client, Connection

import pytest

from util import control
from util.control import Control, LostPeerError, _Meeting

SECONDS = 20  # far more than any of this takes


class Job:
    """Processes that meet, played by threads; the main one waits until `admit_others` for the others to come."""

    def __init__(self, *, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(size))
        monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", "127.0.0.1:6170")
        self.size = size
        self._place: Future[_Meeting] = Future()
        self._others_may = threading.Event()
        self._threads = ThreadPoolExecutor(size)
        self._met = [self._threads.submit(Control.meet, rank=rank, share=self._share) for rank in range(size)]

    def _share(self, mine: _Meeting | None) -> _Meeting:
        if mine is not None:
            self._place.set_result(mine)
        else:
            self._others_may.wait(SECONDS)
        return self._place.result(SECONDS)

    @property
    def place(self) -> _Meeting:
        return self._place.result(SECONDS)

    def knock(self) -> socket.socket:
        """Connects as a stranger does."""
        return socket.create_connection((self.place.host, self.place.port), timeout=SECONDS)

    def meet(self) -> list[Control]:
        """Lets the other processes come; returns every process's connections, by rank."""
        self._others_may.set()
        return [met.result(SECONDS) for met in self._met]

    def agree(self, numbers: list[list[int]]) -> list[list[int]]:
        """Returns what each process is told, by rank, when it says its numbers."""
        asked = [
            self._threads.submit(met.agree, said, is_main=rank == 0)
            for rank, (met, said) in enumerate(zip(self.meet(), numbers, strict=True))
        ]
        return [answer.result(SECONDS) for answer in asked]

    def end(self) -> None:
        self._others_may.set()
        self._threads.shutdown(wait=False)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Job]]:
    jobs: list[Job] = []

    def begin(size: int) -> Job:
        jobs.append(Job(size=size, monkeypatch=monkeypatch))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.end()


def test_every_process_is_told_the_largest_of_each_number(start: Callable[[int], Job]) -> None:
    job = start(3)
    assert job.agree([[1, -5, 0], [0, -7, 1 << 62], [3, -9, 2]]) == [[3, -5, 1 << 62]] * 3
    assert job.agree([[0], [0], [0]]) == [[0]] * 3


def _http(stranger: socket.socket, place: _Meeting) -> None:
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        while stranger.recv(1 << 16):  # until it is closed
            pass


def _wrong_key(stranger: socket.socket, place: _Meeting) -> None:
    stranger.close()
    with pytest.raises(multiprocessing.AuthenticationError):
        Client((place.host, place.port), authkey=b"x" * len(place.key))


def _gone_at_once(stranger: socket.socket, place: _Meeting) -> None:
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # with a reset, as port scanners do
    stranger.close()


def _silent(stranger: socket.socket, place: _Meeting) -> None:
    """It stays, and says nothing."""


def _half(stranger: socket.socket, place: _Meeting) -> None:
    stranger.sendall(b"\0\0")


STRANGERS = {f.__name__: f for f in (_http, _wrong_key, _gone_at_once, _silent, _half)}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_at_the_door_changes_nothing(name: str, start: Callable[[int], Job]) -> None:
    job = start(2)
    with job.knock() as first, job.knock() as second:
        for stranger in (first, second):
            STRANGERS[name](stranger, job.place)
        began = time.monotonic()
        assert job.agree([[4, 1], [2, 3]]) == [[4, 3]] * 2
        assert time.monotonic() - began < 10, "nobody waits for it"


def test_who_knows_the_key_is_let_in(start: Callable[[int], Job]) -> None:
    """Negative control: the door is not simply closed to all but the first, or open to none."""
    job = start(2)
    with Client((job.place.host, job.place.port), authkey=job.place.key) as member:
        first = job._met[0].result(SECONDS)
        asked = job._threads.submit(first.agree, [1], is_main=True)
        member.send_bytes((7).to_bytes(8, "little"))
        assert asked.result(SECONDS) == [7]


def test_a_silent_connection_is_closed_in_the_end_and_a_member_may_be_silent(
    start: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_SILENT_SECONDS", 1)
    job = start(2)
    with job.knock() as stranger:
        main, other = job.meet()
        began = time.monotonic()
        asked = job._threads.submit(main.agree, [1], is_main=True)
        while stranger.recv(1 << 16):
            pass
        assert time.monotonic() - began < 10
        time.sleep(1.2)  # longer than a stranger has
        assert not asked.done()
        assert other.agree([5], is_main=False) == asked.result(SECONDS) == [5]


@pytest.mark.parametrize("is_main", [True, False])
def test_the_end_of_a_process_is_told_to_the_other(is_main: bool, start: Callable[[int], Job]) -> None:
    met = start(2).meet()
    waits, ends = met if is_main else met[::-1]
    for connection in ends._connections:
        connection.close()
    with pytest.raises(LostPeerError, match="another process of this job ended"):
        waits.agree([1], is_main=is_main)


def _refuse(server: socket.socket) -> None:
    server.close()


def _hang_up(server: socket.socket) -> None:
    server.accept()[0].close()


def _know_another_key(server: socket.socket) -> None:
    with server.accept()[0] as accepted, Connection(accepted.detach()) as connection:
        connection.send_bytes(b"#CHALLENGE#" + bytes(20))
        connection.recv_bytes()
        connection.send_bytes(b"#FAILURE#")


@pytest.mark.parametrize("answer", [_refuse, _hang_up, _know_another_key])
def test_a_main_process_that_does_not_answer_is_a_lost_one(answer: Callable[[socket.socket], None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:
        place = _Meeting("127.0.0.1", server.getsockname()[1], b"key")
        answered = threads.submit(answer, server)
        if answer is _refuse:
            answered.result(SECONDS)
        with pytest.raises(
            LostPeerError, match=rf"the first process of this job does not answer at 127.+:{place.port} \([\w\[]"
        ):
            Control.meet(rank=1, share=lambda mine: place)
        answered.result(SECONDS)
