"""Where a node's sockets listen."""

import logging
import socket
from pathlib import Path

import msgspec
import pytest
from support.fake_supervisor import configuration

from phalanx.hosting.words import spell
from phalanx.node.node_sockets import NodeSockets, http_host
from phalanx.protocol import Place, Role


@pytest.mark.parametrize(
    ("wanted", "own", "expected"),
    [
        ("0.0.0.0", "192.0.2.7", "0.0.0.0"),
        ("::", "192.0.2.7", "::"),
        ("192.0.2.1", "192.0.2.7", "192.0.2.7"),
        ("head.invalid", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "127.0.0.2", "127.0.0.2"),
        ("localhost", "::1", "::1"),
    ],
)
def test_api_servers_listen_as_widely_as_the_services_own(wanted: str, own: str, expected: str) -> None:
    assert http_host(wanted, own) == expected


def test_a_service_for_its_own_machine_stays_so_on_every_machine(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert http_host("127.0.0.1", "192.0.2.7") == "127.0.0.1"
    assert "from this machine only" in caplog.text


def test_a_name_of_this_machine_alone_means_all_its_addresses_on_a_node_too(
    monkeypatch: pytest.MonkeyPatch, checkpoint_folder: Path
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda host, *rest, **more: found if host == "both" else resolve(host, *rest, **more)
    )
    assert http_host("both", "192.0.2.7") == "both"
    config = configuration(checkpoint_folder, api_servers_per_node=1)
    config = msgspec.structs.replace(config, http=msgspec.structs.replace(config.http, host="127.0.0.1"))
    monkeypatch.setattr("phalanx.node.node_sockets.http_host", lambda *_: "both")
    with NodeSockets(config, (), True, "127.0.0.1") as sockets:
        inherited = sockets.of(Place(Role.API, 0))
        assert [name for name, _ in inherited] == ["http", "http", "engine"]
        assert len({sock.getsockname()[1] for name, sock in inherited if name == "http"}) == 1


def test_places_are_spelt_for_people() -> None:
    def places(*ranks: int) -> tuple[Place, ...]:
        return tuple(Place(Role.ENGINE, rank) for rank in ranks)

    assert spell(places(3)) == "rank 3"
    assert spell(places(8, 9, 10)) == "ranks 8 to 10"
    assert spell(places(3, 5)) == "ranks 3 and 5"
    assert spell((*places(1), Place(Role.ENGINE, 1, 2))) == "rank 1 and rank 1 tp 2"
