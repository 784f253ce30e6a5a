"""Everything that can go wrong on purpose. ``api/errors.py`` alone knows the HTTP status of each.

ThreadkeepError
├── InvalidRequest        the client must change its request
├── NotFound              the object is not there, or not the caller's
├── Unauthenticated       no key, or not one of ours
├── PermissionDenied      a known key that may not do this
├── TooLarge              the body is over the limit
├── RateLimited           the caller must slow down
├── Unavailable           we can't answer just now: try again after `retry_after_s`
├── IllegalMove           a run (or its rival) moved first: the compare-and-set lost
├── LeaseLost             another node owns the work now: stop, write nothing
├── ToolFailed            a tool that runs here cannot do its work; becomes a run's `last_error`
└── UpstreamFailed        the model server could not answer; becomes a run's `last_error`

Messages are for the client and follow the published texts; the cause goes to the log.
"""

from typing import Literal


class ThreadkeepError(Exception):
    """Root of all errors that are part of the program's behaviour."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(ThreadkeepError):
    """The request breaks the contract; ``param`` is the path of the offending parameter, ``code`` the contract's."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotFound(ThreadkeepError):
    """There is no such object in the caller's project."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Unauthenticated(ThreadkeepError):
    """The request carries no key that this server knows."""


class PermissionDenied(ThreadkeepError):
    """The key is known but may not do this."""


class TooLarge(ThreadkeepError):
    """The request body is larger than the server accepts."""


class RateLimited(ThreadkeepError):
    """Too many requests; ``retry_after_s`` says when the next may come."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(ThreadkeepError):
    """Something this server depends on is away for now; nothing was changed."""

    def __init__(
        self, message: str = "The server is temporarily unavailable. Please try again.", *, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class IllegalMove(ThreadkeepError):
    """A move of a run's status was refused: it is not in the table, or somebody else moved first."""

    def __init__(self, run_id: str, was: str, to: str) -> None:
        super().__init__(f"Run {run_id} cannot move from '{was}' to '{to}'.")
        self.run_id = run_id
        self.was = was
        self.to = to


class LeaseLost(ThreadkeepError):
    """The lease on a work item is no longer ours. Whoever catches this stops and writes nothing more."""

    def __init__(self, kind: str, key: str) -> None:
        super().__init__(f"The lease on {kind} {key} was lost.")


class ToolFailed(ThreadkeepError):
    """A hosted tool is off, has no room, or lacks what it works on: nothing that the model could mend.

    ``message`` is for the client.
    """

    def __init__(self, message: str, *, code: Literal["server_error", "invalid_prompt"] = "server_error") -> None:
        super().__init__(message)
        self.code: Literal["server_error", "invalid_prompt"] = code


class UpstreamFailed(ThreadkeepError):
    """The model server failed; ``message`` is safe to show to clients (no keys, no internals)."""

    def __init__(
        self,
        code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"],
        message: str,
        *,
        context_exceeded: bool = False,
        may_pass: bool = False,
    ) -> None:
        super().__init__(message)
        self.code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"] = code
        # The same may succeed if it is asked again soon.
        self.may_pass = may_pass
        # The prompt was longer than the model's window: a shorter prompt may succeed.
        self.context_exceeded = context_exceeded


def not_found(noun: str, identifier: str) -> NotFound:
    """The contract's text for an unknown object: ``No thread found with id 'thread_x'.``"""
    return NotFound(f"No {noun} found with id '{identifier}'.")


def no_such(noun: str, identifier: str) -> NotFound:
    """As ``not_found``, in the older words that files have: ``No such File object: file-x``."""
    return NotFound(f"No such {noun} object: {identifier}", param="id")
