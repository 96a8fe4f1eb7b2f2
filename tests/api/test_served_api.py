"""The API servers of a whole service: real processes, real ranks (synthetic engine), one HTTP port."""

import socket
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.service import DEADLINE, Service

SERVERS = 2


@pytest.fixture(scope="module")
def service(checkpoint_folder: Path) -> Iterator[Service]:
    flags = ("--engine", "synthetic", "-dp", "2", "-asc", str(SERVERS), "--synthetic-rate", "200")
    with Service(str(checkpoint_folder), *flags, "--served-model-name", "m") as service:
        yield service.wait_ready()


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.address}/v1", api_key="any", max_retries=0, timeout=DEADLINE) as client:
        yield client


def scrape(service: Service) -> dict[tuple[str, str], float]:
    """One scrape over a connection of its own: any API server may answer. By name and finish reason or else rank."""
    text = httpx.get(f"{service.address}/metrics", timeout=DEADLINE).text
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels and "handler" not in sample.labels:
                key = sample.labels.get("finished_reason", sample.labels.get("engine", ""))
                found[sample.name, key] += sample.value
    return found


def test_many_clients_at_once_get_all_their_tokens(service: Service, client: openai.OpenAI) -> None:
    def complete(number: int) -> int:
        if number % 2:
            answer = client.completions.create(
                model="m", prompt=f"request {number}", max_tokens=20, extra_body={"ignore_eos": True}
            )
            assert answer.usage is not None
            return answer.usage.completion_tokens
        stream = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": f"request {number}"}],
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        *chunks, last = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert last.usage is not None
        return last.usage.completion_tokens

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(complete, range(48))) == [20] * 48


def test_streamed_and_whole_texts_are_the_same(client: openai.OpenAI) -> None:
    options = {"model": "m", "prompt": "The same again", "max_tokens": 30, "seed": 3, "temperature": 0}
    whole = client.completions.create(**options).choices[0].text  # type: ignore[call-overload]
    stream = client.completions.create(**options, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in stream) == whole != ""


def test_a_prompt_can_be_scored(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt="Score me", echo=True, logprobs=2, max_tokens=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert "".join(logprobs.tokens[:8]) == "Score me"
    assert logprobs.token_logprobs[0] is None
    assert all(value is not None and value <= 0 for value in logprobs.token_logprobs[1:])


def test_every_api_server_s_scrape_counts_the_whole_service(service: Service, client: openai.OpenAI) -> None:
    key = ("vllm:request_success_total", "length")
    before = scrape(service).get(key, 0)
    # Each on a connection of its own, so that the kernel spreads them over the API servers.
    for number in range(8):
        request = {"prompt": f"count {number}", "max_tokens": 4, "ignore_eos": True}
        answer = httpx.post(f"{service.address}/v1/completions", json=request, timeout=DEADLINE)
        assert answer.status_code == 200
    scrapes = [scrape(service) for _ in range(8)]
    assert {found[key] for found in scrapes} == {before + 8}
    assert {found["phalanx:api_servers", ""] for found in scrapes} == {SERVERS}
    assert {found["phalanx:ranks", ""] for found in scrapes} == {2}
    assert all(("vllm:num_requests_running", rank) in scrapes[0] for rank in "01")


def test_a_client_that_goes_frees_its_place_in_the_rank(service: Service) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    body = b'{"prompt": "long", "max_tokens": 1500, "ignore_eos": true, "stream": true}'
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert b"200 OK" in connection.recv(65536)
    # The request alone would take 7.5 s; these wait for nothing but what is left running.
    while running(service):
        pass
    assert scrape(service)["vllm:request_success_total", "abort"] == 1


def running(service: Service) -> int:
    ranks = httpx.get(f"{service.address}/ready", timeout=DEADLINE).json()["ranks"]
    return sum((rank["running"] or 0) + (rank["waiting"] or 0) + rank["own_requests"] for rank in ranks)
