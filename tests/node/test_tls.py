"""A node that another program starts: where it finds its certificate, and what it says where there is none."""

import asyncio
import json
from pathlib import Path

import pytest
from node.test_node import ended, output_of, run
from support.certificates import Authority
from support.fake_supervisor import SECRET, FakeSupervisor, configuration, rank, welcome
from support.nodes import node, stand_in_node

from phalanx.protocol import LaunchChild, NodeHello, NodeReady, Stop
from phalanx.transport import tls
from phalanx.transport.listener import address_of, bind_tcp
from phalanx.transport.security import Security
from phalanx.transport.stream import serve
from phalanx.transport.tls import Files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def options(files: Files) -> tuple[str, ...]:
    return tuple(f"{flag}={path}" for flag, path in zip(tls.FLAGS, files, strict=True))


def variables(files: Files) -> dict[str, str]:
    return {name: str(path) for name, path in zip(tls.VARIABLES, files, strict=True)}


def test_a_node_shows_this_machines_certificate_or_else_that_of_its_flags(authority: Authority) -> None:
    async def scene() -> None:
        supervisor, identity = FakeSupervisor(), Files(*authority.issue("head"))
        nowhere = Files(*(path.with_name("nowhere") for path in identity))
        sock = bind_tcp("127.0.0.1")
        server = await serve(sock, Security(SECRET.encode(), identity), supervisor.accept)
        address = address_of(sock).replace("tcp:", "tls:")
        own = Files(*authority.issue("node"))
        for flags, environment in ((options(own), {}), (options(nowhere), variables(own))):
            with node(address, 0, flags=flags, env=environment) as program:
                peer = await supervisor.peer()
                await peer.next(NodeHello)
                peer.send(Stop())
                assert await ended(program) == 0
        server.close()

    run(scene())


def test_a_node_whose_files_are_not_there_names_them(authority: Authority) -> None:
    files = Files(*authority.issue("node"))
    nowhere = files._replace(key=files.key.with_name("nowhere"))
    with node("tls:127.0.0.1:1", 0, flags=options(nowhere)) as program:
        assert program.wait() == 1
        assert program.stderr == (
            f"phalanx node: no TLS with the service: cannot read {nowhere.key}: No such file or directory\n"
        )


def test_children_get_this_machines_files_whatever_the_services_are(
    authority: Authority, checkpoint_folder: Path
) -> None:
    async def scene() -> None:
        supervisor, identity = FakeSupervisor(), Files(*authority.issue("head"))
        sock = bind_tcp("127.0.0.1")
        server = await serve(sock, Security(SECRET.encode(), identity), supervisor.accept)
        own = variables(Files(*authority.issue("node")))
        with stand_in_node(address_of(sock).replace("tcp:", "tls:"), 0, env=own) as program:
            peer = await supervisor.peer()
            peer.send(welcome(configuration(checkpoint_folder)))
            await peer.next(NodeReady)
            peer.send(LaunchChild(rank(0), {"DEED": "tell", **variables(identity)}))
            told = json.loads(await output_of(peer, rank(0)))
            assert {name: told["environment"][name] for name in tls.VARIABLES} == own
            assert told["arguments"][1].startswith("tls:127.0.0.1:")
            peer.send(Stop())
            assert await ended(program) == 0
        server.close()

    run(scene())


def test_a_service_without_tls_is_dialled_in_the_clear_whatever_this_machine_has(authority: Authority) -> None:
    async def scene() -> None:
        supervisor = FakeSupervisor()
        sock = bind_tcp("127.0.0.1")
        server = await serve(sock, Security(SECRET.encode()), supervisor.accept)
        with node(address_of(sock), 0, env=variables(Files(*authority.issue("node")))) as program:
            peer = await supervisor.peer()
            hello = await peer.next(NodeHello)
            peer.send(Stop())
            assert hello.places
            assert await asyncio.to_thread(program.wait) == 0
        server.close()

    run(scene())
