"""Whether the process lives, and whether it can serve: for load balancers, orchestrators and people."""

import asyncio
from collections.abc import Callable
from typing import Final, Literal

from msgspec import UNSET, UnsetType

from threadkeep.api.answers import Answer
from threadkeep.api.call import Context, HealthPart
from threadkeep.contract.wire import Object
from threadkeep.logs import Log
from threadkeep.sandbox.selftest import Off
from threadkeep.sandbox.sessions import Starting, State

log = Log(__name__)

CHECK_TIMEOUT_S: Final = 5.0


class Live(Object):
    """Answer of ``GET /health/live``."""

    status: Literal["ok"] = "ok"
    version: str


class PartState(Object):
    # off: it does not work, and the server serves without it.
    status: Literal["ok", "off", "failed"]
    # Why it is not ok, in words that show nothing of the configuration.
    reason: str | None
    # What would change that, where the part can tell.
    mend: str | UnsetType = UNSET


class Ready(Object):
    """Answer of ``GET /health/ready``: 200 when no part failed, else 503."""

    status: Literal["ok", "failed"]
    version: str
    parts: dict[str, PartState]


async def liveness(context: Context) -> Answer[Live]:
    """The process answers."""
    return Answer(Live(version=context.version))


async def readiness(context: Context) -> Answer[Ready]:
    """Every part that the server needs is well: 200; else 503. The code interpreter may be off, and model servers
    may be left alone."""
    states = await asyncio.gather(*(_state(part) for part in context.health))
    by_name = {part.name: state for part, state in zip(context.health, states, strict=True)}
    is_ready = all(state.status != "failed" for state in states)
    return Answer(
        Ready(status="ok" if is_ready else "failed", version=context.version, parts=by_name), 200 if is_ready else 503
    )


async def _state(part: HealthPart) -> PartState:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            said = await part.check()
    except Exception as error:
        # The cause may name hosts and files: it is the log's, and the class of it the caller's.
        log.warning("health_check_failed", part=part.name, error=error)
        return PartState(status="failed", reason=type(error).__name__)
    return said if isinstance(said, PartState) else PartState(status="ok", reason=None)


def accepting(is_stopping: Callable[[], bool]) -> HealthPart:
    """Whether requests should be sent here: not to a server that was told to stop."""

    async def check() -> PartState:
        if is_stopping():
            return PartState(status="failed", reason="The server is stopping.")
        return PartState(status="ok", reason=None)

    return HealthPart("accepting", check)


def code_interpreter(state: Callable[[], State], *, is_needed: bool) -> HealthPart:
    """The part that runs code. ``is_needed``: without it the server is not ready."""

    async def check() -> PartState:
        missing: Literal["off", "failed"] = "failed" if is_needed else "off"
        match state():
            case Starting(reason):
                return PartState(status=missing, reason=reason)
            case Off(reason, mend):
                return PartState(status=missing, reason=reason, mend=mend)
            case _:
                return PartState(status="ok", reason=None)

    return HealthPart("code_interpreter", check)


def upstreams(troubles: Callable[[], list[str]]) -> HealthPart:
    """The model servers: off while some of them are left alone because they fail. The server is ready without: others
    may answer, and those that fail are asked again soon."""

    async def check() -> PartState:
        if said := troubles():
            return PartState(status="off", reason="; ".join(said))
        return PartState(status="ok", reason=None)

    return HealthPart("upstreams", check)
