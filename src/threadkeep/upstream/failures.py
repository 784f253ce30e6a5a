"""What a failed model call is called, in words that help and hold no secret.

Every text that comes from an upstream passes ``strike_out`` before it goes into an ``UpstreamFailed``: messages end up
in a run's ``last_error``, in logs and in front of end users.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import cast

import msgspec

from threadkeep.contract.errors import UpstreamFailed

# Clients retry on this phrase; it is OpenAI's own.
SERVER_ERROR = "The server had an error processing your request"

_LONGEST_QUOTE = 400

# Statuses that the same request may not meet again; the others say what they will say again.
PASSING = frozenset({408, 429, 500, 502, 503, 504, 529})

_SECRETS = (
    (re.compile(r"\b(sk|rk|pk|gsk|xai|hf|nvapi|AIza)([-_])[\w*.\-]{6,}"), r"\1\2***"),
    (re.compile(r"\bAIza[\w\-]{10,}"), "***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',;]+"), r"\1 ***"),
    (re.compile(r"(?i)\b(api[-_ ]?key[\"']?\s*(?:[:=]|is|provided:)\s*[\"']?)[^\s\"',;]+"), r"\1***"),
    (re.compile(r"(?i)(://)[^/\s@]+@"), r"\1***@"),
)


def strike_out(text: str, secrets: Collection[str]) -> str:
    """The text without the given secrets and without anything that looks like a key."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def told_plainly(failure: UpstreamFailed) -> str:
    """The message for whoever runs this server, without the phrase that is there for clients."""
    return failure.message.removeprefix(f"{SERVER_ERROR}: ")


class ErrorBody(msgspec.Struct, frozen=True):
    """What can be read out of an error answer, whatever its form."""

    message: str
    code: str | None = None
    type: str | None = None


def read_error(body: bytes) -> ErrorBody:
    """Understands OpenAI's, vLLM's, llama.cpp's, FastAPI's, Gemini's and LM Studio's forms, and plain text."""
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode(errors="replace").strip()
        if text.startswith("<"):  # a proxy's HTML page: only its title says anything
            title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
            text = title.group(1).strip() if title else ""
        return ErrorBody(text)
    return _error(found)


def _error(found: object) -> ErrorBody:
    if isinstance(found, list) and found:
        return _error(cast("list[object]", found)[0])
    if not isinstance(found, dict):
        return ErrorBody(found if isinstance(found, str) else "")
    fields = cast("dict[str, object]", found)
    inner = fields.get("error")
    if isinstance(inner, (dict, list)) and inner:
        return _error(cast("object", inner))
    message = cast("object", fields.get("message") or fields.get("detail") or inner or fields)
    code, kind = fields.get("code"), fields.get("type")
    return ErrorBody(
        message if isinstance(message, str) else msgspec.json.encode(message).decode(),
        str(code) if code is not None else None,
        str(kind) if kind is not None else None,
    )


_CONTEXT = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|context (?:window|length|size) (?:is )?exceed"
    r"|exceed\w* (?:the )?(?:available |model'?s? |maximum )?(?:\w+ )?context|contextwindowexceeded"
    r"|exceeds? the context"
    r"|prompt is too long|input is too long|prompt too long|input length exceeds|input length and `?max_tokens`? exceed"
    r"|reduce the length of the (?:messages|input|prompt)|input tokens? (?:count )?(?:\(\d+\) )?exceeds?"
    r"|longer than the model'?s context|max_model_len|decoder prompt .{0,40}is longer|string too long.*tokens"
    r"|max_tokens must be at least 1, got -|requested tokens .{0,20}exceed|model_max_prompt_tokens_exceeded"
    r"|input is too large to process"
    r"|too many tokens in (?:the )?prompt|exceeds the maximum number of tokens"
)


def is_context_exceeded(error: ErrorBody) -> bool:
    """Whether the prompt was longer than the model's window: OpenAI, Azure, vLLM, llama.cpp, Ollama, LiteLLM, …"""
    return any(_CONTEXT.search(text.lower()) for text in (error.code, error.type, error.message) if text)


class Place(msgspec.Struct, frozen=True):
    """Which model where, for messages, and what must not be said there."""

    upstream: str
    host: str
    model: str
    secrets: frozenset[str]

    def __str__(self) -> str:
        return f"the upstream '{self.upstream}' at {self.host}"


def refused(place: Place, status: int, body: bytes, retry_after_s: float | None) -> UpstreamFailed:
    """An answer that is an error, as a run's ``last_error``."""
    error = read_error(body)
    said = quote(error.message, place.secrets)
    if is_context_exceeded(error) and status not in (401, 403, 429):
        return UpstreamFailed(
            "invalid_prompt",
            f"The prompt is longer than the context window of the model '{place.model}'"
            + (f": {said}" if said else "."),
            context_exceeded=True,
        )
    if status == 429 or error.code in ("rate_limit_exceeded", "insufficient_quota") or error.code == "429":
        # Waiting fills no empty account.
        return rate_limited(place, said, retry_after_s, may_pass=b"insufficient_quota" not in body)
    if status in (401, 403):
        return UpstreamFailed(
            "server_error",
            f"The model server refused this server's credentials ({status}, {place}). Whoever runs it should check "
            f"the key of this upstream (--upstream-api-key, THREADKEEP_UPSTREAM_API_KEY, or `api_key` in "
            f"threadkeep.toml)." + (f" It said: {said}" if said else ""),
        )
    if status == 404:
        return UpstreamFailed(
            "server_error",
            f"The model '{place.model}' was not found at {place}." + (f" It said: {said}" if said else ""),
        )
    if 300 <= status < 400:
        return UpstreamFailed(
            "server_error",
            f"{SERVER_ERROR}: {place} answered with a redirect ({status}), which is not followed. Set the upstream's "
            f"URL to its final address.",
        )
    if status in (400, 413, 422):
        return UpstreamFailed(
            "invalid_prompt",
            f"The model server did not accept the request: {said}"
            if said
            else f"The model server did not accept the request ({status}).",
        )
    message = f"{SERVER_ERROR}: {place} answered {status}" + (f": {said}" if said else ".")
    return UpstreamFailed("server_error", message, may_pass=status in PASSING)


def failed_in_stream(place: Place, error: bytes) -> UpstreamFailed:
    """An error object that came where a chunk was expected, as ``last_error``."""
    body = read_error(error)
    status = int(body.code) if body.code and body.code.isdigit() and len(body.code) == 3 else 500
    kind = f"{body.type} {body.code}".lower()
    if status == 500 and ("rate_limit" in kind or "insufficient_quota" in kind):
        status = 429
    elif status == 500 and ("invalid_request" in kind or "invalid_prompt" in kind or "badrequest" in kind):
        status = 400
    return refused(place, status, error, None)


def rate_limited(place: Place, said: str, retry_after_s: float | None, *, may_pass: bool = True) -> UpstreamFailed:
    message = f"Rate limit reached for {place.model}"
    message += f": {said}" if said else f" at {place}."
    if retry_after_s is not None and "try again in" not in message.lower():
        # Agency Swarm and others read the number out of these very words.
        seconds = f"{max(retry_after_s, 1):.0f}"
        message = f"{message.rstrip('. ')}. Please try again in {seconds} second{'' if seconds == '1' else 's'}."
    return UpstreamFailed("rate_limit_exceeded", message, may_pass=may_pass)


def unreachable(place: Place, why: str) -> UpstreamFailed:
    return UpstreamFailed(
        "server_error",
        f"{SERVER_ERROR}: {place} could not be reached ({quote(why, place.secrets)}). Is it running, and is the "
        f"upstream's URL right?",
        may_pass=True,
    )


def silent(place: Place, what: str, seconds: float) -> UpstreamFailed:
    return UpstreamFailed("server_error", f"{SERVER_ERROR}: {place} {what} within {seconds:g} seconds.")


def broken(place: Place, why: str, *, may_pass: bool = False) -> UpstreamFailed:
    """The answer began and can't be used."""
    return UpstreamFailed("server_error", f"{SERVER_ERROR}: {place} {quote(why, place.secrets)}.", may_pass=may_pass)


def cut(place: Place, what: str = "its answer was complete") -> UpstreamFailed:
    """The connection ended too early."""
    return broken(place, f"closed the connection before {what}", may_pass=True)


def left_alone(place: Place, since: datetime, wait_s: float, last: str) -> UpstreamFailed:
    """Not asked at all, because it has failed for some time. ``last``: how it failed the last time."""
    seconds = max(1, -int(-wait_s // 1))
    return UpstreamFailed(
        "server_error",
        f"{SERVER_ERROR}: {place} has failed since {since:%Y-%m-%d %H:%M:%S} UTC and is left alone for the moment. "
        f"Please try again in {seconds} second{'' if seconds == 1 else 's'}. Last time: {last}",
    )


def quote(text: str, secrets: Collection[str]) -> str:
    """One line of bounded length, struck out before it is cut, so that no half of a key remains."""
    line = " ".join(strike_out(text, secrets).split())
    return line if len(line) <= _LONGEST_QUOTE else line[: _LONGEST_QUOTE - 1] + "…"
