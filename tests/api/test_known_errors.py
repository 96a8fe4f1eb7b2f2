"""Well-known clients see what an error means: each one's own rule, run over what a client of this server gets.

The rules were read in the clients' own sources in 2026; each is written down in its shortest form.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from support.fake_engine import ServedApi, answering

from phalanx.api.admission import Amount

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok"), api_key=("right",)) as api:
        yield api


def error_of(api: ServedApi, *, key: str = "right", **fields: Any) -> openai.APIStatusError:
    client = openai.OpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0)
    create: Callable[..., object] = client.completions.create
    if "prompt" not in fields:
        create, fields = client.chat.completions.create, {"messages": CHAT, **fields}
    with client, pytest.raises(openai.APIStatusError) as failed:
        create(**{"model": "test-model", **fields})
    return failed.value


def message_of(error: openai.APIStatusError) -> str:
    """What clients in JavaScript have as the error's message, beside status and code."""
    return str(error.body["message"])  # type: ignore[index]


OVERFLOWS: dict[str, dict[str, Any]] = {
    "a chat that is too long": {"messages": [{"role": "user", "content": "x" * 3000}]},
    "a chat that just fills it": {"messages": [{"role": "user", "content": "x" * 2045}]},
    "a chat with too much to produce": {"max_tokens": 2045},
    "a prompt that is too long": {"prompt": "x" * 2049},
    "a prompt far too long": {"prompt": "x" * 900_000},
    "a prompt of ids that is too long": {"prompt": [1] * 2048},
    "a prompt with too much to produce": {"prompt": "x", "max_tokens": 2048},
}


def any_of(*patterns: str) -> Callable[[openai.APIStatusError], bool]:
    """A client that looks for one of these in the message, capitals or not."""
    return lambda error: any(re.search(pattern, message_of(error), re.IGNORECASE) for pattern in patterns)


SEES_OVERFLOW: dict[str, Callable[[openai.APIStatusError], bool]] = {
    "the openai package": lambda error: (
        isinstance(error, openai.BadRequestError) and error.code == "context_length_exceeded"
    ),
    # Its own check for rate limits goes first.
    "litellm": lambda error: (
        "this model's maximum context length is" in str(error).lower()
        and not re.search(r"rate[\s_\-]*limit", str(error).lower())
    ),
    # What str() of the openai package's errors shows is the whole body or the message alone, by its version.
    "LangChain": lambda error: (
        isinstance(error, openai.BadRequestError) and "context_length_exceeded" in message_of(error)
    ),
    "LangChain.js": any_of("context_length_exceeded", "Input tokens exceed", "exceeds the context window"),
    "strands": lambda error: isinstance(error, openai.BadRequestError) and error.code == "context_length_exceeded",
    "letta": lambda error: "This model's maximum context length is" in str(error),
    "CrewAI": any_of("maximum context length", "context length exceeded", "too many tokens"),
    "OpenHands": any_of("context length exceeded", "exceeds the context window"),
    "cline and Roo Code": lambda error: (
        error.status_code == 400 and any_of(r"\bcontext\s*(?:length|window)\b", r"\bmaximum\s*context\b")(error)
    ),
    "opencode and pi": any_of(r"maximum context length is \d+ tokens"),
    "what waits for Groq's words": lambda error: (
        "prompt" in message_of(error) or bool(any_of("reduce the length of the messages")(error))
    ),
}


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_a_context_overflow_is_seen_by(api: ServedApi, overflow: str) -> None:
    error = error_of(api, **OVERFLOWS[overflow])
    assert [client for client, sees in SEES_OVERFLOW.items() if not sees(error)] == []
    assert error.type == "invalid_request_error"


def test_those_who_read_the_numbers_of_an_overflow_find_them(api: ServedApi) -> None:
    of_chat = message_of(error_of(api, max_tokens=2045))
    assert re.findall(r"\d+", of_chat) == ["2048", "2050", "5", "2045"]
    of_prompt = message_of(error_of(api, prompt="xy", max_tokens=2047))
    found = re.search(r"max.*?(\d+) tokens.*?\(.*?(\d+).*?prompt.*?(\d+).*?completion", of_prompt)
    assert found is not None
    assert found.groups() == ("2048", "2", "2047")
    alone = message_of(error_of(api, prompt="x" * 2049))
    assert re.findall(r"\d+", alone) == ["2048", "2049"]


def test_no_other_bad_request_is_taken_for_an_overflow(api: ServedApi) -> None:
    for fields in ({"max_tokens": 0}, {"temperature": 3}, {"logit_bias": {"260": 1}}, {"stop": ["x"] * 65}):
        error = error_of(api, **fields)
        strict = ("the openai package", "litellm", "LangChain", "LangChain.js", "cline and Roo Code", "opencode and pi")
        assert [client for client in strict if SEES_OVERFLOW[client](error)] == []


def test_a_model_that_does_not_exist_is_seen(api: ServedApi) -> None:
    error = error_of(api, model="other")
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "does not exist" in message_of(error)


def test_a_wrong_key_is_seen(api: ServedApi) -> None:
    error = error_of(api, key="wrong")
    assert isinstance(error, openai.AuthenticationError)
    assert error.code == "invalid_api_key"
    # Without these words litellm takes an `invalid_request_error` for a bad request, where it sees the whole body.
    assert "Incorrect API key provided" in str(error)


def test_an_overloaded_server_is_seen_and_waited_for(checkpoint_folder: Path) -> None:
    with ServedApi(checkpoint_folder, answering("ok")) as api:
        admission = api.state.admission
        admission.bounds = admission.bounds._replace(requests=1)
        admission.admit(Amount(1, 1, 1), 0, lambda: None, api.state.clock())
        error = error_of(api, max_tokens=50)
    assert isinstance(error, openai.RateLimitError)
    assert error.type == "rate_limit_error"
    assert int(error.response.headers["retry-after"]) >= 1
    assert not any(sees(error) for client, sees in SEES_OVERFLOW.items() if client != "what waits for Groq's words")


def test_every_known_error_has_the_four_fields_that_clients_parse(api: ServedApi) -> None:
    """Vercel's AI SDK takes a message that is a text, and text or nothing for the others."""
    for error in (error_of(api, max_tokens=5000), error_of(api, model="other"), error_of(api, key="wrong")):
        detail = error.response.json()["error"]
        assert detail.keys() == {"message", "type", "param", "code"}
        assert isinstance(detail["message"], str)
        assert all(value is None or isinstance(value, str) for value in detail.values())
