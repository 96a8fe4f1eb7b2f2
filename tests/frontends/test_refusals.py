"""Requests that cannot be answered: each ends in an error that says why, and harms nobody."""

import json
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support.fake_engine import an_output
from support.standing_alone import FrontEnd, NumberedRank

from phalanx.protocol import FinishReason

Serve = Callable[..., FrontEnd]
NAMES = {
    "/v1/completions": (
        "model prompt max_tokens min_tokens temperature top_p top_k min_p presence_penalty frequency_penalty "
        "repetition_penalty seed stop_token_ids ignore_eos logit_bias n stream stream_options logprobs stop "
        "priority user best_of echo suffix return_token_ids"
    ),
    "/generate": (
        "input_ids text sampling_params stream return_logprob top_logprobs_num logprob_start_len rid priority"
    ),
}
"""Fields that a request may have."""


def answering() -> NumberedRank:
    return NumberedRank(lambda prompt, sampling: [an_output([1], FinishReason.LENGTH)])


def test_what_is_wrong_with_a_request_is_named(serve: Serve) -> None:
    front_end = serve(answering(), max_batch=4)
    good = {"prompt": [1, 2]}

    def refusal(path: str, body: Any, status: int = 400) -> tuple[str | None, str | None]:
        answer = front_end.http.post(path, content=body if isinstance(body, bytes) else json.dumps(body))
        assert answer.status_code == status, (body, answer.text)
        error = answer.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"
        return error["param"], error["code"]

    completions: list[tuple[dict[str, Any], str, str | None]] = [
        ({"prompt": "hello"}, "prompt", "token_ids_only"),
        ({"prompt": ["hello", "there"]}, "prompt", "token_ids_only"),
        ({"prompt": []}, "prompt", None),
        ({"prompt": [[1], []]}, "prompt", None),
        ({"prompt": [260]}, "prompt", None),
        ({"prompt": [-1]}, "prompt", None),
        ({"prompt": [1.5]}, "prompt", None),
        ({"prompt": [[1], 2]}, "prompt", None),
        ({"prompt": None}, "prompt", None),
        ({"prompt": [1] * 2048}, "prompt", "context_length_exceeded"),
        ({"prompt": [1] * 2000, "max_tokens": 49}, "max_tokens", "context_length_exceeded"),
        ({**good, "n": 5}, "n", None),
        ({"prompt": [[1]] * 5}, "prompt", None),
        ({**good, "temperature": 3}, "temperature", None),
        ({**good, "logprobs": 21}, "logprobs", None),
        ({**good, "stream_options": {"include_usage": True}}, "stream_options", None),
        ({**good, "stream": True, "stream_options": {"odd": 1}}, "stream_options.odd", "unknown_parameter"),
        ({**good, "stop": "."}, "stop", "unsupported_parameter"),
        ({**good, "echo": True}, "echo", "unsupported_parameter"),
        ({**good, "best_of": 2}, "best_of", "unsupported_parameter"),
        ({**good, "suffix": "x"}, "suffix", "unsupported_parameter"),
        ({**good, "response_format": {"type": "text"}}, "response_format", "unsupported_parameter"),
        ({**good, "return_token_ids": False}, "return_token_ids", "unsupported_parameter"),
        ({**good, "temprature": 1}, "temprature", "unknown_parameter"),
    ]
    for wish, param, code in completions:
        assert refusal("/v1/completions", wish) == (param, code), wish
    assert refusal("/v1/completions", {**good, "model": "other"}, 404) == ("model", "model_not_found")

    generate: list[tuple[dict[str, Any], str, str | None]] = [
        ({"text": "hello"}, "text", "token_ids_only"),
        ({"input_ids": "hello"}, "input_ids", "token_ids_only"),
        ({"input_ids": [1], "sampling_params": {"regex": "a*"}}, "sampling_params.regex", "unsupported_parameter"),
        ({"input_ids": [1], "sampling_params": {"stop": ["x"]}}, "sampling_params.stop", "unsupported_parameter"),
        ({"input_ids": [1], "sampling_params": {"odd": 1}}, "sampling_params.odd", "unknown_parameter"),
        ({"input_ids": [1], "sampling_params": {"top_p": 2}}, "sampling_params.top_p", None),
        ({"input_ids": [1], "sampling_params": 5}, "sampling_params", None),
        ({"input_ids": [1], "sampling_params": [{}, {}]}, "sampling_params", None),
        ({"input_ids": [[1], [2]], "sampling_params": [{"n": 1}, {"n": 2}]}, "sampling_params.n", None),
        (
            {"input_ids": [1] * 2040, "sampling_params": {"max_new_tokens": 9}},
            "max_new_tokens",
            "context_length_exceeded",
        ),
        ({"input_ids": [1], "top_logprobs_num": 2}, "return_logprob", None),
        ({"input_ids": [1], "return_hidden_states": True}, "return_hidden_states", "unsupported_parameter"),
        ({"input_ids": [[1], [2]], "rid": ["a"]}, "rid", None),
        ({"input_ids": [1], "image_data": "x"}, "image_data", "unsupported_parameter"),
    ]
    for wish, param, code in generate:
        assert refusal("/generate", wish) == (param, code), wish

    for body in (
        b"",
        b"[]",
        b"3",
        b'"',
        b"{",
        b"null",
        b"\xff",
        b'{"prompt": [1],}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ):
        refusal("/v1/completions", body)
        refusal("/generate", body)
    assert front_end.http.post("/v1/completions", json=good).status_code == 200
    assert len(front_end.ranks[0].asked) == 1


def test_other_paths_methods_and_encodings_are_refused(serve: Serve) -> None:
    front_end = serve(answering())
    unknown = front_end.http.post("/v1/chat/completions", json={})
    assert unknown.status_code == 404
    assert "/v1/completions" in unknown.json()["error"]["message"]
    wrong = front_end.http.get("/generate")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert front_end.http.post("/health").status_code == 405
    packed = front_end.http.post("/generate", content=b"x", headers={"content-encoding": "gzip"})
    assert packed.status_code == 415


def test_a_body_that_is_too_large_is_refused_declared_or_not(serve: Serve) -> None:
    front_end = serve(answering(), max_body_bytes=2048)
    large = json.dumps({"prompt": [100] * 1000}).encode()
    declared = front_end.http.post("/v1/completions", content=large)
    assert declared.status_code == 413
    assert declared.json()["error"]["code"] == "body_too_large"
    chunked = front_end.http.post("/v1/completions", content=iter([large[:1000], large[1000:]]))
    assert chunked.status_code == 413
    assert front_end.http.post("/v1/completions", json={"prompt": [100] * 100}).status_code == 200


def test_keys_are_asked_for_except_by_those_who_look_whether_it_lives(serve: Serve) -> None:
    front_end = serve(answering(), api_key=("first", "second"))
    wish = {"json": {"prompt": [1]}}
    missing = front_end.http.post("/v1/completions", **wish)
    assert missing.status_code == 401
    assert missing.headers["www-authenticate"] == "Bearer"
    assert missing.json()["error"]["code"] == "invalid_api_key"
    wrong = front_end.http.post("/generate", json={"input_ids": [1]}, headers={"authorization": "Bearer third"})
    assert wrong.status_code == 401
    for key in ("first", "second"):
        headers = {"authorization": f"Bearer {key}"}
        assert front_end.http.post("/v1/completions", headers=headers, **wish).status_code == 200
    assert front_end.http.get("/v1/models").status_code == 401
    assert front_end.http.get("/nothing").status_code == 401
    assert front_end.http.get("/health").status_code == front_end.http.get("/ready").status_code == 200


def test_without_a_rank_the_client_is_told_to_come_again(start: Callable[..., FrontEnd]) -> None:
    front_end = start().serving()
    answer = front_end.http.post("/v1/completions", json={"prompt": [1], "stream": True})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "no_rank"


def test_a_request_that_the_rank_rejects_ends_in_its_words(serve: Serve) -> None:
    front_end = serve(lambda prompt, sampling: [an_output([], FinishReason.ERROR, error="it does not fit")])
    for stream in (False, True):
        answer = front_end.http.post("/v1/completions", json={"prompt": [1], "stream": stream})
        assert answer.status_code == 500
        assert "it does not fit" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /generate HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_what_is_no_http_is_cut_off(serve: Serve, noise: bytes) -> None:
    front_end = serve(answering())
    with front_end.raw_connection() as connection:
        connection.sendall(noise)
        connection.shutdown(socket.SHUT_WR)
        got = connection.recv(1 << 16)
    assert got == b"" or got.startswith(b"HTTP/1.1 400 ")
    assert front_end.http.get("/health").status_code == 200


def test_odd_bodies_never_bring_it_down(serve: Serve) -> None:
    """Bodies that are good but for something: each is answered, and never with a failure of the server's."""
    chance = random.Random(7)
    odd: list[Any] = [None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, "", "x", [], [[]], {}, {"": {}}]
    odd += [[1, None], [[1], [2]], {"1": 1}, {"-1": 1}, "\ud800", "\0", [[[1]]], [2**40]]
    front_end = serve(answering())
    seen = set()
    for _ in range(600):
        path, names = chance.choice(list(NAMES.items()))
        wish: dict[str, Any] = {"prompt": [1, 2]} if path == "/v1/completions" else {"input_ids": [[1], [2]]}
        for name in chance.sample(names.split(), chance.randint(1, 2)):
            wish[name] = chance.choice(odd)
        body = json.dumps(wish).encode()
        if chance.random() < 0.2:
            place = chance.randrange(len(body))
            body = body[:place] + bytes([chance.randrange(256)]) + body[place + 1 :]
        answer = front_end.http.post(path, content=body)
        assert answer.status_code < 500, (body, answer.text)
        seen.add(answer.status_code)
    assert seen >= {200, 400}
