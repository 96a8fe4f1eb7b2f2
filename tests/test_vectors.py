"""The bytes of every message, as `tests/vectors/*.json` holds them for front-ends in any language."""

import json
from typing import Any

import msgspec
import pytest
from vectors import samples

from phalanx import protocol
from phalanx.protocol import Message, ToApi, ToChild, ToEngine, ToLeader, ToNode, ToSupervisor, ToWorker
from phalanx.transport import frames, handshake
from phalanx.transport.handshake import Dialer, HandshakeRefused, Listener

UNIONS: tuple[Any, ...] = (ToSupervisor, ToChild, ToNode, ToEngine, ToApi, ToWorker, ToLeader)
"""What the ends of a connection decode; what is in none is sent by nobody."""


def the_file(name: str) -> Any:
    return json.loads((samples.FOLDER / name).read_text())


def decoders_of(kind: str) -> list[msgspec.msgpack.Decoder[Any]]:
    """Of every receiver that takes messages of this type."""
    found = [
        union
        for union in (*UNIONS, handshake.HandshakeMessage)
        if kind in {member.__name__ for member in union.__args__}
    ]
    assert found, f"nobody takes a {kind}"
    return [msgspec.msgpack.Decoder(union) for union in found]


@pytest.mark.parametrize("name", sorted(samples.files()))
def test_what_python_writes_is_what_the_files_hold(name: str) -> None:
    told, ours = the_file(name), samples.files()[name]
    assert without_configuration(told) == without_configuration(ours), "renew.py, if the wire was meant to change"


@pytest.mark.parametrize("name", [name for name in sorted(samples.files()) if isinstance(samples.files()[name], list)])
def test_every_receiver_reads_the_message_out_of_the_bytes(name: str) -> None:
    for entry in the_file(name):
        for decoder in decoders_of(entry["type"]) if "type" in entry else ():
            message = decoder.decode(bytes.fromhex(entry["hex"]))
            assert type(message).__name__ == entry["type"]
            assert holds(samples.view(message), entry["message"]), entry["name"]


def without_configuration(content: Any) -> Any:
    """A new option with a default is no news for those who read Welcome: they skip keys that they do not know."""
    if not isinstance(content, list):
        return content
    return [entry["name"] if entry.get("type") == "Welcome" else entry for entry in content]


def holds(whole: Any, part: Any) -> bool:
    """Equal, but for keys of objects that only `whole` has."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    return bool(whole == part)


@pytest.mark.parametrize("entry", samples.rejected(), ids=lambda entry: entry["name"])
def test_what_is_rejected_ends_a_connection(entry: samples.Entry) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(bytes.fromhex(entry["hex"]), type=ToSupervisor)


def test_every_message_of_the_protocol_has_a_vector() -> None:
    planes = ("control.json", "engine.json", "worker.json")
    written = {entry["type"] for name in planes for entry in the_file(name)}
    tagged = {kind.__name__ for kind in Message.__subclasses__() if kind.__struct_config__.tag is not None}
    ours = {kind for kind in tagged if hasattr(protocol, kind)}
    assert ours - written == set()


@pytest.mark.parametrize("number", range(len(samples.SECRETS)))
def test_a_handshake_with_the_same_nonces_is_the_one_in_the_file(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = the_file("handshake.json")["transcripts"][number]
    nonces = iter([bytes.fromhex(told["dialer_nonce"]), bytes.fromhex(told["listener_nonce"])])
    monkeypatch.setattr(handshake.secrets, "token_bytes", lambda size: next(nonces))
    key = bytes.fromhex(told["key"])
    assert key == told["secret"].encode()
    ends: dict[str, Any] = {"dialer": Dialer(key), "listener": Listener(key)}
    sent = iter(told["frames"])
    first = next(sent)
    answer = ends["dialer"].opening()
    assert bytes(frames.encode(answer)).hex() == first["hex"]
    for frame in sent:
        assert samples.view(answer) == first["message"]
        answer = ends[frame["from"]].receive(bytes.fromhex(first["hex"])[frames.HEADER :])
        assert bytes(frames.encode(answer)).hex() == frame["hex"]
        first = frame
    assert ends["dialer"].receive(bytes.fromhex(first["hex"])[frames.HEADER :]) is None
    assert ends["dialer"].done
    assert ends["listener"].done


def test_the_proofs_in_the_file_hold_for_their_own_secret_only() -> None:
    told = the_file("handshake.json")["transcripts"][0]
    dialer = Dialer(b"another secret, which is long enough")
    dialer._nonce = bytes.fromhex(told["dialer_nonce"])
    challenge = next(frame for frame in told["frames"] if frame["type"] == "Challenge")
    with pytest.raises(HandshakeRefused, match="does not know the launch secret"):
        dialer.receive(bytes.fromhex(challenge["hex"])[frames.HEADER :])
