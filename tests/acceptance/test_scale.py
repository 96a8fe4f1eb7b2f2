"""An operator drains, restarts, adds and retires ranks of a serving service, and no request notices."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from support.service import DEADLINE, Service
from support.streams import SLOW, streams, undisturbed

ADMIN = {"authorization": "Bearer an-admin-key-of-the-tests"}


@pytest.fixture
def serve(start_service: Callable[..., Service]) -> Callable[..., Service]:
    """A service whose operator knows the key."""

    def start(*flags: str) -> Service:
        return start_service(*SLOW, *flags, "--admin-key", "an-admin-key-of-the-tests").wait_ready()

    return start


def ask(service: Service, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    return httpx.request(method, f"{service.address}{path}", json=body, headers=ADMIN, timeout=DEADLINE)


def standing(service: Service) -> dict[int, str]:
    answer = ask(service, "GET", "/admin/ranks")
    assert answer.status_code == 200
    return {rank["rank"]: rank["state"] for rank in answer.json()["ranks"]}


def wait_for(service: Service, wanted: dict[int, str]) -> None:
    """Until the ranks stand so; there is no other way for an operator to learn it than to ask."""
    deadline = time.monotonic() + DEADLINE
    while (now := standing(service)) != wanted:
        assert time.monotonic() < deadline, f"{now} did not become {wanted}\n{service.stderr}"
        time.sleep(0.05)


def test_a_service_grows_and_shrinks_under_load_and_every_stream_ends_with_its_own_text(
    serve: Callable[..., Service],
) -> None:
    service = serve("-dp", "2", "--api-server-count", "2")
    wanted = undisturbed(service.address, 16)
    with streams(service.address, 16) as started:
        grown = ask(service, "POST", "/admin/scale", {"data_parallel_size": 4})
        assert (grown.status_code, grown.json()["data_parallel_size"]) == (202, 4)
        wait_for(service, {0: "serving", 1: "serving", 2: "serving", 3: "serving"})
        assert [rank["rank"] for rank in httpx.get(f"{service.address}/ready").json()["ranks"]] == [0, 1, 2, 3]
        # At once: what runs in ranks 0 and 3 goes on at the two others.
        shrunk = ask(service, "POST", "/admin/scale", {"retire": [0, 3], "timeout": 0})
        assert (shrunk.status_code, shrunk.json()["data_parallel_size"]) == (202, 2)
        wait_for(service, {1: "serving", 2: "serving"})
        assert [stream.result() for stream in started] == wanted
    ready = httpx.get(f"{service.address}/ready").json()
    assert (ready["status"], ready["missing_ranks"]) == ("ready", [])
    assert "rank 0 has left the service" in service.stderr
    # A number that was free is used again, by an incarnation that nobody takes for the former one.
    ask(service, "POST", "/admin/scale", {"data_parallel_size": 3})
    wait_for(service, {0: "serving", 1: "serving", 2: "serving"})
    assert ask(service, "GET", "/admin/ranks").json()["ranks"][0]["incarnation"] == 1
    assert undisturbed(service.address, 16) == wanted
    service.signal(signal.SIGINT)
    assert service.wait() == 0
    service.assert_nothing_left()


def test_ranks_are_restarted_one_after_the_other_without_a_request_noticing(serve: Callable[..., Service]) -> None:
    service = serve("-dp", "2", "--api-server-count", "2")
    wanted = undisturbed(service.address, 8)
    with streams(service.address, 8) as started:
        for rank in (0, 1):
            before = service.pid_of(f"engine {rank}")
            assert ask(service, "POST", f"/admin/ranks/{rank}/restart", {"timeout": 0.2}).status_code == 202
            # From the first answer on it is not serving, and after that it is the next one that does.
            wait_for(service, {0: "serving", 1: "serving"})
            assert service.pid_of(f"engine {rank}") != before
        assert [stream.result() for stream in started] == wanted
    ranks = ask(service, "GET", "/admin/ranks").json()["ranks"]
    assert [(rank["incarnation"], rank["restarts"]) for rank in ranks] == [(1, 0), (1, 0)]


def test_the_only_rank_is_restarted_and_its_requests_wait_for_its_successor(serve: Callable[..., Service]) -> None:
    service = serve("-dp", "1")
    wanted = undisturbed(service.address, 4)
    with streams(service.address, 4) as started:
        ask(service, "POST", "/admin/ranks/0/restart", {"timeout": 0})
        assert [stream.result() for stream in started] == wanted


def test_a_drained_rank_gets_nothing_until_it_is_resumed(serve: Callable[..., Service]) -> None:
    service = serve("-dp", "2")
    with streams(service.address, 8) as started:
        assert ask(service, "POST", "/admin/ranks/1/drain").status_code == 202
        assert standing(service) == {0: "serving", 1: "draining"}
        with streams(service.address, 4) as later:
            assert all(stream.ranks == "0" for stream in later)
            for stream in (*started, *later):
                stream.result()
        wait_for(service, {0: "serving", 1: "drained"})
        # It falls, comes back, and is drained as before.
        os.kill(service.pid_of("engine 1"), signal.SIGKILL)
        service.wait_for("engine 1 serves again")
        wait_for(service, {0: "serving", 1: "drained"})
    assert httpx.get(f"{service.address}/ready").json()["status"] == "ready"
    ask(service, "POST", "/admin/ranks/1/resume")
    assert standing(service) == {0: "serving", 1: "serving"}
    while True:
        with streams(service.address, 4) as both:
            if {stream.ranks for stream in both} == {"0", "1"}:
                break


def test_a_rank_that_was_given_up_comes_back_when_an_operator_restarts_it(serve: Callable[..., Service]) -> None:
    service = serve("-dp", "2", "--max-restarts", "1")
    for last_words in ("engine 1 serves again", "engine 1 is given up"):
        os.kill(service.pid_of("engine 1"), signal.SIGKILL)
        service.wait_for(last_words)
    assert standing(service) == {0: "serving", 1: "fallen"}
    ask(service, "POST", "/admin/ranks/1/restart")
    wait_for(service, {0: "serving", 1: "serving"})


def test_what_cannot_be_is_refused_and_changes_nothing(serve: Callable[..., Service]) -> None:
    service = serve("-dp", "2", "--min-ranks", "2")
    before = standing(service)

    def refusal(path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        answer = ask(service, "POST", path, body)
        return answer.status_code, answer.json()["error"]["message"]

    assert refusal("/admin/ranks/7/drain") == (404, "There is no rank 7; there are 0, 1.")
    assert refusal("/admin/ranks/x/drain") == (404, "'x' is not the number of a rank.")
    assert refusal("/admin/scale", {"retire": [9]}) == (404, "There is no rank 9 to retire; there are 0, 1.")
    assert refusal("/admin/scale", {"data_parallel_size": 1})[0] == 409
    assert refusal("/admin/scale", {"data_parallel_size": 100_000})[0] == 409
    assert refusal("/admin/scale", {"data_parallel_size": -1})[0] == 400
    assert refusal("/admin/scale", {})[0] == 400
    assert refusal("/admin/ranks/0/drain", {"timeout": -1})[0] == 400
    assert standing(service) == before
    ask(service, "POST", "/admin/ranks/0/drain")
    assert refusal("/admin/ranks/1/drain")[0] == 409
    assert httpx.post(f"{service.address}/admin/scale", json={"data_parallel_size": 3}).status_code == 401
