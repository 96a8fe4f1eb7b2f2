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


class Unavailable(NamedTuple):
    """A reason for status 503. Every 503 is made of one of these, so that none lacks the advice to come again."""

    code: str | None
    words: str
    """What the message says, with names in braces for what differs."""
    retry_after: int
    """Seconds after which the client is advised to come again."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return _retry_after(self.retry_after)

    def told(self, **values: object) -> ApiError:
        """The error of one request; `values` are what its words name."""
        message = self.words.format(**values)
        return ApiError(message, status=503, kind="server_error", code=self.code, headers=self.headers)


STOPPING = Unavailable("stopping", "The server is being stopped.", 1)
NO_RANK = Unavailable("no_rank", "Nothing can be generated now, {why}; try again in a moment.", 5)
TOO_MANY_CONNECTIONS = Unavailable(
    "overloaded", "This server has {most} open connections, the most it takes (--max-connections).", 1
)
TOO_MANY_BODIES = Unavailable(
    "overloaded", "The server is receiving as many request bodies as its memory allows (--max-held-bytes).", 1
)
SUPERVISOR_SILENT = Unavailable(None, "{silence} within {patience:g} s.", 5)


def overloaded(why: str, seconds: int) -> ApiError:
    """The error 429: there is no room for a request, and in so many seconds there may be."""
    return OVERLOADED.told(why=why, seconds=seconds, headers=_retry_after(seconds))


def _retry_after(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", str(seconds).encode()),)


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
