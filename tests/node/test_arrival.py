"""Reaching the supervisor: too early, at the wrong door, with the wrong secret."""

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from node.test_node import ended, run
from support.fake_supervisor import SECRET, configuration, supervising, welcome
from support.nodes import join, node

from phalanx.node.arrival import reach
from phalanx.protocol import NodeHello, NodeReady, Place, Role, Stop
from phalanx.transport import handshake
from phalanx.transport.listener import address_of, bind_tcp
from phalanx.transport.security import Security


def test_who_comes_early_says_what_it_waits_for_once_and_is_served_later(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        with socket.socket() as later:
            later.bind(("127.0.0.1", 0))  # And does not listen yet: nobody else can take the port either.
            host, port = later.getsockname()
            with join(f"{host}:{port}", 8, 8) as program:
                await asyncio.to_thread(program.wait_for, f"waiting up to 600 s for tcp:{host}:{port}: ")
                later.listen()
                async with supervising(sock=later) as supervisor:
                    peer = await supervisor.peer()
                    hello = await peer.next(NodeHello)
                    assert hello.places == tuple(Place(Role.ENGINE, rank) for rank in range(8, 16))
                    assert hello.serves
                    peer.send(welcome(configuration(checkpoint_folder)))
                    await peer.next(NodeReady)
                    peer.send(Stop())
                    assert await ended(program) == 0
            assert program.stderr.count("waiting up to") == 1
            assert "\njoined as ranks 8 to 15, model " in program.stderr

    run(scene())


def test_who_waits_in_vain_names_what_it_waited_for() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        host, port = nobody.getsockname()
        with join(f"{host}:{port}", 0, 1, "--timeout", "0.7") as program:
            assert program.wait() == 1
            assert program.stderr.endswith(
                f"phalanx join: no service at tcp:{host}:{port} within 0.7 s: Connection refused\n"
            )
        with node(f"tcp:{host}:{port}", 0) as program:  # Started by somebody who says that it listens.
            assert program.wait() == 1
            assert program.stderr == f"phalanx node: no service at tcp:{host}:{port}: Connection refused\n"


def test_a_name_that_does_not_resolve_is_waited_for_too() -> None:
    with join("no-such-machine.invalid:7000", 0, 1, "--timeout", "1.5") as program:
        assert program.wait() == 1
        last = program.stderr.splitlines()[-1]
        assert last.startswith("phalanx join: no service at tcp:no-such-machine.invalid:7000 within 1.5 s: ")


def test_every_address_of_a_name_is_tried_and_the_one_that_answers_is_told_to_the_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            port = supervisor.address.rpartition(":")[2]
            channel, address = await reach(f"tcp:a-name:{port}", Security(SECRET.encode()), 0.0, pytest.fail)
            assert address == supervisor.address
            channel.close()

    def resolved(host: str, port: int, *rest: Any, **further: Any) -> list[Any]:
        addresses = ("::1", "127.0.0.2", "127.0.0.1") if host == "a-name" else (host,)
        return [entry for address in addresses for entry in real(address, port, *rest, **further)]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    run(scene())


def test_a_listener_that_does_not_answer_yet_is_waited_for() -> None:
    with bind_tcp("127.0.0.1") as silent, join(address_of(silent), 0, 1, "--timeout", "1") as program:
        assert program.wait() == 1
        assert f"no service at {address_of(silent)} within 1 s: it does not answer within " in program.stderr


def test_another_secret_is_told_at_both_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with supervising(secret="quite another launch secret") as supervisor:
            with join(supervisor.address, 0, 1) as program:
                assert await ended(program) == 1
                assert len(program.stderr.splitlines()) == 1
                assert "the listener does not know the launch secret; PHALANX_SECRET and " in program.stderr

    with caplog.at_level(logging.WARNING):
        run(scene())
    assert any("does not know the launch secret" in record.getMessage() for record in caplog.records)


def test_another_protocol_is_told_at_both_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            with join(supervisor.address, 0, 1) as program:
                assert await ended(program) == 1
                assert len(program.stderr.splitlines()) == 1
                assert f"protocol version {ours} at the dialer, {ours + 1} at the listener" in program.stderr

    ours = handshake.PROTOCOL_VERSION
    monkeypatch.setattr(handshake, "PROTOCOL_VERSION", ours + 1)
    with caplog.at_level(logging.WARNING):
        run(scene())
    assert any("protocol version" in record.getMessage() for record in caplog.records)


def test_a_port_where_something_else_answers_is_no_control_port() -> None:
    async def scene() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            await reader.read()
            writer.close()

        web = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = web.sockets[0].getsockname()
        async with web:
            with join(f"{host}:{port}", 0, 1) as program:
                assert await ended(program) == 1
                assert f"what listens at tcp:{host}:{port} is not the control port of a service" in program.stderr

    run(scene())


def test_a_signal_ends_the_wait_at_once() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        host, port = nobody.getsockname()
        with join(f"{host}:{port}", 0, 1) as program:
            program.wait_for("waiting up to")
            assert program.stop() == 143
            assert program.stderr.endswith(f"stopped by SIGTERM while waiting for tcp:{host}:{port}\n")


def test_a_node_without_a_secret_does_not_start() -> None:
    with node("tcp:127.0.0.1:1", 0, env={"PHALANX_SECRET": ""}) as program:
        assert program.wait() == 2
        assert "PHALANX_SECRET is not set" in program.stderr


def test_the_secret_is_in_no_command_line_and_not_in_what_is_printed(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            with join(supervisor.address, 0, 1) as program:
                peer = await supervisor.peer()
                peer.send(welcome(configuration(checkpoint_folder)))
                await peer.next(NodeReady)
                assert all(SECRET not in command for command in program.processes())
                peer.send(Stop())
                assert await ended(program) == 0
                assert SECRET not in program.output

    run(scene())
