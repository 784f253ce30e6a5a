"""Which HTTP answer each error is: one table. Only our own classes are in it; any other exception is our bug, a 500."""

from typing import Final, Literal, NamedTuple

from threadkeep.contract import errors
from threadkeep.contract.errors import ThreadkeepError
from threadkeep.contract.wire import Object

ErrorType = Literal["invalid_request_error", "requests", "server_error"]


class Error(Object):
    """``Error`` of the contract: all four keys always."""

    message: str
    type: ErrorType
    param: str | None
    code: str | None


class ErrorResponse(Object):
    """``ErrorResponse``: the envelope around every error."""

    error: Error


class Answered(NamedTuple):
    """How a class of error is answered; ``code`` where the error brings none of its own."""

    status: int
    type: ErrorType
    code: str | None = None


class MethodNotAllowed(ThreadkeepError):
    """The path exists, the method does not."""

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"Method not allowed: {method}. Allowed here: {allow}.")
        self.allow = allow


class BodyTooSlow(ThreadkeepError):
    """The request's body did not arrive in time."""


class RangeNotSatisfiable(ThreadkeepError):
    """No byte of the file, which has ``size`` of them, is in the range asked for."""

    def __init__(self, size: int) -> None:
        super().__init__(f"The range is not satisfiable: the file has {size} bytes.")
        self.size = size


# Classes not listed are answered as the nearest of their ancestors that is.
TABLE: Final[dict[type[ThreadkeepError], Answered]] = {
    errors.InvalidRequest: Answered(400, "invalid_request_error"),
    errors.IllegalMove: Answered(400, "invalid_request_error"),
    errors.Unauthenticated: Answered(401, "invalid_request_error", "invalid_api_key"),
    errors.PermissionDenied: Answered(403, "invalid_request_error"),
    errors.NotFound: Answered(404, "invalid_request_error"),
    MethodNotAllowed: Answered(405, "invalid_request_error"),
    BodyTooSlow: Answered(408, "invalid_request_error"),
    errors.TooLarge: Answered(413, "invalid_request_error"),
    RangeNotSatisfiable: Answered(416, "invalid_request_error"),
    errors.RateLimited: Answered(429, "requests", "rate_limit_exceeded"),
    errors.UpstreamFailed: Answered(502, "server_error"),
    # Of a run it is the `last_error`.
    errors.ToolFailed: Answered(503, "server_error"),
    errors.Unavailable: Answered(503, "server_error"),
    # Nobody below lets it out; if one does, the request was not done and may be sent again.
    errors.LeaseLost: Answered(503, "server_error"),
}


def answered(error: ThreadkeepError) -> Answered | None:
    """The error's row of the table; None for a class that nobody has thought of here, which is a bug."""
    for kind in type(error).__mro__:
        if (row := TABLE.get(kind)) is not None:
            return row
    return None


def failed(message: str) -> ErrorResponse:
    """The envelope of a failure on the server's side."""
    return ErrorResponse(error=Error(message=message, type="server_error", param=None, code=None))


class Refusal(NamedTuple):
    """An error made ready to send."""

    status: int
    body: ErrorResponse
    headers: tuple[tuple[bytes, bytes], ...] = ()


def refusal(error: BaseException, request_id: str) -> Refusal:
    """The answer to ``error``. Of one that is not ours it tells the client nothing but where to look."""
    row = answered(error) if isinstance(error, ThreadkeepError) else None
    if row is None or not isinstance(error, ThreadkeepError):
        # The first words are ones that clients look for before they try again.
        message = f"The server had an error processing your request. Sorry about that! The request was {request_id}."
        return Refusal(500, failed(message))
    param: str | None = getattr(error, "param", None)
    code: str | None = getattr(error, "code", None) or row.code
    body = ErrorResponse(error=Error(message=error.message, type=row.type, param=param, code=code))
    return Refusal(row.status, body, _headers(error))


def _headers(error: ThreadkeepError) -> tuple[tuple[bytes, bytes], ...]:
    match error:
        case errors.Unavailable() | errors.RateLimited():
            # Whole seconds for those who follow the standard, and milliseconds, which the SDKs read first.
            seconds = max(1, -int(-error.retry_after_s // 1))
            milliseconds = round(error.retry_after_s * 1000)
            return (b"retry-after", b"%d" % seconds), (b"retry-after-ms", b"%d" % milliseconds)
        case MethodNotAllowed():
            return ((b"allow", error.allow.encode()),)
        case RangeNotSatisfiable():
            return ((b"content-range", b"bytes */%d" % error.size),)
        case errors.Unauthenticated():
            return ((b"www-authenticate", b"Bearer"),)
        case _:
            return ()
