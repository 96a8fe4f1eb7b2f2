"""HTTPS: who is answered, what a bad certificate is told, renewal, and clients that do not speak TLS properly."""

import itertools
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.certificates import Authority, Files
from support.fake_engine import DEADLINE, FakeRank, ServedApi, an_output, answering, byte_token, events

from phalanx.api import https
from phalanx.config import HttpOptions
from phalanx.protocol import FinishReason

PROMPT = {"prompt": "hi"}
PATIENCE = 20.0
"""Seconds: less than a connection is held by default for a client that does not say farewell."""
TEXT = "a text of some length, a token at a time"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Files:
    return authority.issue()


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path, server: Files) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering(TEXT), **flags(server)) as api:
        yield api


def flags(files: Files, **further: Any) -> dict[str, Any]:
    return {"ssl_certfile": str(files.certificate), "ssl_keyfile": str(files.key), **further}


def a_client(authority: Authority, shown: Files | None = None) -> ssl.SSLContext:
    """Trusts the authority alone, and checks the name."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context


def serial_number(api: ServedApi, context: ssl.SSLContext) -> str:
    """Of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", api.port), DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        certificate = connection.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def still_serves(api: ServedApi) -> bool:
    return bool(api.http.post("/v1/completions", json=PROMPT).json()["choices"][0]["text"])


def test_a_client_that_trusts_the_authority_is_answered_whole_and_streamed(
    api: ServedApi, authority: Authority
) -> None:
    with httpx.Client(base_url=api.url, verify=a_client(authority), timeout=DEADLINE) as client:
        assert client.get("/health").status_code == 200
        body = {**PROMPT, "max_tokens": 100}
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == TEXT
        streamed = client.post("/v1/completions", json={**body, "stream": True}).content
        assert "".join(event["choices"][0]["text"] for event in events(streamed)) == TEXT
        assert streamed.endswith(b"data: [DONE]\n\n")


def test_a_client_that_trusts_somebody_else_is_not(api: ServedApi, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    with (
        httpx.Client(base_url=api.url, verify=a_client(stranger)) as client,
        pytest.raises(httpx.ConnectError, match="certificate verify failed"),
    ):
        client.get("/health")
    assert still_serves(api)


def test_each_token_of_a_stream_leaves_at_once(checkpoint_folder: Path, server: Files) -> None:
    """The way past ASGI, which writes to the connection itself, encrypts too and holds nothing back."""
    rank, text = FakeRank(), "one by one"

    def push(character: str) -> None:
        (asked,) = rank.wait_asked(1)
        rank.push(asked, an_output([byte_token(ord(character))]))

    with ServedApi(checkpoint_folder, rank, **flags(server)) as api:
        body = {**PROMPT, "stream": True, "max_tokens": 50}
        # The answer begins with the first token.
        first = threading.Thread(target=push, args=(text[0],))
        first.start()
        with api.http.stream("POST", "/v1/completions", json=body) as answer:
            first.join(DEADLINE)
            lines = (line for line in answer.iter_lines() if line)
            for character, following in itertools.pairwise([*text, ""]):
                assert json.loads(next(lines).removeprefix("data: "))["choices"][0]["text"] == character
                if following:
                    push(following)
            rank.push(rank.asked[0], an_output([256], FinishReason.STOP))
            assert [*lines][-1] == "data: [DONE]"


def test_a_slow_reader_gets_every_byte(checkpoint_folder: Path, server: Files) -> None:
    """What does not fit into the connection waits encrypted, in order."""
    long = "0123456789" * 150
    with ServedApi(checkpoint_folder, answering(long), **flags(server)) as api:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.socket() as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.settimeout(DEADLINE)
            plain.connect(("127.0.0.1", api.port))
            body = json.dumps({**PROMPT, "stream": True, "max_tokens": 1600, "n": 8}).encode()
            with context.wrap_socket(plain) as connection:
                connection.sendall(
                    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(body), body)
                )
                answer = b"".join(iter(lambda: connection.recv(1000), b""))
        texts = [""] * 8
        for line in answer.replace(b"\r\n", b"\n").split(b"\n"):
            if line.startswith(b"data: {"):
                choice = json.loads(line.removeprefix(b"data: "))["choices"][0]
                texts[choice["index"]] += choice["text"]
        assert texts == [long] * 8


@pytest.mark.parametrize(
    "said", [b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 999]
)
def test_who_does_not_speak_tls_is_hung_up_on_and_harms_nobody(api: ServedApi, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), DEADLINE) as connection:
        connection.sendall(said)
        try:
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionResetError:
            answer = b""
        assert b"HTTP/" not in answer
    assert still_serves(api)


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"])
def test_who_stalls_in_the_handshake_is_dropped(
    checkpoint_folder: Path, server: Files, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "HANDSHAKE_TIMEOUT", 0.2)
    with (
        ServedApi(checkpoint_folder, answering("ok"), **flags(server)) as api,
        socket.create_connection(("127.0.0.1", api.port), DEADLINE) as connection,
    ):
        connection.sendall(begun)
        try:
            assert connection.recv(65536) == b""
        except ConnectionResetError:
            pass
        assert still_serves(api)


def test_a_client_that_keeps_its_connection_open_does_not_hold_up_the_end(
    checkpoint_folder: Path, server: Files, authority: Authority
) -> None:
    api = ServedApi(checkpoint_folder, answering("ok"), **flags(server))
    with (
        api,
        socket.create_connection(("127.0.0.1", api.port), DEADLINE) as plain,
        a_client(authority).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        api.stop()


def test_who_does_not_answer_a_farewell_holds_no_connection(
    checkpoint_folder: Path, server: Files, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "SHUTDOWN_TIMEOUT", 0.1)
    with (
        ServedApi(checkpoint_folder, answering("ok"), keep_alive_timeout=0.1, **flags(server)) as api,
        socket.create_connection(("127.0.0.1", api.port)) as plain,
        a_client(authority).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        # Past TLS, which would answer.
        socket.socket(fileno=os.dup(connection.fileno())) as raw,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        raw.settimeout(PATIENCE)
        while raw.recv(65536):
            pass


@pytest.mark.parametrize(
    ("reqs", "shown", "answered"),
    [
        ("required", "ours", True),
        ("required", "a stranger's", False),
        ("required", None, False),
        (2, "ours", True),
        (2, None, False),
        ("optional", None, True),
        ("optional", "ours", True),
        ("optional", "a stranger's", False),
    ],
)
def test_clients_show_certificates_where_they_must(
    checkpoint_folder: Path,
    authority: Authority,
    server: Files,
    tmp_path: Path,
    reqs: str | int,
    shown: str | None,
    answered: bool,
) -> None:
    own = {None: None, "ours": authority.issue("client"), "a stranger's": Authority(tmp_path).issue("client")}[shown]
    options = flags(server, ssl_ca_certs=str(authority.certificate), ssl_cert_reqs=reqs)
    api = ServedApi(checkpoint_folder, answering("ok"), attach=False, **options)
    with api, httpx.Client(base_url=api.url, verify=a_client(authority, own), timeout=DEADLINE) as client:
        if answered:
            assert client.get("/health").status_code == 200
        else:
            with pytest.raises(httpx.TransportError):
                client.get("/health")


def test_a_certificate_that_was_replaced_is_shown_from_then_on_and_a_bad_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Looked at step by step, as the server's loop does once a second."""
    caplog.set_level("INFO")
    authority = Authority(tmp_path)
    old, new, other = authority.issue("localhost"), authority.issue("127.0.0.1"), Authority(tmp_path, "other").issue()
    live = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def put(certificate: Path, key: Path | None) -> None:
        for path, source in zip(live, (certificate, key), strict=True):
            if source is not None:
                written = path.with_suffix(".new")
                written.write_bytes(source.read_bytes())
                written.replace(path)

    put(old.certificate, old.key)
    http = HttpOptions(ssl_certfile=str(live[0]), ssl_keyfile=str(live[1]))
    context = https.context(http)
    assert context is not None
    renewal = https.Renewal(http, context)

    def shown() -> bytes:
        return peer_certificate(context)

    assert shown() == der(old.certificate)
    renewal.look()
    put(new.certificate, None)
    renewal.look()  # it has changed just now
    assert not caplog.records
    renewal.look()  # its key is still the old one's
    assert "the old one is kept: the key in" in caplog.text
    assert shown() == der(old.certificate)
    put(new.certificate, new.key)
    renewal.look()
    renewal.look()
    assert shown() == der(new.certificate)
    live[0].write_text("nothing")
    live[1].unlink()
    for _ in range(3):
        renewal.look()
    assert shown() == der(new.certificate)
    assert len(caplog.records) == 3
    put(other.certificate, other.key)
    renewal.look()
    renewal.look()
    assert shown() == der(other.certificate)


def test_a_server_shows_a_renewed_certificate_by_itself(checkpoint_folder: Path, tmp_path: Path) -> None:
    authority, certificate = Authority(tmp_path), tmp_path / "both.pem"

    def put(issued: Files) -> None:
        certificate.write_bytes(issued.certificate.read_bytes() + issued.key.read_bytes())

    put(authority.issue())
    context = a_client(authority)
    with ServedApi(checkpoint_folder, answering("ok"), attach=False, ssl_certfile=str(certificate)) as api:
        before = serial_number(api, context)
        kept = httpx.Client(base_url=api.url, verify=context, timeout=DEADLINE)
        assert kept.get("/health").status_code == 200
        put(authority.issue())
        deadline = time.monotonic() + DEADLINE
        while serial_number(api, context) == before:
            assert time.monotonic() < deadline
        assert kept.get("/health").status_code == 200
        kept.close()


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(
        certificate.read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )


def peer_certificate(server: ssl.SSLContext) -> bytes:
    """What a client in memory is shown."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for each in (ours, theirs, ours):
        try:
            each.do_handshake()
        except ssl.SSLWantReadError:
            pass
    found = ours.getpeercert(binary_form=True)
    assert found is not None
    return found


# --- what cannot be used --------------------------------------------------------------------------


def refusal(**named: Any) -> str:
    with pytest.raises(https.CertificateError) as refused:
        https.context(HttpOptions(**{name: str(value) for name, value in named.items()}))
    return str(refused.value)


def encrypted(key: Path, password: str, folder: Path) -> Path:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    path = folder / "encrypted.pem"
    path.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    return path


def test_files_that_cannot_be_used_are_named_with_their_reason(
    server: Files, authority: Authority, tmp_path: Path
) -> None:
    other, nothing = authority.issue("other"), tmp_path / "nothing.pem"
    nothing.write_text("nothing\n")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    certificate, key = server.certificate, server.key
    assert refusal(ssl_certfile="/nowhere") == "--ssl-certfile: cannot read /nowhere: No such file or directory"
    assert refusal(ssl_certfile=certificate, ssl_keyfile=tmp_path).startswith("--ssl-keyfile: cannot read")
    assert (
        refusal(ssl_certfile=nothing, ssl_keyfile=key) == f"--ssl-certfile: {nothing} holds no certificate in PEM form"
    )
    assert f"{nothing} holds no private key" in refusal(ssl_certfile=certificate, ssl_keyfile=nothing)
    assert "without --ssl-keyfile" in refusal(ssl_certfile=certificate)
    assert (
        refusal(ssl_certfile=certificate, ssl_keyfile=other.key)
        == f"the key in {other.key} is not that of the certificate in {certificate}"
    )
    assert f"{broken} and {key} cannot be used" in refusal(ssl_certfile=broken, ssl_keyfile=key)
    assert f"--ssl-ca-certs: {nothing} holds no certificate" in refusal(
        ssl_certfile=certificate, ssl_keyfile=key, ssl_ca_certs=nothing
    )
    assert f"--ssl-ca-certs: {broken} cannot be used" in refusal(
        ssl_certfile=certificate, ssl_keyfile=key, ssl_ca_certs=broken
    )


def test_an_encrypted_key_takes_its_password_from_a_file_and_asks_nobody(server: Files, tmp_path: Path) -> None:
    key, password = encrypted(server.key, "open sesame", tmp_path), tmp_path / "password"
    password.write_text("open sesame\n")
    named = {"ssl_certfile": server.certificate, "ssl_keyfile": key}
    assert "is encrypted: give --ssl-keyfile-password-file" in refusal(**named)
    options = {name: str(value) for name, value in named.items()}
    assert https.context(HttpOptions(**options, ssl_keyfile_password_file=str(password))) is not None
    password.write_text("guess\n")
    said = refusal(**named, ssl_keyfile_password_file=password)
    assert f"the password in {password} does not open the key in {key}" == said
