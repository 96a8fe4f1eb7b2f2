"""Sockets that a service manager passed are served on, or refused in words that say what to change."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from phalanx.cli.serve import http_sockets, parse
from phalanx.config import ParallelOptions
from phalanx.supervisor import activation
from phalanx.supervisor.activation import UnfitSockets, check_address, dealt, dealt_by_address, passed_sockets
from phalanx.supervisor.sockets import Sockets
from phalanx.transport.http_listeners import HttpListeners

FIRST = 200
"""In place of 3, which is taken in this process."""


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> Callable[..., list[socket.socket]]:
    monkeypatch.setattr(activation, "FIRST_INHERITED", FIRST)

    def take(sockets: Sequence[socket.socket], names: str | None = None, **variables: str) -> list[socket.socket]:
        for target, sock in enumerate(sockets, FIRST):
            os.dup2(sock.fileno(), target)
            stack.callback(_close, target)
        names = ":".join("http" for _ in sockets) if names is None else names
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
        environment |= variables
        try:
            return [stack.enter_context(sock) for sock in passed_sockets(environment)]
        finally:
            assert not environment, "a child would take them for its own"

    return take


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


@pytest.fixture
def bound(stack: contextlib.ExitStack) -> Callable[..., socket.socket]:
    def bind(port: int = 0, listens: bool = True, family: int = socket.AF_INET) -> socket.socket:
        sock = stack.enter_context(socket.socket(family))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        if listens:
            sock.listen(8)
        return sock

    return bind


Bind = Callable[..., socket.socket]
Pass = Callable[..., list[socket.socket]]


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def test_without_any_there_are_none(passed: Pass, bound: Bind) -> None:
    assert passed_sockets({}) == []
    assert passed([], LISTEN_FDS="0") == []
    assert passed([bound()], LISTEN_PID="1") == [], "they are another process's"


def test_they_are_not_inherited_further(passed: Pass, bound: Bind) -> None:
    first = bound()
    taken = passed([first, bound(port_of(first))])
    assert [port_of(sock) for sock in taken] == [port_of(first)] * 2
    assert not any(sock.get_inheritable() for sock in taken)


def test_what_is_no_listening_http_socket_is_named(passed: Pass, bound: Bind, stack: contextlib.ExitStack) -> None:
    sock = bound()
    connection = stack.enter_context(socket.create_connection(sock.getsockname()))
    file = stack.enter_context(open(os.devnull))  # noqa: SIM115
    unbound = stack.enter_context(socket.socket())
    datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    local = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
    abstract.bind(f"\0phalanx-test-{os.getpid()}")
    abstract.listen()
    which = rf"descriptor {FIRST} that the service manager passed \(http\)"
    cases = [
        ([sock], {"names": "phalanx.socket"}, r"\(phalanx.socket\) is not named http: set FileDescriptorName=http"),
        ([sock], {"names": ""}, r"1 sockets were passed and 0 names \(LISTEN_FDNAMES=\): set FileDescriptorName=http"),
        ([sock], {"names": "http:http"}, "1 sockets were passed and 2 names"),
        ([sock], {"LISTEN_FDS": "many"}, "LISTEN_FDS=many is not a number"),
        ([connection], {}, f"{which} is a connection and not a listening socket: set Accept=no"),
        ([file], {}, f"{which} is no socket"),
        ([unbound], {}, f"{which} does not listen, and has no port"),
        ([datagrams], {}, f"{which} is no TCP socket and no socket file"),
        ([local], {}, f"{which} does not listen, and has no path"),
        ([abstract], {}, f"{which} has an abstract name, which every user may connect to"),
        ([sock, bound()], {}, "a service has one HTTP address"),
    ]
    for sockets, said, words in cases:
        with pytest.raises(UnfitSockets, match=words):
            passed(sockets, **said)
    _close(FIRST)
    with pytest.raises(UnfitSockets, match=f"{which} is not open"):
        passed([], names="http", LISTEN_FDS="1")


def test_each_api_server_has_its_own_or_shares_one(bound: Bind, stack: contextlib.ExitStack) -> None:
    sockets = [bound()]
    sockets.append(bound(port_of(sockets[0])))
    assert dealt(sockets, 2) == sockets
    shared = dealt(sockets, 5)
    for sock in shared[2:]:
        stack.enter_context(sock)
    assert all(os.path.sameopenfile(shared[i].fileno(), sockets[i % 2].fileno()) for i in range(5))
    with pytest.raises(UnfitSockets, match=r"2 sockets were passed for 1 API server: .* Give --api-server-count 2"):
        dealt(sockets, 1)


def test_sockets_at_several_addresses_are_dealt_address_by_address(
    passed: Pass, bound: Bind, stack: contextlib.ExitStack
) -> None:
    first = bound()
    second = stack.enter_context(socket.create_server(("127.0.0.2", port_of(first))))
    taken = passed([first, second])
    dealt_out = dealt_by_address(taken, 2)
    for sock in dealt_out[1]:
        stack.enter_context(sock)
    assert [[sock.getsockname()[0] for sock in sockets] for sockets in dealt_out] == [["127.0.0.1", "127.0.0.2"]] * 2
    with pytest.raises(UnfitSockets, match=r"--host 127\.0\.0\.1 contradicts .* at 127.0.0.1:\d+ and 127.0.0.2:\d+"):
        check_address(taken, "127.0.0.1", None)


@pytest.fixture
def file(tmp_path: Path, stack: contextlib.ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(tmp_path / "web.sock"))
    sock.listen()
    return sock


def test_a_socket_file_may_be_beside_ports_and_every_api_server_accepts_from_it(
    passed: Pass, bound: Bind, file: socket.socket, stack: contextlib.ExitStack
) -> None:
    first = bound()
    dealt_out = dealt_by_address(passed([first, file, bound(port_of(first))]), 2)
    for sock in dealt_out[1]:
        stack.enter_context(sock)
    assert [sock.getsockname() for sock in dealt_out[1]] == [first.getsockname(), file.getsockname()]
    assert os.path.sameopenfile(dealt_out[0][1].fileno(), dealt_out[1][1].fileno())


def test_a_port_that_is_asked_for_contradicts_a_socket_file(bound: Bind, file: socket.socket) -> None:
    check_address([file], None, None)
    check_address([file], None, 0)
    sock = bound()
    check_address([file, sock], "127.0.0.1", port_of(sock))
    for host, port in (("127.0.0.1", None), (None, 8000)):
        with pytest.raises(UnfitSockets, match=rf"contradicts .* which listen at {file.getsockname()}: leave"):
            check_address([file], host, port)


def test_a_socket_file_is_not_shut_when_its_api_servers_are_given_up(
    passed: Pass, file: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with Sockets(HttpListeners(dealt_by_address(passed([file]), 1)), ParallelOptions()) as service:
        assert service.urls == [f"unix:{file.getsockname()}"]
        service.retire(0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(file.getsockname())
        file.accept()[0].close()


@pytest.mark.parametrize("flag", ["--api-servers-per-node=1", "--frontend-command=true"])
def test_what_needs_a_port_is_refused_with_a_socket_file(
    flag: str, file: socket.socket, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(activation, "FIRST_INHERITED", FIRST)
    os.dup2(file.fileno(), FIRST)
    stack.callback(_close, FIRST)
    for name, value in (("LISTEN_PID", str(os.getpid())), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")):
        monkeypatch.setenv(name, value)
    flags = ["-dp=2", "-dpl=1"] if "node" in flag else []
    name = flag.partition("=")[0]
    with pytest.raises(UnfitSockets, match=f"{name} needs a port, and the service manager passed a socket file"):
        http_sockets(parse([*flags, flag]))


def test_an_address_that_is_asked_for_as_well_must_be_the_same(bound: Bind) -> None:
    sock = bound()
    port = port_of(sock)
    for host, asked in ((None, None), ("127.0.0.1", port), ("localhost", None), (None, 0)):
        check_address([sock], host, asked)
    with pytest.raises(UnfitSockets, match=rf"--port 1 contradicts .* which listen at 127.0.0.1:{port}: leave"):
        check_address([sock], None, 1)
    with pytest.raises(UnfitSockets, match=r"--host 0.0.0.0 contradicts"):
        check_address([sock], "0.0.0.0", port)


def test_every_address_is_one_address_in_either_family(stack: contextlib.ExitStack) -> None:
    sock = stack.enter_context(socket.socket(socket.AF_INET6))
    sock.bind(("::", 0))
    sock.listen()
    check_address([sock], "0.0.0.0", port_of(sock))
    with pytest.raises(UnfitSockets, match=r"which listen at \[::\]:\d+"):
        check_address([sock], "127.0.0.1", None)


def test_one_that_was_given_up_is_shut_for_all_and_listens_again_at_the_next_start(
    passed: Pass, bound: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    held = bound()
    parallel = ParallelOptions(api_server_count=2)
    with Sockets(HttpListeners(dealt_by_address(passed([held]), 2)), parallel) as service:
        service.retire(0)
        socket.create_connection(held.getsockname()).close()  # the other one still accepts from it
        service.retire(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(held.getsockname())
    (again,) = passed([held])
    waiting = socket.create_connection(held.getsockname())
    again.accept()[0].close()
    waiting.close()


def test_the_options_say_where_the_passed_sockets_listen(
    bound: Bind, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack
) -> None:
    """Nodes on other machines listen at the same port."""
    held = bound()
    monkeypatch.setattr(activation, "FIRST_INHERITED", FIRST)
    os.dup2(held.fileno(), FIRST)
    for name, value in (("LISTEN_PID", str(os.getpid())), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")):
        monkeypatch.setenv(name, value)
    given, listeners = http_sockets(parse(["--api-server-count", "3"]))
    for (sock,) in listeners.sockets:
        stack.enter_context(sock)
    assert len(listeners.sockets) == 3
    assert (given.options.http.host, given.options.http.port) == ("127.0.0.1", port_of(held))
    assert "LISTEN_FDS" not in os.environ
