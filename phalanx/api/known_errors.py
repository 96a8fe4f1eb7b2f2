"""The errors that clients tell apart by status, type, code or words, in one table.

An agent cuts its history where it sees a context overflow, and tries again later where it sees a busy server. Each
client has rules of its own to see that; tests/api/test_known_errors.py runs them. Who changes a word here runs it too.
"""

from typing import NamedTuple

from phalanx.api.errors import ApiError


class KnownError(NamedTuple):
    status: int
    kind: str
    code: str
    words: str
    """What the message says, with names in braces for what differs. Some clients see the message alone, so that it
    has to carry the code where they look for that."""

    def told(
        self, *, param: str | None = None, headers: tuple[tuple[bytes, bytes], ...] = (), **values: object
    ) -> ApiError:
        """The error of one request; `values` are what its words name."""
        message = self.words.format(**values)
        return ApiError(message, status=self.status, kind=self.kind, param=param, code=self.code, headers=headers)


CONTEXT_LENGTH_EXCEEDED = KnownError(
    400,
    "invalid_request_error",
    "context_length_exceeded",
    "This model's maximum context length is {limit} tokens. However, {request} exceeds the context window of this "
    "model. Please reduce the length of the {parts} (context_length_exceeded).",
)
MODEL_NOT_FOUND = KnownError(
    404, "invalid_request_error", "model_not_found", "The model {model!r} does not exist; this server has {names}."
)
INVALID_API_KEY = KnownError(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {why}.")
OVERLOADED = KnownError(
    429, "rate_limit_error", "overloaded", "The server is overloaded: {why}; try again in {seconds} s."
)


def too_long(limit: int, prompt: int, field: str, asked: int | None = None, at_least: bool = False) -> ApiError:
    """A prompt of so many tokens, with `asked` more to produce, does not fit into `limit` tokens.

    Args:
        field: the prompt's: `messages` or `prompt`.
        at_least: the prompt was not read to its end.
    """
    size = f"at least {prompt}" if at_least else f"{prompt}"
    if asked is None:
        request, parts = f"your {field} resulted in {size} tokens, which with an answer", field
    else:
        total = f"{prompt + asked} tokens ({size} in the {field}, {asked} in the completion)"
        request, parts = f"you requested {total}, which", f"{field} or completion"
    return CONTEXT_LENGTH_EXCEEDED.told(param=field, limit=limit, request=request, parts=parts)
