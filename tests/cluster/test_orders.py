"""What the actor of a node is told to run."""

from pathlib import Path

import pytest
from certificates import Authority

from phalanx.cluster.packing import Node
from phalanx.cluster.seats import Seat, Seats
from phalanx.protocol import Place, Role, StartNode
from phalanx.transport import tls


def test_a_node_is_told_where_the_services_certificates_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node("id", "10.0.0.2", "n", 1.0, 1.0, False, ())
    seat = Seat(StartNode("tls:10.0.0.1:7", (Place(Role.ENGINE, 3),), "", 0), node, None, 0.0)
    for name in tls.VARIABLES:
        monkeypatch.setenv(name, "")
    assert not set(tls.FLAGS) & {word.partition("=")[0] for word in Seats._command(None, seat)}  # type: ignore[arg-type]
    files = tls.Files(*Authority(tmp_path).issue())
    tls.adopt(files)
    command = Seats._command(None, seat)  # type: ignore[arg-type]
    assert {f"{flag}={path}" for flag, path in zip(tls.FLAGS, files, strict=True)} < set(command)
