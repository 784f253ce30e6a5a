"""A Chat Completions server as an ``Upstream``.

Until something of its answer can be shown a failed call is repeated; after that, never. Three clocks bound a call:
connecting, the first byte, and the silence between two bytes. Leaving the iterator ends the request. A server, or a
model of it, that has failed for some time is left alone for a while, see ``breaker``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import re
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import cast

import aiohttp
import msgspec
from msgspec.structs import replace
from yarl import URL

from threadkeep.contract.errors import UpstreamFailed
from threadkeep.contract.models import Model
from threadkeep.upstream import failures, quirks
from threadkeep.upstream.answer import AnswerReader
from threadkeep.upstream.breaker import Breaker
from threadkeep.upstream.chat import AssistantMessage, ChatChunk, ChatRequest
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.failures import Place
from threadkeep.upstream.quirks import Quirk
from threadkeep.upstream.sse import MAX_EVENT_BYTES, EventTooLarge

log = logging.getLogger(__name__)

_LONGEST_ERROR_BODY = 64 * 1024
_LONGEST_MODEL_LIST = 8 * 1024 * 1024
_LONGEST_ANSWER = 64 * 1024 * 1024
_MODEL_LIST_TIMEOUT_S = 5.0
# How long the end of a complete answer is waited for, so that its connection can be used again.
_TAIL_S = 0.05
# What is told of a wait that no call waits for.
_LONGEST_WAIT_S = 86_400.0
# Lessons a single call may learn from refusals, and models we remember lessons of.
_MOST_LESSONS = 6
_MOST_REMEMBERED = 1000
_AZURE_API_VERSION = "2024-10-21"
_DEPLOYMENT = re.compile(r"[\w-][\w.-]*")
_encode = msgspec.json.Encoder().encode


class SharedSession:
    """The one aiohttp session that all upstreams share: made inside the event loop when first needed."""

    def __init__(self, user_agent: str = "threadkeep") -> None:
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    def get(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # As many connections as there are runs: a pool that made runs wait for one another would only move
                # the bound that the node already has.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ttl_dns_cache=30),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._user_agent},
            )
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class ChatCompletionsUpstream:
    """One configured Chat Completions server; see ``Upstream`` for what its methods promise."""

    def __init__(self, config: UpstreamConfig, session: SharedSession) -> None:
        self.name = config.name
        self.config = config
        self._session = session
        self._quirk = quirks.quirk_for(config.url, config.quirks, "")
        self._base = _base(config)
        self._headers = _headers(config, self._quirk)
        self._proxy = _proxy(self._base)
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=config.connect_timeout_s, sock_connect=config.connect_timeout_s
        )
        # What refusals taught, by the upstream's name of the model.
        self._learned: dict[str, Quirk] = {}
        # Of the server, which knows whether it can be reached, and of those of its models that fail: one that crashes
        # is not the others' fault.
        self._breaker = Breaker()
        self._failing: dict[str, Breaker] = {}
        # How calls of runs came out: answered, refused, limited, failed, unreachable, silent, cut, spared.
        self.outcomes: Counter[str] = Counter()

    def context_window(self, model: str) -> int:
        return self.config.window(model)

    def sees(self, model: str) -> bool:
        return self.config.sees(model)

    def place(self, model: str) -> Place:
        """``model`` by the upstream's name."""
        return Place(self.name, self.config.host, model, self.config.secrets)

    def address(self, operation: str, model: str) -> URL:
        """Where ``operation``, a path such as ``chat/completions``, is asked of ``model``, by the upstream's name."""
        return self._url(model, self._known(model), operation)

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str] | None = None) -> aiohttp.ClientResponse:
        """One attempt: what aiohttp raises is raised. The upstream's own headers win over ``headers``."""
        if headers:
            own = {name.lower() for name in self._headers}
            headers = {name: value for name, value in headers.items() if name.lower() not in own} | self._headers
        return await self._session.get().post(
            url,
            data=body,
            headers=headers or self._headers,
            proxy=self._proxy,
            timeout=self._timeout,
            allow_redirects=False,
        )

    async def ask(self, operation: str, model: str, request: object, *, deadline: float) -> bytes:
        """The whole answer of ``model``, by the upstream's name, to a request that is sent as JSON and changes nothing.

        A failure that may pass is tried again, so often as the upstream is configured for; all before ``deadline``, of
        ``time.monotonic()``. Raises ``UpstreamFailed``.
        """
        place, url, body = self.place(model), self.address(operation, model), _encode(request)
        retries = 0
        while True:
            failure: UpstreamFailed
            wait_s: float | None = None
            patience_s = min(self.config.first_byte_timeout_s, max(deadline - time.monotonic(), 0.0))
            try:
                async with asyncio.timeout(patience_s):
                    response = await self.post(url, body)
                    try:
                        if response.status == 200:
                            return await _bounded(response, _LONGEST_ANSWER)
                        said = await error_body(response)
                    finally:
                        response.release() if response.content.at_eof() else response.close()
            except aiohttp.ConnectionTimeoutError:
                failure = failures.unreachable(place, f"no connection within {self.config.connect_timeout_s:g} seconds")
            except TimeoutError:
                raise failures.silent(place, f"did not answer /{operation}", round(patience_s, 1)) from None
            except (aiohttp.ClientError, OSError) as error:
                failure = failures.unreachable(place, why(error))
                wait_s = 0.0 if isinstance(error, aiohttp.ServerDisconnectedError) and not retries else None
            else:
                wait_s = _retry_after_s(response.headers)
                failure = failures.refused(place, response.status, said, wait_s)
                if response.status not in failures.PASSING or failure.context_exceeded:
                    raise failure
                if not _may_help(response, said.decode(errors="replace")):
                    raise failure
            pause_s = min(0.5 * 2**retries, 8.0) * random.uniform(0.5, 1.0) if wait_s is None else wait_s
            if retries >= self.config.max_retries or time.monotonic() + pause_s > deadline:
                raise failure
            retries += 1
            await asyncio.sleep(pause_s)

    @property
    def troubles(self) -> list[str]:
        """What is left alone at present, in words that name nothing but the upstream and its models."""
        open_ones = [("", self._breaker), *((f" for '{model}'", breaker) for model, breaker in self._failing.items())]
        return [
            f"'{self.name}' has failed{which} for {breaker.failing_s:.0f} s, and is asked again "
            + (f"in {math.ceil(wait_s)} s" if (wait_s := breaker.wait_s) else "with the next run")
            for which, breaker in open_ones
            if breaker.is_open
        ]

    async def stream(
        self, request: ChatRequest, *, deadline: float | None = None
    ) -> AsyncGenerator[list[ChatChunk], None]:
        model = self.config.name_there(request.model)
        place = self.place(model)
        request = replace(request, model=model)
        attempts = _Attempts(self.config, deadline)
        while True:
            opened = await self._open(request, place, attempts)
            has_shown = False
            try:
                async with aclosing(self._read(opened, request, place)) as reads:
                    async for chunks in reads:
                        if not has_shown and any(map(_shows, chunks)):
                            has_shown = True
                            self._answered(model, "answered")
                        yield chunks
            except UpstreamFailed as failure:
                if has_shown:
                    raise
                if failure.code == "server_error":
                    self._failed(model, opened.began_at, "cut", failure)
                else:
                    self._answered(model, "limited" if failure.code == "rate_limit_exceeded" else "refused")
                if not failure.may_pass:
                    raise
                await attempts.pause(failure, None)
            else:
                if not has_shown:
                    self._answered(model, "answered")
                return

    async def _read(self, opened: _Opened, request: ChatRequest, place: Place) -> AsyncGenerator[list[ChatChunk], None]:
        """The chunks of one answer, as lists."""
        response, read = opened.response, opened.first
        answer = AnswerReader(place, thinks_aloud=opened.quirk.thinks_aloud is not False, taken_ids=_call_ids(request))
        silence = Silence(response, self.config.idle_timeout_s)
        at_end = False
        try:
            if _is_json(read, response.content_type):
                body = await _whole(response, silence, read)
                at_end = True
                yield answer.take_whole(body)
                return
            readany, take = response.content.readany, answer.take
            while read:
                if chunks := take(read):
                    yield chunks
                if answer.failure is not None:
                    raise answer.failure
                if answer.is_done:
                    break
                silence.begin()
                read = await readany()
                silence.end()
            at_end = not read
            if chunks := answer.end():
                yield chunks
            if not at_end:
                at_end = await _reaches_end(response)
        except EventTooLarge:
            raise failures.broken(place, f"sent an event of more than {MAX_EVENT_BYTES:,} bytes") from None
        except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and str(error) != "Connection closed.":
                raise  # that text is aiohttp's, for a read after the connection has gone
            if answer.is_finished:
                return  # nothing is missing but the usage, perhaps
            if silence.has_expired:
                # Not to be repeated: it has been at work all this time, and would be given the same again.
                raise failures.silent(place, "sent nothing more of its answer", self.config.idle_timeout_s) from error
            raise failures.cut(place) from error
        finally:
            silence.stop()
            if at_end:
                response.release()
            else:
                response.close()

    async def models(self) -> list[Model]:
        """What the server lists; raises ``UpstreamFailed`` when it does not, within a few seconds."""
        if "model_list" in self._quirk.lacks:
            return []
        place = Place(self.name, self.config.host, "", self.config.secrets)
        url = _under(self._base, "models", api_version=self.config.api_version)
        try:
            async with (
                asyncio.timeout(_MODEL_LIST_TIMEOUT_S),
                self._session.get().get(
                    url, headers=self._headers, proxy=self._proxy, timeout=self._timeout, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    raise failures.refused(place, response.status, await error_body(response), None)
                body = await _bounded(response, _LONGEST_MODEL_LIST)
        except TimeoutError:
            raise failures.silent(place, "did not list its models", _MODEL_LIST_TIMEOUT_S) from None
        except (aiohttp.ClientError, OSError) as error:
            raise failures.unreachable(place, why(error)) from error
        return _listed(body, self.name)

    async def _open(self, request: ChatRequest, place: Place, attempts: _Attempts) -> _Opened:
        """Sends the request until the first byte of an answer is there, or nothing is left to try."""
        config, model = self.config, request.model
        quirk = self._known(model)
        sent = quirks.fit(request, quirk)
        lessons = 0
        while True:
            failure: UpstreamFailed
            wait_s: float | None
            began_at = self._begin(place, model)
            try:
                async with asyncio.timeout(config.first_byte_timeout_s):
                    response = await self.post(self._url(model, quirk, "chat/completions"), _encode(sent))
                    try:
                        if response.status == 200:
                            first = await response.content.readany()
                            if first:
                                return _Opened(response, quirk, first, began_at)
                            body = b""
                        else:
                            body = await error_body(response)
                    except BaseException:
                        response.close()
                        raise
            except aiohttp.ConnectionTimeoutError:
                failure = failures.unreachable(place, f"no connection within {config.connect_timeout_s:g} seconds")
                wait_s = None
                self._failed(None, began_at, "unreachable", failure)
            except TimeoutError:
                # Not repeated: the upstream has been at work all this time, and would be given the same again.
                failure = failures.silent(place, "sent no answer", config.first_byte_timeout_s)
                self._failed(model, began_at, "silent", failure)
                raise failure from None
            except aiohttp.ClientSSLError as error:
                failure = failures.unreachable(place, why(error))
                self._failed(None, began_at, "unreachable", failure)
                raise failure from error
            except (aiohttp.ClientError, OSError) as error:
                failure = failures.unreachable(place, why(error))
                # A kept connection that the server had closed meanwhile: a new one is made at once.
                wait_s = None
                if isinstance(error, aiohttp.ServerDisconnectedError) and attempts.is_first:
                    wait_s = 0.0
                else:
                    refuses = isinstance(error, aiohttp.ClientConnectorError)
                    self._failed(None if refuses else model, began_at, "unreachable", failure)
            else:
                response.release()
                status = response.status
                wait_s = _retry_after_s(response.headers)
                if status == 200:
                    failure = failures.cut(place, "its answer began")
                    self._failed(model, began_at, "cut", failure)
                else:
                    failure = failures.refused(place, status, body, wait_s)
                    text = body.decode(errors="replace")
                    learned = quirks.learn(status, text, sent, quirk) if lessons < _MOST_LESSONS else None
                    if learned is not None and not failure.context_exceeded:
                        lessons += 1
                        quirk = learned
                        sent = quirks.fit(request, quirk)
                        self._remember(model, learned)
                        continue
                    if failure.code == "rate_limit_exceeded":
                        self._answered(model, "limited")
                    elif status in failures.PASSING and not failure.context_exceeded:
                        self._failed(model, began_at, "failed", failure)
                    else:
                        self._answered(model, "refused")
                    if status not in failures.PASSING or failure.context_exceeded or not _may_help(response, text):
                        raise failure
            await attempts.pause(failure, wait_s)

    def _begin(self, place: Place, model: str) -> float:
        """A call is about to go; raises when the server or the model is left alone for the moment."""
        breakers = [self._breaker]
        if self._failing and (failing := self._failing.get(model)) is not None:
            breakers.append(failing)
        closed = max(breakers, key=lambda breaker: breaker.wait_s)
        if wait_s := closed.wait_s:
            self.outcomes["spared"] += 1
            since = datetime.now(UTC) - timedelta(seconds=closed.failing_s)
            raise failures.left_alone(place, since, wait_s, closed.reason)
        return max([breaker.begin() for breaker in breakers])

    def _failed(self, model: str | None, began_at: float, outcome: str, failure: UpstreamFailed) -> None:
        """A call has failed; ``model``: by itself, else all the server's models would have."""
        self.outcomes[outcome] += 1
        breaker = self._breaker
        if model is not None:
            if model not in self._failing and len(self._failing) >= _MOST_REMEMBERED:
                self._failing.pop(next(iter(self._failing)))
            breaker = self._failing.setdefault(model, Breaker(began_at))
        if breaker.failed(began_at, failures.told_plainly(failure)):
            extra = {"action": "upstream_left_alone", "upstream": self.name, "model": model, "cause": breaker.reason}
            log.warning("an upstream has failed for some time", extra=extra)

    def _answered(self, model: str, outcome: str) -> None:
        """The server and the model are there."""
        self.outcomes[outcome] += 1
        was_open = self._breaker.answered()
        if self._failing and (failing := self._failing.pop(model, None)) is not None:
            was_open = failing.is_open or was_open
        if was_open:
            extra = {"action": "upstream_back", "upstream": self.name, "model": model}
            log.warning("an upstream answers again", extra=extra)

    def _known(self, model: str) -> Quirk:
        quirk = self._learned.get(model)
        return quirk if quirk is not None else quirks.quirk_for(self.config.url, self.config.quirks, model)

    def _remember(self, model: str, quirk: Quirk) -> None:
        if len(self._learned) >= _MOST_REMEMBERED:
            self._learned.pop(next(iter(self._learned)))
        self._learned[model] = quirk

    def _url(self, model: str, quirk: Quirk, operation: str) -> URL:
        base, version, segments = self._base, self.config.api_version, operation.split("/")
        if quirk.path == "deployments":
            if not _DEPLOYMENT.fullmatch(model):
                # Part of a path: "../x" would ask another operation, with our key.
                raise failures.refused(self.place(model), 404, b"", None)
            version = version or _AZURE_API_VERSION
            if "deployments" not in base.parts:
                segments = ["deployments", model, *segments]
            if "openai" not in base.parts:
                segments = ["openai", *segments]
        return _under(base, *segments, api_version=version)


class _Opened(msgspec.Struct, frozen=True):
    """An answer whose first bytes are there."""

    response: aiohttp.ClientResponse
    quirk: Quirk
    first: bytes
    began_at: float


class _Attempts:
    """How often one call is tried again, and until when."""

    def __init__(self, config: UpstreamConfig, deadline: float | None) -> None:
        self.retries = 0
        self._most = config.max_retries
        self._until = time.monotonic() + config.retry_total_s
        if deadline is not None:
            self._until = min(self._until, deadline)

    @property
    def is_first(self) -> bool:
        """Whether none was made yet, and another may be."""
        return not self.retries and self._most > 0

    async def pause(self, failure: UpstreamFailed, wait_s: float | None) -> None:
        """Returns when it is time for another attempt, ``wait_s`` after this one if the server said so; raises
        ``failure`` when there is to be none."""
        if wait_s is None:
            # Between half and all of 0.5, 1, 2, 4, 8 s: runs that failed together do not come back together.
            wait_s = float(min(0.5 * 2.0**self.retries, 8.0) * random.uniform(0.5, 1.0))
        if self.retries >= self._most or time.monotonic() + wait_s > self._until:
            raise failure
        self.retries += 1
        # Those whom the server told the same time do not come back in the same moment either.
        await asyncio.sleep(wait_s + random.uniform(0, min(wait_s / 10, 1.0)))


def _shows(chunk: ChatChunk) -> bool:
    """Whether a reader sees anything of it."""
    return any(choice.delta.content or choice.delta.refusal or choice.delta.tool_calls for choice in chunk.choices)


class Silence:
    """Closes the response when a read waits longer than the limit.

    One timer per limit instead of one per read: a read only notes when it began.
    """

    def __init__(self, response: aiohttp.ClientResponse, limit_s: float) -> None:
        self.has_expired = False
        self._response = response
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        # None while nobody reads: a slow consumer is not the upstream's silence.
        self._since: float | None = None
        self._timer = self._loop.call_later(limit_s, self._look)

    def begin(self) -> None:
        self._since = self._loop.time()

    def end(self) -> None:
        self._since = None

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._limit_s if self._since is None else self._since + self._limit_s - self._loop.time()
        if left_s <= 0:
            self.has_expired = True
            self._response.close()
        else:
            self._timer = self._loop.call_later(left_s, self._look)


def _base(config: UpstreamConfig) -> URL:
    url = URL(config.url)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"the URL of the upstream {config.name!r} must be like http://127.0.0.1:11434/v1")
    path = url.path.rstrip("/").removesuffix("/chat/completions")
    return url.with_path(path, encoded=False, keep_query=True).with_user(None)


def _under(base: URL, *segments: str, api_version: str | None) -> URL:
    """A path below the base URL, whose query is kept."""
    url = base.joinpath(*segments).with_query(base.query)
    return url.update_query({"api-version": api_version}) if api_version else url


def _headers(config: UpstreamConfig, quirk: Quirk) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream, application/json",
        # Compression of small events only delays them.
        "Accept-Encoding": "identity",
    }
    url = URL(config.url)
    if config.api_key and quirk.key_header == "api-key":
        headers["api-key"] = config.api_key
    elif config.api_key:
        headers["Authorization"] = f"Bearer {config.api_key}"
    elif url.user:
        headers["Authorization"] = aiohttp.encode_basic_auth(url.user, url.password or "")
    return headers | dict(config.extra_headers)


def _proxy(base: URL) -> str | None:
    """The proxy of the environment; never for this machine, whatever the environment says."""
    host = base.host or ""
    if host == "localhost" or host.startswith("127.") or host == "::1" or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(base.scheme)


def _is_json(read: bytes, content_type: str) -> bool:
    """Whether the answer is one JSON object. Its first byte says it; the header is often wrong."""
    return content_type != "text/event-stream" and read.lstrip()[:1] in (b"{", b"[", b"<")


async def _whole(response: aiohttp.ClientResponse, silence: Silence, first: bytes) -> bytes:
    reads, size = [first], len(first)
    while True:
        silence.begin()
        read = await response.content.readany()
        silence.end()
        if not read:
            return b"".join(reads)
        reads.append(read)
        size += len(read)
        if size > MAX_EVENT_BYTES:
            raise EventTooLarge


async def _bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, up to the limit; the connection of a longer one is given up."""
    reads: list[bytes] = []
    size = 0
    while size < limit and (read := await response.content.readany()):
        reads.append(read)
        size += len(read)
    if not response.content.at_eof():
        response.close()
    return b"".join(reads)[:limit]


async def error_body(response: aiohttp.ClientResponse) -> bytes:
    """As much of an error's body as comes soon and is worth reading."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(5):
            return await _bounded(response, _LONGEST_ERROR_BODY)
    response.close()
    return b""


async def _reaches_end(response: aiohttp.ClientResponse) -> bool:
    """Whether the body ends here, as it should after ``[DONE]``: only then can its connection be used again."""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_TAIL_S):
            while not response.content.at_eof():
                if not await response.content.readany():
                    break
            return True
    return False


def _call_ids(request: ChatRequest) -> set[str]:
    """The tool call ids that the conversation has used already."""
    return {
        call.id
        for message in request.messages
        if isinstance(message, AssistantMessage) and message.tool_calls is not msgspec.UNSET
        for call in message.tool_calls
    }


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long the server wants to be left alone: in milliseconds, in seconds, or until a date. None if it does not
    say, or nothing that makes sense."""
    seconds = math.nan
    with suppress(ValueError, KeyError):
        seconds = float(headers["retry-after-ms"]) / 1000
    value = headers.get("retry-after", "")
    if not math.isfinite(seconds):
        with suppress(ValueError):
            seconds = float(value)
    if not math.isfinite(seconds):
        with suppress(ValueError, OverflowError):
            at = parsedate_to_datetime(value)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), _LONGEST_WAIT_S) if math.isfinite(seconds) else None


def _may_help(response: aiohttp.ClientResponse, body: str) -> bool:
    """Whether waiting can change the outcome: not when the server says no, and not when the money is used up."""
    return response.headers.get("x-should-retry") != "false" and "insufficient_quota" not in body


def why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name could not be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if cause.errno is None or isinstance(cause, ssl.SSLError):
            return (cause.strerror or str(cause)).lower()
        # What asyncio says in its place names the address, and not what was wrong.
        return os.strerror(cause.errno).lower()
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer"
    return str(error) or type(error).__name__


def _listed(body: bytes, owner: str) -> list[Model]:
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    if isinstance(found, dict):
        fields = cast("dict[str, object]", found)
        found = fields.get("data") or fields.get("models")
    models: list[Model] = []
    for entry in cast("list[object]", found) if isinstance(found, list) else []:
        fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {"id": entry}
        name, created, owned_by = fields.get("id") or fields.get("name"), fields.get("created"), fields.get("owned_by")
        if isinstance(name, str) and name:
            models.append(
                Model(
                    id=name,
                    created=int(created) if isinstance(created, (int, float)) else 0,
                    owned_by=owned_by if isinstance(owned_by, str) and owned_by else owner,
                )
            )
    return models
