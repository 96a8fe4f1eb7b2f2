"""`phalanx ranks` and `phalanx scale`: what they ask of the service, what they show, one line for what goes wrong."""

import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.certificates import Authority
from support.service import DEADLINE, Service

from phalanx.cli import main, wait_for_ranks

KEY = "an-admin-key-for-tests"


def rank(number: int, state: str = "serving", **further: Any) -> dict[str, Any]:
    return {
        "rank": number,
        "state": state,
        "incarnation": 0,
        "restarts": 0,
        "pid": 7,
        "where": "",
        "since": 3.0,
        **further,
    }


def fleet(*ranks: dict[str, Any]) -> tuple[int, Any]:
    servers = [{"index": 0, "state": "serving"}, {"index": 1, "state": "restarting"}]
    return 200, {"data_parallel_size": len(ranks), "ranks": list(ranks), "api_servers": servers}


class FakeService:
    """Answers with what it was given, in order, the last for ever; keeps what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None, uds: Path | None = None) -> None:
        self.answers: list[tuple[int, Any]] = [fleet(rank(0), rank(1))]
        self.asked: list[tuple[str, str, str, Any]] = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                key = self.headers.get("authorization", "")
                fake.asked.append((self.command, self.path, key, json.loads(body) if body else None))
                status, content = fake.answers.pop(0) if len(fake.answers) > 1 else fake.answers[0]
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, *arguments: object) -> None: ...

        self._server: socketserver.BaseServer
        if uds is not None:
            server = self._server = socketserver.ThreadingUnixStreamServer(str(uds), Handler)
        else:
            server = self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            self.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_ADMIN_KEY", KEY)
    monkeypatch.setattr(wait_for_ranks, "LOOK", 0.02)


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


def refusal(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def test_ranks_are_a_table(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    busy = rank(10, restarts=2, where="node-b", since=7300.0, running=3, waiting=1, kv_used_tokens=1, kv_total_tokens=8)
    service.answers = [fleet(rank(2, "restarting", pid=None, detail="weights", new_field=1), busy)]
    assert main(["ranks", "--url", service.url]) == 0
    assert service.asked == [("GET", "/admin/ranks", f"Bearer {KEY}", None)]
    assert capsys.readouterr().out.splitlines() == [
        "rank  state       for  restarts  pid  machine  running  waiting  KV cache",
        "2     restarting  3 s  0         -    -        -        -        -         weights",
        "10    serving     2 h  2         7    node-b   3        1        12 %",
        "",
        "ranks that shall serve: 2; API servers: 1 restarting, 1 serving",
    ]


@pytest.mark.parametrize(
    ("command", "path", "body"),
    [
        (["ranks", "drain", "3", "--timeout", "2.5"], "/admin/ranks/3/drain", {"timeout": 2.5}),
        (["ranks", "drain", "3"], "/admin/ranks/3/drain", {"timeout": None}),
        (["ranks", "resume", "3"], "/admin/ranks/3/resume", {}),
        (["ranks", "restart", "0", "--timeout=0"], "/admin/ranks/0/restart", {"timeout": 0.0}),
        (["scale", "4"], "/admin/scale", {"data_parallel_size": 4}),
        (["scale", "2", "--retire", "3, 5"], "/admin/scale", {"data_parallel_size": 2, "retire": [3, 5]}),
        (["scale", "--retire", "5", "--timeout", "9"], "/admin/scale", {"retire": [5], "timeout": 9.0}),
    ],
)
def test_what_is_typed_is_asked(command: list[str], path: str, body: Any, service: FakeService) -> None:
    service.answers = [(202, fleet(rank(0))[1])]
    assert main([*command, "--url", f"{service.url}/"]) == 0
    assert service.asked == [("POST", path, f"Bearer {KEY}", body)]


def test_scale_waits_until_the_ranks_serve_and_says_what_changes(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers = [
        fleet(rank(0), rank(1, "leaving"), rank(2, "starting")),
        fleet(rank(0), rank(1, "leaving"), rank(2)),
        refusal(503, "The server is being stopped."),  # one API server of several
        fleet(rank(0), rank(2)),
    ]
    assert main(["scale", "2", "--retire", "1", "--wait", "--url", service.url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rank 0: serving",
        "rank 1: leaving",
        "rank 2: starting",
        "rank 2: serving",
        "rank 1: gone",
    ]
    assert len(service.asked) == 4


def test_a_restart_is_over_when_the_next_incarnation_serves(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    again = rank(1, "serving", incarnation=1)
    steps = (rank(1), rank(1, "draining"), rank(1, "restarting", incarnation=1), again)
    service.answers = [fleet(rank(0, "fallen"), step) for step in steps]
    assert main(["ranks", "restart", "1", "--wait", "--url", service.url]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == ["rank 1: draining", "rank 1: restarting", "rank 1: serving"]


def test_waiting_ends_with_a_rank_that_falls_for_good_or_with_the_service(
    service: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.answers = [fleet(rank(0), rank(1, "starting")), fleet(rank(0), rank(1, "fallen"))]
    assert main(["scale", "2", "--wait", "--url", service.url]) == 1
    assert capsys.readouterr().err == (
        "phalanx scale: rank 1 fell too often and was given up: the service's log says why\n"
    )
    monkeypatch.setattr(wait_for_ranks, "GAP", 0.0)
    service.answers = [fleet(rank(0), rank(1, "starting")), refusal(503, "The server is being stopped.")]
    assert main(["scale", "2", "--wait", "--url", service.url]) == 1
    assert capsys.readouterr().err == f"phalanx scale: {service.url} answers 503: The server is being stopped.\n"


def test_ctrl_c_leaves_the_service_to_it(
    service: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(wait_for_ranks.time, "sleep", interrupt)
    service.answers = [fleet(rank(0), rank(1, "starting"))]
    assert main(["scale", "2", "--wait", "--url", service.url]) == 130
    assert capsys.readouterr().err == "phalanx scale: no longer waiting; the service goes on with it\n"


def test_what_goes_wrong_is_one_line(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    for answer, words in (
        (refusal(401, "This key is not one of the server's."), "refuses (401): This key is not one of the server's."),
        (refusal(409, "Rank 1 is leaving\nfor good."), "refuses (409): Rank 1 is leaving for good."),
        ((404, b"<html>"), "refuses (404): Not Found; is it a Phalanx service?"),
        ((302, b""), "refuses (302): Found; is it a Phalanx service?"),
        ((200, b"{}"), "answers something else than a Phalanx service would: "),
    ):
        service.answers = [answer]
        assert main(["ranks", "--url", service.url]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"phalanx ranks: {service.url} {words}")
        assert len(said.splitlines()) == 1
        assert KEY not in said


def test_where_nobody_answers_is_told(
    service: FakeService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as silent:
        monkeypatch.setattr("phalanx.cli.admin_client.PATIENCE", 0.05)
        url = f"http://127.0.0.1:{silent.server_address[1]}"
        assert main(["ranks", "--url", url]) == 1
        assert capsys.readouterr().err == f"phalanx ranks: {url} does not answer within 0.05 s\n"
    assert main(["ranks", "--url", url]) == 1
    assert capsys.readouterr().err == f"phalanx ranks: no service answers at {url}: Connection refused\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["ranks", "drian", "1"], "drian is not one of drain, resume, restart; did you mean drain?"),
        (["ranks", "drain"], "the following arguments are required: N"),
        (["ranks", "drain", "one"], "one is not the number of a rank"),
        (["ranks", "drain", "1", "--timeout", "soon"], "--timeout soon is not a number of seconds"),
        (["ranks", "resume", "1", "--timeout", "1"], "--timeout is not an option"),
        (["scale"], "give the number of ranks that there shall be, or --retire"),
        (["scale", "0"], "0 is not a number of ranks"),
        (["scale", "2", "--retire", "1,x"], "x is not the number of a rank"),
        (["ranks", "--url", "localhost:8000"], "--url localhost:8000 is not http://HOST:PORT"),
        (["ranks", "--url", "http://h:x"], "--url http://h:x is not http://HOST:PORT"),
        (
            ["ranks", "--url", "unix:/a b"],
            "--url unix:/a b is not http://HOST:PORT or https://HOST:PORT; a socket file is",
        ),
        (["ranks", "--uds", "/x", "--ca-file", "x"], "--ca-file is for an --url that begins with https://"),
        (["ranks", "--ca-file", "x"], "--ca-file is for an --url that begins with https://"),
        (["ranks", "--url", "https://h", "--ca-file", "/nowhere"], "--ca-file: cannot read /nowhere: "),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(
    command: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"phalanx {command[0]}: {words}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("verb", "path"), [(["ranks"], "/admin/ranks"), (["scale", "2"], "/admin/scale")])
def test_a_service_on_a_socket_file_is_asked_there(
    verb: list[str], path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uds = tmp_path / "web.sock"
    assert main([*verb, "--uds", str(uds)]) == 1
    assert capsys.readouterr().err == (
        f"phalanx {verb[0]}: no service answers at http://localhost on {uds}: No such file or directory\n"
    )
    service = FakeService(uds=uds)
    try:
        assert main([*verb, "--uds", str(uds)]) == 0
        assert main([*verb, "--uds", str(uds), "--url", "http://x/below/"]) == 0
    finally:
        service.close()
    assert [asked for _, asked, _, _ in service.asked] == [path, f"/below{path}"]


def test_a_socket_file_may_speak_https(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, uds = Authority(tmp_path), tmp_path / "web.sock"
    server = authority.issue()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(server.certificate, server.key)
    service = FakeService(tls, uds)
    try:
        command = ["ranks", "--uds", str(uds), "--ca-file", str(authority.certificate), "--url"]
        assert main([*command, "https://127.0.0.1"]) == 0
        assert main([*command, "https://elsewhere.example"]) == 1
        assert "its certificate is not trusted: " in capsys.readouterr().err
    finally:
        service.close()


def test_the_key_comes_from_a_file_or_the_environment(
    service: FakeService, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key\nsecond-key\n")
    assert main(["ranks", "--url", service.url, "--admin-key-file", str(file)]) == 0
    assert service.asked[-1][2] == "Bearer first-key"
    monkeypatch.delenv("PHALANX_ADMIN_KEY")
    assert main(["ranks", "--url", service.url]) == 2
    assert "give the service's admin key: --admin-key-file FILE, or PHALANX_ADMIN_KEY" in capsys.readouterr().err


def test_over_https_both_ends_may_show_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    server, client = authority.issue(), authority.issue("operator")
    own = tmp_path / "own.pem"
    own.write_bytes(client.certificate.read_bytes() + client.key.read_bytes())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    tls.load_cert_chain(server.certificate, server.key)
    tls.verify_mode = ssl.CERT_REQUIRED
    service = FakeService(tls)
    try:
        command = ["ranks", "--url", service.url]
        assert main([*command, "--ca-file", str(authority.certificate), "--cert-file", str(own)]) == 0
        assert main([*command, "--ca-file", str(stranger.certificate), "--cert-file", str(own)]) == 1
        assert "its certificate is not trusted: " in capsys.readouterr().err
        assert main([*command, "--ca-file", str(authority.certificate)]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert len(service.asked) == 1
    finally:
        service.close()


def test_ranks_of_a_running_service_are_moved(
    start_service: Callable[..., Service], capsys: pytest.CaptureFixture[str]
) -> None:
    served = start_service(
        *("--engine", "synthetic", "-dp", "2", "--api-server-count", "2"), env={"PHALANX_ADMIN_KEY": KEY}
    ).wait_ready()
    where = ("--url", served.address)
    for command, last in (
        (["scale", "3", "--wait"], "rank 2: serving"),
        (["ranks", "drain", "0", "--wait"], "rank 0: drained"),
        (["ranks", "restart", "1", "--wait"], "rank 1: serving"),
        (["ranks", "resume", "0", "--wait"], "rank 0: serving"),
        (["scale", "--retire", "1", "--wait"], "rank 1: gone"),
    ):
        assert main([*command, *where]) == 0, capsys.readouterr()
        assert capsys.readouterr().out.splitlines()[-1] == last
    assert main(["ranks", *where]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[1:3]] == [["0", "serving"], ["2", "serving"]]
    assert main(["ranks", "drain", "1", *where]) == 1
    assert "refuses (404): There is no rank 1" in capsys.readouterr().err
    body = {"prompt": [1, 2, 3], "max_tokens": 4}
    assert httpx.post(f"{served.address}/v1/completions", json=body, timeout=DEADLINE).status_code == 200
