"""Errors as OpenAI's API gives them: `{"error": {"message", "type", "param", "code"}}` and a status."""

import msgspec


class ErrorDetail(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct):
    """What every status from 400 on carries."""

    error: ErrorDetail


class ApiError(Exception):
    """A request ends here; the message is for the person who sent it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.detail = ErrorDetail(message, kind, param, code)

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(ErrorResponse(self.detail))


def server_error(message: str, code: str | None = None) -> ApiError:
    """The error 500: the server failed on a request that may be right. What may come again later is `Unavailable`."""
    return ApiError(message, status=500, kind="server_error", code=code)
