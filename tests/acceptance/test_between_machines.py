"""TLS between the machines of a service: who may join, and what somebody on the wire sees."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from acceptance.test_join import answers, control_of, fetched, serve
from support import sniffer
from support.certificates import Authority, Files
from support.fake_supervisor import SECRET
from support.namespaces import HEAD, NODE, Machines, two_machines
from support.nodes import join
from support.service import DEADLINE, SERVE, Service

from phalanx.transport import tls

API_KEY = "a-key-that-clients-show"
WORDS = "MyGrandmothersSecretRecipe"
"""What a client asks."""
ON_THE_WIRE = bytes(ord(letter) - ord("!") for letter in WORDS)
"""The same as token ids of the test checkpoint, which MessagePack writes as one byte each."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("cluster"))


def options(files: Files) -> tuple[str, ...]:
    return tuple(f"{flag}={path}" for flag, path in zip(tls.FLAGS, files, strict=True))


def test_who_shows_no_certificate_of_the_cluster_is_turned_away_and_who_does_serves(
    authority: Authority, checkpoint_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHALANX_AUDIT_LISTENERS", str(tmp_path / "audit"))
    stranger = Authority(tmp_path, "stranger")
    flags = ("--tensor-parallel-size", "2", "--api-servers-per-node", "1", *options(authority.issue("head")))
    with serve(checkpoint_folder, 2, 1, *flags) as service:
        control = control_of(service)

        def refused(words: str, there: str, *flags: str) -> None:
            with join(control, 1, 1, *flags) as program:
                assert program.wait() == 1
                (line,) = program.stderr.splitlines()
                assert line.startswith(f"phalanx join: {'tls' if flags else 'tcp'}:{control}: ")
                assert words in line
                assert "PHALANX_SECRET" not in line
            service.wait_for(f"dropped a connection from 127.0.0.1: {there}")

        refused("refused by the listener: TLS is needed here: give --cluster-ssl-certfile", "it does not speak TLS")
        refused(
            "its certificate does not hold here: ",
            "it does not accept our certificate: unknown ca",
            *options(stranger.issue("node")),
        )
        with join(control, 1, 1, *options(authority.issue("node"))) as joined:
            service.wait_ready()
            found = re.search(r"API servers at (\S+)", joined.stderr)
            assert found
            for address in (service.address, found.group(1)):
                assert answers(address, checkpoint_folder) == 5
            assert service.stop() == 0
            assert joined.wait() == 0
            joined.assert_nothing_left()
    # Nobody is told an address in the clear, and a dial that only looks disturbs no listener.
    told = (tmp_path / "audit").read_text().splitlines()
    assert {line.partition(":")[0] for line in told} == {"unix", "tls"}
    assert {line.partition(" ")[2] for line in told} == {"listens"}
    assert service.stderr.count("dropped a connection") == 2


def test_a_join_with_certificates_to_a_service_without_is_told_at_both_ends(
    authority: Authority, checkpoint_folder: Path
) -> None:
    with serve(checkpoint_folder, 1, 0) as service:
        with join(control_of(service), 0, 1, *options(authority.issue("node"))) as program:
            assert program.wait() == 1
            assert "what listens there does not speak TLS: leave --cluster-ssl-certfile out here" in program.stderr
        service.wait_for("the dialer speaks TLS, and here nobody does: give --cluster-ssl-certfile at both ends")
        assert service.stop() == 0


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with two_machines() as machines:
        yield machines


class Wire:
    """What crosses the cable between two machines."""

    def __init__(self, process: "subprocess.Popen[bytes]", machines: Machines) -> None:
        self._process = process
        self._machines = machines
        self._seen = bytearray()

    def read_until(self, word: bytes) -> bytes:
        assert self._process.stdout is not None
        while word not in self._seen:
            data = self._process.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            assert data, "the sniffer has ended"
            self._seen += data
        return bytes(self._seen)

    def all_so_far(self) -> bytes:
        """What crossed it before this call: a packet of our own goes behind."""
        last = b"the last packet"
        send = "import socket, sys; socket.socket(type=2).sendto(sys.argv[2].encode(), (sys.argv[1], 9))"
        subprocess.run([*self._machines.on_head, sys.executable, "-S", "-c", send, NODE, last.decode()], check=True)
        return self.read_until(last)


@contextmanager
def sniffed(machines: Machines) -> Iterator[Wire]:
    process = subprocess.Popen(
        [*machines.on_head, sys.executable, "-S", sniffer.__file__, "cable"], stdout=subprocess.PIPE
    )
    deadline = threading.Timer(DEADLINE, process.kill)
    deadline.start()
    try:
        wire = Wire(process, machines)
        wire.read_until(b"listening")
        yield wire
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("encrypted", [True, False], ids=["TLS", "in the clear"])
def test_who_listens_on_the_wire_sees_neither_prompts_nor_keys(
    encrypted: bool, machines: Machines, authority: Authority, checkpoint_folder: Path
) -> None:
    here, there = (options(authority.issue(host)) if encrypted else () for host in (HEAD, NODE))
    service = Service(
        *(str(checkpoint_folder), "--engine", "synthetic", "-dp", "1", "--data-parallel-size-local", "0"),
        *("--data-parallel-address", HEAD, "--api-servers-per-node", "1", "--api-key", API_KEY, *here),
        command=(*machines.on_head, *SERVE),
        env={"PHALANX_SECRET": SECRET},
    )
    with sniffed(machines) as wire, service, join(control_of(service), 0, 1, *there, on=machines.on_node) as joined:
        service.wait_ready()
        body = {"model": str(checkpoint_folder), "messages": [{"role": "user", "content": WORDS}], "max_tokens": 5}
        # From the head to its own HTTP port: a client's connection does not cross the cable.
        answer = fetched(machines.on_head, f"{service.address}/v1/chat/completions", json.dumps(body), API_KEY)
        assert json.loads(answer)["usage"]["completion_tokens"] == 5
        seen = wire.all_so_far()
        for word in (ON_THE_WIRE, API_KEY.encode(), b"phalanx", str(checkpoint_folder).encode()):
            assert (word in seen) == (not encrypted), word
        assert SECRET.encode() not in seen
        assert service.stop() == 0
        assert joined.wait() == 0
