"""A service with keys from everywhere and certificates: what its processes, its output and its answers give away."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.certificates import Authority
from support.service import DEADLINE, Service

from phalanx.supervisor.events import ExitCode

TYPED, IN_FILE, IN_ENVIRONMENT = "sesame-typed", "sesame-in-a-file", "sesame-in-the-environment"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def service(
    checkpoint_folder: Path, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    issued, file = authority.issue(), tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{IN_FILE}\n")
    file.chmod(0o600)
    with Service(
        *(str(checkpoint_folder), "--engine", "synthetic", "--log-level", "debug"),
        *("--api-key", TYPED, "--api-key-file", str(file)),
        *("--ssl-certfile", str(issued.certificate), "--ssl-keyfile", str(issued.key)),
        env={"PHALANX_ADMIN_KEY": IN_ENVIRONMENT},
    ) as service:
        yield service.wait_ready()


@pytest.fixture(scope="module")
def client(service: Service, authority: Authority) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with httpx.Client(base_url=service.address, verify=context, timeout=DEADLINE) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_it_serves_https_to_those_with_a_key(service: Service, client: httpx.Client) -> None:
    assert service.address.startswith("https://127.0.0.1:")
    assert f"curl {service.address}/v1/" in service.stdout
    assert client.get("/v1/models").status_code == 401
    for key in (TYPED, IN_FILE):
        answer = client.post("/v1/completions", json={"prompt": [1, 2], "max_tokens": 4}, headers=bearer(key))
        assert answer.json()["usage"]["completion_tokens"] == 4
    assert client.get("/v1/models", headers=bearer(IN_ENVIRONMENT)).status_code == 403


def test_no_process_shows_a_key(service: Service) -> None:
    processes = service.processes()
    assert set(processes) == {"phalanx supervisor", "phalanx api 0", "phalanx engine 0"}
    for name, pid in processes.items():
        for shown in ("cmdline", "environ"):
            assert b"sesame" not in Path(f"/proc/{pid}/{shown}").read_bytes(), f"{shown} of {name}"


def test_no_answer_and_no_line_printed_shows_a_key(service: Service, client: httpx.Client) -> None:
    headers = bearer(TYPED)
    for path in ("/metrics", "/openapi.json", "/v1/models", "/ready", "/version", f"/{IN_FILE[:3]}"):
        assert "sesame" not in client.get(path, headers=headers).text
    refused = client.get("/v1/models", headers=bearer("a-guess-of-a-key"))
    assert "a-guess-of-a-key" not in refused.text
    assert client.post("/v1/completions", content=b"{", headers=headers).status_code == 400
    assert "sesame" not in service.output
    assert "a-guess-of-a-key" not in service.output
    assert "warning: --api-key: `ps` showed this key" in service.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ssl-certfile", "/nowhere.pem"], "--ssl-certfile: cannot read /nowhere.pem: No such file or directory"),
        (["--ssl-keyfile", "key.pem"], "--ssl-keyfile needs --ssl-certfile"),
        (["--api-key-file", "/nowhere"], "--api-key-file: cannot read /nowhere: No such file or directory"),
    ],
)
def test_what_cannot_be_used_ends_the_start_before_anything_is_started(flags: list[str], says: str) -> None:
    with Service(*flags) as service:
        assert service.wait() == ExitCode.USAGE
        assert service.output == f"phalanx serve: {says}\n"
        service.assert_nothing_left()
