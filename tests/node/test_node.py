"""A node, as its supervisor sees it: what it says, what it starts, how it ends."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.dispositions import ignored_by, ignoring
from support.fake_supervisor import DEADLINE, SECRET, FakeSupervisor, Peer, configuration, rank, supervising, welcome
from support.nodes import JOIN, NODE, Program, join, node, stand_in_node

import phalanx
from phalanx.child import EXIT_ORPHANED
from phalanx.node.node import UNSENT
from phalanx.protocol import (
    ChildExited,
    ChildId,
    ChildLaunched,
    ChildNotLaunched,
    ChildOutput,
    Failed,
    Hello,
    Incarnation,
    LaunchChild,
    NodeHello,
    NodeReady,
    Place,
    Ready,
    Refused,
    Role,
    SignalChild,
    Stop,
)

PARENT = "import os, subprocess, sys; subprocess.run([*sys.argv[1:], '--parent-pid', str(os.getpid())])"


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 2 * DEADLINE))


async def ended(program: Program) -> int:
    """Its exit status; nothing of it is left."""
    status = await asyncio.to_thread(program.wait)
    program.assert_nothing_left()
    return status


async def output_of(peer: Peer, child: ChildId) -> bytes:
    """Everything a child has yet to print, up to the end of it; what others print meanwhile is passed over."""
    printed = b""
    while True:
        message = await peer.next(ChildOutput)
        if message.child != child:
            continue
        if not message.data:
            return printed
        printed += message.data


@contextlib.asynccontextmanager
async def joined(
    folder: Path, *ranks: int, flags: tuple[str, ...] = (), env: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[tuple[FakeSupervisor, Program, Peer, NodeReady]]:
    """A node with stand-ins as children, up to its NodeReady."""
    async with supervising() as supervisor:
        with stand_in_node(supervisor.address, *ranks, flags=flags, env=env) as program:
            peer = await supervisor.peer()
            await peer.next(NodeHello)
            peer.send(welcome(configuration(folder, **options)))
            yield supervisor, program, peer, await peer.next(NodeReady)


def test_a_node_says_who_it_is_starts_a_rank_and_ends_with_the_service(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        config = configuration(checkpoint_folder)
        async with supervising() as supervisor:
            with node(supervisor.address, 2, 3) as program:
                peer = await supervisor.peer()
                hello = await peer.next(NodeHello)
                assert (hello.name, hello.pid) == (socket.gethostname(), program.pid)
                assert (hello.version, hello.serves, hello.address) == (phalanx.__version__, False, "127.0.0.1")
                assert hello.places == (Place(Role.ENGINE, 2), Place(Role.ENGINE, 3))
                peer.send(welcome(config))
                assert await peer.next(NodeReady) == NodeReady(str(checkpoint_folder))
                peer.send(LaunchChild(rank(3), {}))
                launched = await peer.next(ChildLaunched)
                child = await supervisor.peer()
                assert await child.next(Hello) == Hello(Role.ENGINE, 3, Incarnation(0), launched.pid)
                child.send(welcome(config))
                await child.next(Ready)
                assert set(program.processes()) == {"phalanx node", "phalanx engine 3"}
                child.send(Stop())
                peer.send(Stop())
                assert await peer.next(ChildExited) == ChildExited(rank(3), 0)
                assert await ended(program) == 0
                assert program.stderr.endswith("\nthe service ended\n")

    run(scene())


def test_what_a_child_prints_and_how_it_ends_is_told_on_both_sides(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with joined(checkpoint_folder, 7) as (_, program, peer, _):
            peer.send(LaunchChild(rank(7), {"DEED": "print"}))
            assert await output_of(peer, rank(7)) == b"one\nto stderr: \xff\xfe, no end"
            peer.send(LaunchChild(rank(7, 1), {"DEED": "die"}))
            assert await peer.next(ChildExited) == ChildExited(rank(7), 3)
            assert await peer.next(ChildExited) == ChildExited(rank(7, 1), -signal.SIGSEGV)
            peer.send(Stop())
            assert await ended(program) == 1
            assert program.stderr.endswith("the service ended; engine 7 failed here: exit status 3\n")
            for words in ("[engine 7] one\n", "no end\n", "engine 7 ended: exit status 3", "killed by SIGSEGV"):
                assert words in program.stderr

    run(scene())


def test_a_supervisor_that_does_not_read_holds_nobody_up(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with joined(checkpoint_folder, 0) as (_, program, peer, _):
            peer.connection._transport.pause_reading()
            peer.send(LaunchChild(rank(0), {"DEED": "flood"}))
            await asyncio.to_thread(program.wait_for, "engine 0 ended: exit status 0")
            assert program.stderr.count("the supervisor does not read") == 1
            peer.connection._transport.resume_reading()
            kept = await output_of(peer, rank(0))
            assert UNSENT <= len(kept) < 4096 * 4096
            assert await peer.next(ChildExited) == ChildExited(rank(0), 0)
            peer.send(Stop())
            assert await ended(program) == 0

    run(scene())


def test_a_signal_reaches_the_child_it_is_for(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with joined(checkpoint_folder, 0, 1) as (_, program, peer, _):
            for index in (0, 1):
                peer.send(LaunchChild(rank(index), {"DEED": "hang" if index == 0 else "grandchild"}))
                await peer.next(ChildOutput)
            peer.send(SignalChild(rank(0), signal.SIGABRT))
            assert b"Current thread" in await output_of(peer, rank(0))
            assert await peer.next(ChildExited) == ChildExited(rank(0), -signal.SIGABRT)
            peer.send(SignalChild(rank(1), signal.SIGKILL))
            assert await peer.next(ChildExited) == ChildExited(rank(1), -signal.SIGKILL)
            peer.send(SignalChild(rank(1), signal.SIGKILL))  # It has ended: nothing happens.
            peer.send(Stop())
            assert await ended(program) == 0  # The grandchild is gone too.

    run(scene())


def test_everything_it_tells_of_listens_when_it_tells(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        options = {"api_servers_per_node": 2, "tensor_parallel_size": 2, "data_parallel_size": 4}
        async with joined(checkpoint_folder, 2, 3, flags=("--serve",), **options) as (_, program, peer, ready):
            assert len(ready.api_servers) == 2
            assert len({served.url for served in ready.api_servers}) == 1
            assert len({served.engine for served in ready.api_servers}) == 2
            assert set(ready.leaders) == {2, 3}
            urls = [served.url.replace("http://", "tcp:") for served in ready.api_servers]
            engines = [served.engine for served in ready.api_servers]
            for address in (*urls, *engines, *ready.leaders.values()):
                scheme, host, port = address.split(":")
                assert (scheme, host) == ("tcp", "127.0.0.1")
                socket.create_connection((host, int(port)), DEADLINE).close()
            peer.send(Stop())
            assert await ended(program) == 0

    run(scene())


def test_the_listener_audit_sees_every_address_a_node_tells(checkpoint_folder: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        report = tmp_path / "audit"
        env = {"PHALANX_AUDIT_LISTENERS": str(report)}
        options = {"api_servers_per_node": 1, "tensor_parallel_size": 2}
        async with joined(checkpoint_folder, 0, flags=("--serve",), env=env, **options) as (
            supervisor,
            program,
            peer,
            ready,
        ):
            peer.send(LaunchChild(rank(0), {"DEED": "tell"}))
            await peer.next(ChildExited)
            told = {line.split()[0] for line in report.read_text().splitlines()}
            served = ready.api_servers[0]
            expected = {served.url.replace("http://", "tcp:"), served.engine, ready.leaders[0], supervisor.address}  # type: ignore[index]
            assert told == expected
            peer.send(Stop())
            assert await ended(program) == 0

    run(scene())


def test_each_api_server_has_its_own_sockets_and_keeps_them(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async def sockets(peer: Peer, index: int, incarnation: int) -> dict[str, list[Any]]:
            child = ChildId(Place(Role.API, index), Incarnation(incarnation))
            peer.send(LaunchChild(child, {"DEED": "tell"}))
            told: dict[str, list[Any]] = json.loads(await output_of(peer, child))["sockets"]
            await peer.next(ChildExited)
            return told

        options = {"api_servers_per_node": 2, "data_parallel_size": 2}
        async with joined(checkpoint_folder, 1, flags=("--serve",), **options) as (_, program, peer, ready):
            first = await sockets(peer, 4, 0)
            second = await sockets(peer, 5, 0)
            for told, served in zip((first, second), ready.api_servers, strict=True):
                assert served.url == "http://{}:{}".format(*told["http"])
                assert served.engine == "tcp:{}:{}".format(*told["engine"])
            assert await sockets(peer, 4, 1) == first
            peer.send(LaunchChild(ChildId(Place(Role.API, 6), Incarnation(0)), {"DEED": "tell"}))
            assert "2 API servers, and api 6 is one more" in (await peer.next(ChildNotLaunched)).reason
            peer.send(LaunchChild(rank(0), {"DEED": "tell"}))
            assert (await peer.next(ChildNotLaunched)).child == rank(0)
            peer.send(Stop())
            assert await ended(program) == 0

    run(scene())


def test_a_child_gets_the_services_variables_the_secret_and_the_machines_own_devices(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        env = {"CUDA_VISIBLE_DEVICES": "3", "OF_THE_NODE": "kept"}
        async with joined(checkpoint_folder, 0, env=env) as (supervisor, program, peer, _):
            further = {"DEED": "tell", "CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2"}
            peer.send(LaunchChild(rank(0, 4), further))
            told = json.loads(await output_of(peer, rank(0, 4)))
            environment = told["environment"]
            assert environment["PHALANX_SECRET"] == SECRET
            assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == ("3", "2")
            assert environment["OF_THE_NODE"] == "kept"
            assert told["arguments"] == ["--control", supervisor.address, "--index", "0", "--incarnation", "4"]
            peer.send(Stop())
            assert await ended(program) == 0

    run(scene())


@pytest.mark.parametrize("way", ["the link ends", "the node is killed"])
def test_no_child_outlives_the_link(way: str, checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with joined(checkpoint_folder, 0) as (supervisor, program, peer, _):
            peer.send(LaunchChild(rank(0), {"DEED": "grandchild" if way == "the link ends" else "hang"}))
            await peer.next(ChildOutput)
            if way == "the link ends":
                peer.connection.abort("the link ends")
                assert await ended(program) == EXIT_ORPHANED
                assert f"phalanx node: the service at {supervisor.address} is gone: " in program.stderr
            else:
                program.signal(signal.SIGKILL)
                assert await ended(program) == -signal.SIGKILL

    run(scene())


def test_a_node_ends_with_the_process_that_started_it(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            parent = await asyncio.create_subprocess_exec(
                *(sys.executable, "-S", "-c", PARENT, *NODE, "--control", supervisor.address, "--places", "[]"),
                env={**os.environ, "PHALANX_SECRET": SECRET},
            )
            peer = await supervisor.peer()
            assert (await peer.next(NodeHello)).pid != parent.pid
            parent.kill()
            await peer.ended
            await parent.wait()

    run(scene())


def test_a_node_whose_parent_is_gone_already_does_not_start() -> None:
    with node("tcp:127.0.0.1:1", 0, flags=("--parent-pid", "1")) as program:
        assert program.wait() == 127


def test_a_child_that_does_not_stop_is_killed_after_its_time(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with joined(checkpoint_folder, 0, shutdown_timeout=0.2) as (_, program, peer, _):
            peer.send(LaunchChild(rank(0), {"DEED": "hang"}))
            await peer.next(ChildOutput)
            peer.send(Stop())
            assert await peer.next(ChildExited) == ChildExited(rank(0), -signal.SIGKILL)
            assert await ended(program) == 0
            assert "killing engine 0: it did not end within 0.2 s" in program.stderr

    run(scene())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_stopped_says_so_and_takes_its_children_with_it(
    number: signal.Signals, checkpoint_folder: Path
) -> None:
    async def scene() -> None:
        async with joined(checkpoint_folder, 0) as (_, program, peer, _):
            peer.send(LaunchChild(rank(0), {"DEED": "hang"}))
            await peer.next(ChildOutput)
            program.signal(number)
            assert await peer.next(Failed) == Failed(f"stopped by {number.name}")
            await peer.ended
            assert await ended(program) == 128 + number
            assert program.stderr.endswith(f"phalanx node: stopped by {number.name}\n")

    run(scene())


def test_what_a_node_was_started_to_ignore_it_and_its_children_ignore(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            command = ignoring({signal.SIGHUP, signal.SIGCHLD}, JOIN, blocked={signal.SIGTERM})
            with join(supervisor.address, 0, 1, program=command) as program:
                peer = await supervisor.peer()
                await peer.next(NodeHello)
                peer.send(welcome(configuration(checkpoint_folder)))
                await peer.next(NodeReady)
                peer.send(LaunchChild(rank(0), {}))
                launched = await peer.next(ChildLaunched)
                program.signal(signal.SIGHUP)
                assert signal.SIGHUP in ignored_by(launched.pid)
                peer.send(SignalChild(rank(0), signal.SIGKILL))
                assert await peer.next(ChildExited) == ChildExited(rank(0), -signal.SIGKILL)
                program.signal(signal.SIGTERM)
                assert await peer.next(Failed) == Failed("stopped by SIGTERM")
                await peer.ended
                assert await ended(program) == 128 + signal.SIGTERM

    run(scene())


def test_a_node_that_is_turned_away_says_why(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            with node(supervisor.address, 0) as program:
                peer = await supervisor.peer()
                await peer.next(NodeHello)
                peer.send(Refused("rank 0 comes too late"))
                peer.connection.close()
                assert await ended(program) == 1
                assert program.stderr.endswith("turned us away: rank 0 comes too late\n")

    run(scene())


def test_another_model_is_told_on_both_sides_and_the_right_one_can_be_named(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    async def scene() -> None:
        other = write_checkpoint(tmp_path, max_position_embeddings=99)
        (other / "chat_template.jinja").write_text("{{ messages }}")
        for folder, status in ((other, 1), (checkpoint_folder, 0)):
            async with supervising() as supervisor:
                with node(supervisor.address, 0, flags=("--model", str(folder))) as program:
                    peer = await supervisor.peer()
                    peer.send(welcome(configuration(checkpoint_folder)))
                    if status:
                        reason = (await peer.next(Failed)).reason
                        assert f"in {other} chat_template.jinja is not among the service's files" in reason
                        assert "config.json differs (" in reason
                        assert "--model FOLDER" in reason
                    else:
                        await peer.next(NodeReady)
                        peer.send(Stop())
                    assert await ended(program) == status
                    assert not status or reason in program.stderr

    run(scene())


def test_a_port_that_is_taken_on_the_nodes_machine_is_told_with_its_holder(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with supervising() as supervisor:
                with node(supervisor.address, 0, flags=("--serve",)) as program:
                    peer = await supervisor.peer()
                    peer.send(welcome(configuration(checkpoint_folder, api_servers_per_node=1, port=port)))
                    reason = (await peer.next(Failed)).reason
                    assert f"127.0.0.1:{port} is in use by " in reason
                    assert await ended(program) == 1

    run(scene())


def test_what_arrives_is_no_message_and_the_node_ends(checkpoint_folder: Path) -> None:
    async def scene() -> None:
        async with supervising() as supervisor:
            with node(supervisor.address, 0) as program:
                peer = await supervisor.peer()
                peer.send(Hello(Role.ENGINE, 0, Incarnation(0), 1))
                assert await ended(program) == EXIT_ORPHANED
                assert "sent what does not decode" in program.stderr

    run(scene())
