"""Responses as a service would have sent them, for tests of what judges them."""

import json
from collections.abc import Sequence
from typing import Any

from phalanx.chaos.http_client import HttpResponse

WORDS = [" one", " two", " three", " four"]
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def chunk(number: int, finish: str | None = None, **further: Any) -> bytes:
    """The number-th token of a streamed completion."""
    choice = {"index": 0, "text": WORDS[number], "token_ids": [number], "logprobs": None, "finish_reason": finish}
    return event({"choices": [choice | further], "usage": None})


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
SPENT = event({"choices": [], "usage": USAGE})
STREAM = (chunk(0), chunk(1), chunk(2), chunk(3, "length"), SPENT, DONE)


def streamed(events: Sequence[bytes] = STREAM, *, complete: bool = True, trouble: str = "") -> HttpResponse:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    return HttpResponse(0.0, 200, headers, bytearray(b"".join(events)), [], complete, trouble)


def whole(status: int, content: dict[str, Any], **headers: str) -> HttpResponse:
    given = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(0.0, status, given, bytearray(json.dumps(content).encode()), [], True)


def refused(status: int, code: str, **headers: str) -> HttpResponse:
    return whole(status, {"error": {"message": "no", "type": "server_error", "param": None, "code": code}}, **headers)
