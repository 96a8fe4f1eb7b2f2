"""Clients that leave, ranks that die, and the end of the front-end itself."""

import contextlib
import http.client
import os
import re
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from support.fake_engine import DEADLINE, a_config, an_output, events
from support.standing_alone import SECRET, FrontEnd, NumberedRank

from phalanx.api.metrics import Metrics, Samples
from phalanx.child import EXIT_FAILED, EXIT_ORPHANED
from phalanx.config import ParallelOptions
from phalanx.protocol import (
    ApiServerId,
    ApiServers,
    EngineHello,
    Failed,
    FinishReason,
    Hello,
    Incarnation,
    Message,
    MetricsGathered,
    MetricsQuery,
    MetricsReport,
    MetricsRequest,
    RankId,
    Ranks,
    Refused,
    Role,
    Stage,
    StartupStage,
    Stop,
    Welcome,
)
from phalanx.transport import frames
from phalanx.transport.channel import HandshakeRefused, dial
from phalanx.transport.handshake import Dialer, Proof
from phalanx.transport.security import Security

Start = Callable[..., FrontEnd]
LONG = {"prompt": [1], "max_tokens": 500}


def test_it_enlists_as_the_api_server_it_was_started_as(start: Start) -> None:
    front_end = start()
    hello = front_end.supervisor.wait_for(Hello)
    assert hello == Hello(Role.API, 0, 3, front_end.pid)  # type: ignore[arg-type]
    assert front_end.supervisor.wait_for(Stage).stage is StartupStage.STARTED
    front_end.serving()
    with open(f"/proc/{front_end.pid}/cmdline") as line:
        assert SECRET not in line.read()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_requests_in_the_engine(serve: Start, stream: bool) -> None:
    rank = NumberedRank()
    front_end = serve(rank)
    client = http.client.HTTPConnection("127.0.0.1", front_end.http.base_url.port, timeout=DEADLINE)
    client.request("POST", "/v1/completions", msgspec.json.encode({**LONG, "n": 2, "stream": stream}))
    for asked in rank.wait_asked(2):
        rank.push(asked, an_output([1]))
    if stream:
        client.getresponse()
    client.close()
    for asked in rank.asked:
        assert asked.aborted.wait(DEADLINE)
    front_end.wait_ranks(1)
    assert front_end.http.get("/ready").json()["ranks"][0]["own_requests"] == 0


def test_a_client_that_reads_slowly_gets_everything_in_larger_events(serve: Start) -> None:
    rank = NumberedRank(lambda prompt, sampling: [an_output([3])])
    front_end = serve(rank)
    with front_end.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        asked = rank.wait_asked(1)[0]
        # More than socket buffers hold, if each token were an event of its own.
        for number in range(60_000):
            rank.push(asked, an_output([number % 250]))
        rank.push(asked, an_output([7], FinishReason.LENGTH))
        got = events(answer.read())
    assert [token for event in got for token in event["choices"][0]["token_ids"]] == [
        3,
        *(number % 250 for number in range(60_000)),
        7,
    ]


def test_requests_of_a_rank_that_dies_end_in_an_error(serve: Start) -> None:
    rank = NumberedRank(lambda prompt, sampling: [an_output([5])])
    front_end = serve(rank)
    with ThreadPoolExecutor() as pool:
        whole = pool.submit(front_end.http.post, "/v1/completions", json=LONG)
        rank.wait_asked(1)
        with front_end.http.stream("POST", "/generate", json={"input_ids": [1], "stream": True}) as stream:
            parts = stream.iter_raw()
            first = next(parts)
            rank.hang_up()
            rest = b"".join(parts)
        assert events(first)[0]["output_ids"] == [5]
        assert events(rest)[0]["error"]["code"] == "engine_died"
        assert b"[DONE]" not in rest
        assert whole.result().status_code == 500
        assert whole.result().json()["error"]["code"] == "engine_died"
    front_end.wait_ranks(0)
    assert front_end.http.get("/ready").status_code == 503


def test_a_rank_that_comes_again_takes_its_predecessors_place(serve: Start) -> None:
    old = NumberedRank()
    front_end = serve(old)
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(front_end.http.post, "/v1/completions", json=LONG)
        old.wait_asked(1)
        new = NumberedRank(lambda prompt, sampling: [an_output([9], FinishReason.LENGTH)], incarnation=2)
        front_end.ranks.append(new)
        new.attach(front_end.engine_addresses[1], Security(SECRET.encode()))
        assert lost.result().status_code == 500
    assert [rank["incarnation"] for rank in front_end.wait_ranks(1)] == [2]
    answer = front_end.http.post("/v1/completions", json={"prompt": [1]}).json()
    assert answer["choices"][0]["token_ids"] == [9]
    # A predecessor that dials again has come too late.
    late = dial(front_end.engine_addresses[0], Security(SECRET.encode()), DEADLINE)
    with contextlib.closing(late), socket.socket(fileno=os.dup(late.fileno())) as connection:
        late.send(EngineHello(RankId(0), Incarnation(1), 2048, 64, 65536))
        connection.settimeout(DEADLINE)
        assert connection.recv(1) == b""
    assert [rank["incarnation"] for rank in front_end.wait_ranks(1)] == [2]


def test_requests_go_to_the_rank_with_less_to_do(start: Start) -> None:
    front_end = start().serving()
    ranks = [front_end.attach(NumberedRank(rank=number), listener=number % 2, count=number + 1) for number in range(3)]
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(front_end.http.post, "/v1/completions", json=LONG) for _ in range(12)]
        for asked in [asked for rank in ranks for asked in rank.wait_asked(4)]:
            for rank in ranks:
                if asked in rank.asked:
                    rank.push(asked, an_output([1], FinishReason.LENGTH))
        assert {answer.result().headers["x-phalanx-ranks"] for answer in answers} == {"0", "1", "2"}
    assert [len(rank.asked) for rank in ranks] == [4, 4, 4]


def test_who_does_not_know_the_secret_is_not_heard(serve: Start) -> None:
    front_end = serve()
    for address in front_end.engine_addresses:
        with pytest.raises(HandshakeRefused, match="does not know the launch secret"):
            dial(address, Security(b"another secret"), DEADLINE)
    assert len(front_end.wait_ranks(1)) == 1


def test_a_proof_without_the_secret_is_refused(serve: Start) -> None:
    front_end = serve()
    forger = Dialer(b"another secret")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(front_end.engine_addresses[0].removeprefix("unix:"))
        connection.sendall(frames.encode(forger.opening()))
        connection.recv(1024)
        connection.sendall(frames.encode(Proof(bytes(32))))
        assert b"the dialer does not know the launch secret" in connection.recv(1024)
        assert connection.recv(1) == b""
    assert len(front_end.wait_ranks(1)) == 1


# --- its end ---


def test_with_the_wrong_secret_it_ends_and_says_so(start: Start) -> None:
    front_end = start(secret="another secret")
    assert front_end.status() == EXIT_FAILED
    assert "does not know the launch secret" in front_end.output


def test_refused_by_the_supervisor_it_ends_in_its_words(start: Start) -> None:
    front_end = start(answer=lambda: Refused("this place is taken"))
    assert front_end.status() == EXIT_FAILED
    assert "this place is taken" in front_end.output


def test_started_by_hand_it_says_who_starts_it(program: Path) -> None:
    done = subprocess.run([program, "--control", "unix:/nowhere", "--index", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "PHALANX_SECRET is not set: this program is started by `phalanx serve`" in done.stderr


def test_an_order_that_it_cannot_read_is_its_last_and_is_told(serve: Start) -> None:
    class Garbled(Message, tag=23, frozen=True):
        query: str

    front_end = serve()
    front_end.supervisor.send(Garbled("which?"))
    assert "does not decode" in front_end.supervisor.wait_for(Failed).reason
    assert front_end.status() == EXIT_FAILED


def test_when_the_supervisor_has_gone_it_goes_at_once(serve: Start) -> None:
    front_end = serve(NumberedRank())
    client = http.client.HTTPConnection("127.0.0.1", front_end.http.base_url.port, timeout=DEADLINE)
    client.request("POST", "/v1/completions", msgspec.json.encode(LONG))
    front_end.ranks[0].wait_asked(1)
    front_end.supervisor.hang_up()
    assert front_end.status() == EXIT_ORPHANED
    client.close()


def test_told_to_stop_it_ends_its_streams_with_an_error_and_itself_in_order(serve: Start) -> None:
    rank = NumberedRank(lambda prompt, sampling: [an_output([5])])
    front_end = serve(rank)
    idle = front_end.raw_connection()
    with ThreadPoolExecutor() as pool, idle:
        whole = pool.submit(front_end.http.post, "/v1/completions", json=LONG)
        rank.wait_asked(1)
        with front_end.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as stream:
            parts = stream.iter_raw()
            next(parts)
            front_end.supervisor.send(Stop())
            rest = b"".join(parts)
        assert events(rest)[0]["error"]["code"] == "stopping"
        assert b"[DONE]" not in rest
        assert whole.result().status_code == 503
        assert idle.recv(1) == b""
    rank.hang_up()
    assert front_end.status() == 0


def test_a_client_that_does_not_read_does_not_keep_it_from_stopping(serve: Start) -> None:
    rank = NumberedRank(lambda prompt, sampling: [an_output([1] * 200) for _ in range(20_000)])
    front_end = serve(rank)
    with front_end.raw_connection() as deaf:
        body = msgspec.json.encode({**LONG, "stream": True})
        deaf.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        rank.wait_asked(1)
        front_end.supervisor.send(Stop())
        # It gives such clients one second.
        assert front_end.status() == 0


def test_messages_that_it_does_not_know_are_passed_over(serve: Start) -> None:
    class FromTheFuture(Message, tag=99, frozen=True):
        news: dict[str, list[int]]

    front_end = serve(lambda prompt, sampling: [an_output([1], FinishReason.LENGTH)])
    front_end.supervisor.send(FromTheFuture({"a": [1]}))
    front_end.supervisor.send(Stop())
    front_end.ranks[0].hang_up()
    assert front_end.status() == 0


# --- counts of several API servers ---


def test_its_samples_are_those_of_a_python_api_server(serve: Start) -> None:
    front_end = serve(lambda prompt, sampling: [an_output([1, 2], FinishReason.LENGTH)])
    front_end.http.post("/v1/completions", json={"prompt": [1, 2, 3]})
    front_end.supervisor.send(MetricsRequest(5))
    while (report := front_end.supervisor.wait_for(MetricsReport)).query != 5:
        assert report.query is None
    merged = Metrics().merged([report.samples, report.samples])
    assert merged.generation_tokens.values == {("0",): 4.0}
    assert merged.prompt_tokens.values == {("0",): 6.0}
    assert merged.finished.values == {("0", "length"): 2.0}
    assert sum(merged.first_token.of(("0",)).counts) == 2
    assert merged.http.values["/v1/completions", "POST", "2xx"] == 2.0
    # Not one name is its own, and none of those that dashboards read is missing.
    ours, theirs = (msgspec.msgpack.decode(data, type=Samples) for data in (report.samples, Metrics().samples()))
    assert set(ours.counters) == {name for name in theirs.counters if not name.startswith("phalanx:")}
    assert set(ours.histograms) == set(theirs.histograms)


def test_a_scrape_adds_up_the_siblings(serve: Start) -> None:
    front_end = serve(siblings=1)
    sibling = Metrics()
    sibling.generation_tokens.add(100, "0")
    with ThreadPoolExecutor() as pool:
        scrape = pool.submit(front_end.http.get, "/metrics")
        query = front_end.supervisor.wait_for(MetricsQuery)
        restarts = {RankId(0): 3}, {ApiServerId(1): 1}
        front_end.supervisor.send(MetricsGathered(query.query, (sibling.samples(),), (sibling.samples(),), *restarts))
        text = scrape.result().text
    assert 'vllm:generation_tokens_total{model_name="test-model",engine="0"} 200.0\n' in text
    assert "phalanx:api_servers 2.0\n" in text
    assert 'phalanx:rank_restarts_total{model_name="test-model",engine="0"} 3.0\n' in text
    assert 'phalanx:api_server_restarts_total{model_name="test-model",api_server="1"} 1.0\n' in text


def test_a_scrape_has_noughts_for_every_rank_that_is_to_serve(start: Start, checkpoint_folder: Path) -> None:
    parallel = ParallelOptions(data_parallel_size=2)
    config = msgspec.structs.replace(a_config(checkpoint_folder), parallel=parallel)
    front_end = start(answer=lambda: Welcome(config, ApiServers(()))).serving()

    def shown() -> set[str]:
        with ThreadPoolExecutor() as pool:
            scrape = pool.submit(front_end.http.get, "/metrics")
            query = front_end.supervisor.wait_for(MetricsQuery)
            front_end.supervisor.send(MetricsGathered(query.query, ()))
            text = scrape.result().text
        ranks = set(
            re.findall(r'^vllm:request_success_total{.*engine="(\d+)",finished_reason="stop"} 0.0$', text, re.M)
        )
        assert f"\nphalanx:ranks_expected {len(ranks)}.0\n" in text
        assert "\nphalanx:ranks 0.0\n" in text
        return ranks

    assert shown() == {"0", "1"}
    front_end.supervisor.send(Ranks(1, (RankId(0), RankId(1), RankId(7)), leaving=(RankId(2),)))
    assert shown() == {"0", "1", "7"}


def test_it_counts_on_from_its_predecessor_and_reports_unasked(start: Start, checkpoint_folder: Path) -> None:
    before = Metrics()
    before.generation_tokens.add(1000)
    welcome = Welcome(a_config(checkpoint_folder), ApiServers(()), counted=before.samples())
    front_end = start(answer=lambda: welcome).serving()
    assert front_end.http.get("/ready").status_code == 503
    reported = Metrics()
    while not reported.http.values:
        report = front_end.supervisor.wait_for(MetricsReport)
        assert report.query is None
        reported = Metrics()
        reported.count_on(report.samples)
        assert reported.generation_tokens.values == {(): 1000.0}
