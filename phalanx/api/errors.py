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


def server_error(message: str, status: int = 500, code: str | None = None, retry_after: int | None = None) -> ApiError:
    """An error that is not the client's."""
    headers = () if retry_after is None else ((b"retry-after", str(retry_after).encode()),)
    return ApiError(message, status=status, kind="server_error", code=code, headers=headers)
