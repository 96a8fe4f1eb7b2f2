"""What an answer says, streamed or not, in one form; and whether it is the answer of the undisturbed run.

This is pure: it does no I/O.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from phalanx.chaos.http_client import HttpResponse


@dataclass
class AnswerChoice:
    """One choice of an answer, put together from all that came of it."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: str | None = None
    logprobs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """All of an answer that must be the same each time the request is made."""

    choices: dict[int, AnswerChoice] = field(default_factory=dict)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: dict[str, Any] | None = None
    """The error that the service told, in place of an answer or behind a part of one."""
    ended: bool = False
    """Whether it came to its end, as its form demands: a whole body, or a stream up to [DONE]."""


class Malformed(ValueError):
    """What came does not have the form of an answer; the message says what is wrong."""


def answer_of(response: HttpResponse) -> Answer:
    """Read an answer, or the part of one that came.

    Raises:
        Malformed: what came could not be the right answer to anything.
    """
    answer = Answer()
    try:
        if "text/event-stream" in response.headers.get("content-type", ""):
            _read_events(bytes(response.body), answer)
            answer.ended = answer.ended and response.complete
        elif response.complete:
            _read(json.loads(bytes(response.body)), answer, "message")
            answer.ended = answer.error is None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    return answer


def _read_events(body: bytes, answer: Answer) -> None:
    # An event behind the last blank line has not come whole.
    for event in body.split(b"\n\n")[:-1]:
        if answer.ended:
            raise Malformed("something follows [DONE]")
        if not event.startswith(b"data: "):
            raise Malformed(f"an event that begins with {event[:20]!r}")
        if event == b"data: [DONE]":
            answer.ended = True
        else:
            _read(json.loads(event[6:]), answer, "delta")


def _read(content: dict[str, Any], answer: Answer, message: str) -> None:
    """Read a whole answer or a chunk of one; `message` names the field with the text of a chat."""
    if content.get("error") is not None:
        answer.error = content["error"]
        return
    for part in content["choices"]:
        choice = answer.choices.setdefault(part["index"], AnswerChoice())
        if choice.finish is not None:
            raise Malformed(f"choice {part['index']} goes on after its end")
        choice.text += (part["text"] if "text" in part else part[message].get("content")) or ""
        choice.tokens += part.get("token_ids") or []
        choice.finish = part.get("finish_reason")
        for key, values in (part.get("logprobs") or {}).items():
            if values is not None:
                choice.logprobs[key] = choice.logprobs.get(key, []) + values
    if content.get("usage"):
        answer.prompt_tokens = content["usage"]["prompt_tokens"]
        answer.completion_tokens = content["usage"]["completion_tokens"]


def difference(expected: Answer, got: Answer) -> str | None:
    """What is wrong with `got`, or None for nothing; an answer that did not end is judged by the part that came."""
    if got.ended:
        return None if got == expected else _first_difference(expected, got)
    for index, choice in got.choices.items():
        whole = expected.choices.get(index)
        if whole is None:
            return f"there is no choice {index}"
        if not whole.text.startswith(choice.text):
            return f"choice {index}: its text so far is not how it should begin"
        if whole.tokens[: len(choice.tokens)] != choice.tokens:
            return f"choice {index}: its tokens so far are not how it should begin"
        if choice.finish is not None and choice != whole:
            return f"choice {index}: ended with {choice.finish} and is not what it should be"
    return None


def _first_difference(expected: Answer, got: Answer) -> str:
    if expected.choices.keys() != got.choices.keys():
        return f"choices {sorted(got.choices)}, not {sorted(expected.choices)}"
    for index, choice in got.choices.items():
        whole = expected.choices[index]
        for name in ("tokens", "text", "finish", "logprobs"):
            if getattr(whole, name) != getattr(choice, name):
                return f"choice {index}: {name} differ"
    return "usage differs"
