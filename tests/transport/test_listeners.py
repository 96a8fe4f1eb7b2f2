import errno
import os
import socket
from collections import Counter
from typing import Any

import pytest

from phalanx.transport import listener
from phalanx.transport.frames import FrameError, FrameReader, encode
from phalanx.transport.listener import AddressInUse, bind_http, bind_tcp


def test_http_sockets_share_a_port_and_the_kernel_spreads_connections_over_them() -> None:
    sockets = [sock for (sock,) in bind_http("127.0.0.1", 0, 4)]
    assert len({sock.getsockname() for sock in sockets}) == 1
    clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(200)]
    shares = Counter[int]()
    for index, sock in enumerate(sockets):
        sock.setblocking(False)
        try:
            while True:
                sock.accept()[0].close()
                shares[index] += 1
        except BlockingIOError:
            pass
        sock.close()
    for client in clients:
        client.close()
    assert sum(shares.values()) == 200
    assert min(shares[index] for index in range(4)) >= 20


def test_a_second_service_on_the_port_is_refused_and_told_who_holds_it() -> None:
    first = [sock for (sock,) in bind_http("127.0.0.1", 0, 2)]
    port = first[0].getsockname()[1]
    with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{port} is in use by .*\(pid {os.getpid()}\)"):
        bind_http("127.0.0.1", port, 2)
    with pytest.raises(AddressInUse):
        bind_http("127.0.0.1", port, 1)
    for sock in first:
        sock.close()
    for (sock,) in bind_http("127.0.0.1", port, 2):
        sock.close()


def test_a_port_that_anybody_else_listens_on_is_refused() -> None:
    other = bind_tcp("127.0.0.1")
    with pytest.raises(AddressInUse):
        bind_http("127.0.0.1", other.getsockname()[1], 2)
    other.close()


def test_a_host_that_is_not_ours_is_a_clear_error() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bind_http("192.0.2.1", 0, 1)


LOOPBACK, SECOND, NOT_OURS = "127.0.0.1", "127.0.0.2", "192.0.2.1"


@pytest.fixture
def many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has three, one of them twice."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in (LOOPBACK, NOT_OURS, SECOND, LOOPBACK)]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)


@pytest.mark.usefixtures("many_addresses")
def test_a_name_means_each_of_its_addresses_that_this_machine_has_all_with_one_port() -> None:
    bound = bind_http("many", 0, 2)
    port = bound[0][0].getsockname()[1]
    assert [[sock.getsockname() for sock in sockets] for sockets in bound] == [[(LOOPBACK, port), (SECOND, port)]] * 2
    for host in (LOOPBACK, SECOND):
        with socket.socket() as client:
            client.connect((host, port))
    with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{port} is in use"):
        bind_http("many", port, 1)
    for sock in (*bound[0], *bound[1]):
        sock.close()


@pytest.mark.usefixtures("many_addresses")
def test_a_port_that_is_taken_at_one_address_is_taken() -> None:
    with socket.create_server((SECOND, 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127\.0\.0\.2:{port} is in use by"):
            bind_http("many", port, 1)
        socket.create_server((LOOPBACK, port)).close()  # nothing is left bound


@pytest.mark.usefixtures("many_addresses")
def test_a_port_that_the_kernel_chose_is_chosen_again_where_another_address_has_it_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bind, refused = listener._bind_shared, []

    def once_in_use(family: socket.AddressFamily, target: tuple[str, int], *rest: Any, **more: Any) -> Any:
        if target[0] == SECOND and not refused:
            refused.append(target)
            raise AddressInUse(errno.EADDRINUSE, "somebody else's")
        return bind(family, target, *rest, **more)

    monkeypatch.setattr(listener, "_bind_shared", once_in_use)
    [(first, second)] = bind_http("many", 0, 1)
    assert refused
    assert first.getsockname()[1] == second.getsockname()[1]
    for sock in (first, second):
        sock.close()


def test_both_families_of_a_name_have_a_socket_each(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (LOOPBACK, 0)),
    ]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    [sockets] = bind_http("localhost", 0, 1)
    families = [sock.family for sock in sockets]
    for sock in sockets:
        sock.close()
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            assert families == [socket.AF_INET], "this machine has no IPv6"
        else:
            assert families == [socket.AF_INET, socket.AF_INET6]


def test_frames_come_out_whole_however_the_bytes_arrive() -> None:
    stream = b"".join(bytes(encode([n, "x" * n])) for n in range(50))
    bodies = []
    reader = FrameReader()
    for byte in stream:
        reader.feed(bytes([byte]))
        while (body := reader.take()) is not None:
            bodies.append(body)
    assert bodies == [bytes(encode([n, "x" * n]))[4:] for n in range(50)]


def test_a_frame_over_the_limit_is_refused_before_its_body_arrives() -> None:
    reader = FrameReader(limit=10)
    reader.feed((11).to_bytes(4, "little"))
    with pytest.raises(FrameError, match="11 bytes"):
        reader.take()
