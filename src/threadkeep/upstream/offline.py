"""The offline model: answers by rule, the same way every time, without a network or a key.

It is **not a language model**, and says so. It is there for the first minute with Threadkeep, and for testing an
application: what it does is decided by what you write to it.

Models: ``offline`` answers at once; ``offline-slow`` pauses 0.2 seconds before every word, so that there is time to
cancel. ``offline-<n>ms`` pauses n milliseconds (``offline-5ms``).

What it understands, in this order. It looks at the last user message; "line" means a line of that message.

===============================================  ================================================================
You write                                        It does
===============================================  ================================================================
a line ``fail: rate_limit_exceeded``             fails like a model server: ``rate_limit_exceeded``, ``server_error``
                                                 or ``invalid_prompt``, with the rest of the line as its message
a line ``wait: 2``                               waits that many seconds (60 at most) before it begins
a line ``finish: length``                        ends with this finish reason: ``length`` or ``content_filter``
a line ``refuse: I would rather not.``           answers with a refusal
a line ``call get_weather {"city": "Oslo"}``     calls the function, if it is offered; without JSON it makes minimal
                                                 arguments from the function's schema. Hosted tools are called the
                                                 same way (``call code_interpreter {"code": "print(1)"}``). Several
                                                 lines are parallel calls; with ``parallel_tool_calls: false`` they
                                                 come one after the other
(after tool results)                             tells what every function answered
``tool_choice`` "required", or a function        calls it (or the first one) with minimal arguments
a line ``say: anything`` or ``echo: anything``   answers exactly that; several lines make several lines
``count to 200``                                 answers "1 2 3 … 200", a word at a time (10,000 at most)
JSON mode                                        ``json_object``: what it knows, as an object; ``json_schema``: the
                                                 smallest value that fits the schema
``My name is Ada.``                              remembers it; any ``My <thing> is <value>`` works
``What is my name?``                             answers from the thread: the newest that was said
``What did I say first?`` (``last``)             repeats your first message, or the one before this
``Repeat what I said.``                          repeats your previous message
``What are your instructions?``                  repeats the instructions it was given
``How many messages have you seen?``             counts, and says how the thread began
``Who are you?``                                 says what it is
anything else                                    says what it is, and repeats your message
===============================================  ================================================================

The commands may be written in upper or lower case. It honours ``max_completion_tokens`` (one word is one token; the
answer then ends with ``length``), ``tool_choice`` and ``response_format``; it reports usage, counted in words.
Temperature and the like mean nothing to it. The same conversation gives the same answer and the same tool call ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal, cast, get_args

import msgspec
from msgspec import UNSET, Struct

from threadkeep.contract.errors import UpstreamFailed
from threadkeep.contract.models import Model
from threadkeep.upstream.chat import (
    AssistantMessage,
    ChatChunk,
    ChatRequest,
    ChatTool,
    Choice,
    ChoiceDelta,
    DeveloperMessage,
    FinishReason,
    FunctionDelta,
    ImagePart,
    JsonSchemaFormat,
    NamedTool,
    SystemMessage,
    TextPart,
    ToolCallDelta,
    ToolMessage,
    Usage,
    UserMessage,
)
from threadkeep.upstream.windows import DEFAULT_WINDOW

WHAT_IT_IS = (
    "I am Threadkeep's offline model: I answer by rule and am not a language model. "
    "To talk to a real one, start the server with --upstream-url."
)
OFFLINE_MODELS = (
    Model(id="offline", created=0, owned_by="threadkeep"),
    Model(id="offline-slow", created=0, owned_by="threadkeep"),
)

_SLOW_S = 0.2
_LONGEST_WAIT_S = 60.0
_HIGHEST_COUNT = 10_000
_FailureCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]


def is_offline(model: str) -> bool:
    """Whether this name always means the offline model."""
    return model == "offline" or model.startswith("offline-")


class OfflineUpstream:
    """The offline model as an ``Upstream``; see the module's description."""

    def __init__(self) -> None:
        self.name = "offline"

    def context_window(self, model: str) -> int:
        return DEFAULT_WINDOW

    def sees(self, model: str) -> bool:
        """It answers whoever shows it images, and says that it cannot see them."""
        return True

    async def models(self) -> list[Model]:
        return list(OFFLINE_MODELS)

    async def stream(
        self, request: ChatRequest, *, deadline: float | None = None
    ) -> AsyncGenerator[list[ChatChunk], None]:
        turn = _Conversation(request).answer()
        await asyncio.sleep(turn.wait_s)
        if turn.failure is not None:
            raise turn.failure
        pause_s = _pause_s(request.model)
        words = _words(turn.text)
        limit = request.max_completion_tokens
        finish: FinishReason = turn.finish
        if limit is not None and len(words) > limit:
            words, finish = words[: max(limit, 0)], "length"
        for word in words:
            await asyncio.sleep(pause_s)
            delta = ChoiceDelta(refusal=word) if turn.is_refusal else ChoiceDelta(content=word)
            yield [ChatChunk(choices=[Choice(delta=delta)])]
        for index, call in enumerate(turn.calls):
            begin = ToolCallDelta(index, call.id, FunctionDelta(call.name, ""))
            yield [ChatChunk(choices=[Choice(delta=ChoiceDelta(tool_calls=[begin]))])]
            for piece in re.findall(r"(?s).{1,12}", call.arguments):
                await asyncio.sleep(pause_s)
                more = ToolCallDelta(index, None, FunctionDelta(None, piece))
                yield [ChatChunk(choices=[Choice(delta=ChoiceDelta(tool_calls=[more]))])]
        prompt = _words_of(request)
        completion = len(words) + sum(len(call.arguments.split()) + 1 for call in turn.calls)
        usage = Usage(prompt, completion, prompt + completion)
        yield [ChatChunk(choices=[Choice(ChoiceDelta(), finish_reason=finish)]), ChatChunk(usage=usage)]


class _Call(Struct, frozen=True):
    id: str
    name: str
    arguments: str


class _Turn(Struct, frozen=True, kw_only=True):
    """What the model does this time."""

    text: str = ""
    calls: Sequence[_Call] = ()
    finish: FinishReason = "stop"
    is_refusal: bool = False
    wait_s: float = 0.0
    failure: UpstreamFailed | None = None


_CALL_LINE = re.compile(r"(?im)^\s*call\s+([A-Za-z0-9_\-]+)[ \t]*(\{.*\})?[ \t]*$")
_SAY_LINE = re.compile(r"(?im)^\s*(?:say|echo):[ \t]?(.*)$")
_REFUSE_LINE = re.compile(r"(?im)^\s*refuse:[ \t]*(.*)$")
_FAIL_LINE = re.compile(r"(?im)^\s*fail:\s*(\w+)[ \t]*(.*)$")
_WAIT_LINE = re.compile(r"(?im)^\s*wait:\s*(\d+(?:\.\d+)?)\s*$")
_FINISH_LINE = re.compile(r"(?im)^\s*finish:\s*(length|content_filter)\s*$")
_COUNT = re.compile(r"(?i)\bcount to (\d+)")
_TOLD = re.compile(r"(?i)\bmy ([\w' -]{1,60}?) (?:is|are) ([^.!?\n]{1,200})")
_ASKED = re.compile(r"(?i)\bwhat(?: is|'s| are|s) my ([\w' -]{1,60}?)\s*(?:\?|$)")


class _Conversation:
    """Finds the rule that holds for the last user message."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        messages = request.messages
        last = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], UserMessage)), -1)
        self._said = [_text(m) for m in messages if isinstance(m, UserMessage)]
        self._text = self._said[-1] if self._said else ""
        self._instructions = "\n\n".join(m.content for m in messages if isinstance(m, SystemMessage | DeveloperMessage))
        # What has happened since the last user message.
        self._results = [m for m in messages[last + 1 :] if isinstance(m, ToolMessage)]
        self._called = [
            call
            for m in messages[last + 1 :]
            if isinstance(m, AssistantMessage) and m.tool_calls is not UNSET
            for call in m.tool_calls
        ]

    def answer(self) -> _Turn:
        text = self._text
        wait_s = min(float(found[1]), _LONGEST_WAIT_S) if (found := _WAIT_LINE.search(text)) else 0.0
        if found := _FAIL_LINE.search(text):
            code = found[1].lower()
            if code in get_args(_FailureCode):
                message = found[2].strip() or "The offline model failed because it was asked to."
                return _Turn(wait_s=wait_s, failure=UpstreamFailed(cast("_FailureCode", code), message))
        if found := _REFUSE_LINE.search(text):
            return _Turn(wait_s=wait_s, text=found[1].strip() or "I can't help with that.", is_refusal=True)
        if calls := self._calls():
            return _Turn(wait_s=wait_s, calls=calls, finish="tool_calls")
        finish: FinishReason = "stop"
        if found := _FINISH_LINE.search(text):
            finish = "length" if found[1].lower() == "length" else "content_filter"
        return _Turn(wait_s=wait_s, text=self._reply(), finish=finish)

    def _calls(self) -> list[_Call]:
        tools = {tool.function.name: tool for tool in self._request.tools or ()}
        choice = self._request.tool_choice
        if not tools or choice == "none":
            return []
        named = choice.function.name if isinstance(choice, NamedTool) else None
        wanted = [
            (name, arguments)
            for name, arguments in _CALL_LINE.findall(self._text)
            if name in tools and named in (None, name)
        ]
        wanted = wanted[len(self._called) :]
        if wanted and self._request.parallel_tool_calls is False:
            wanted = wanted[:1]
        if not wanted and not self._called and (named or choice == "required"):
            name = named or next(iter(tools))
            wanted = [(name, "")] if name in tools else []
        return [
            _Call(self._call_id(position), name, arguments or _minimal_arguments(tools[name]))
            for position, (name, arguments) in enumerate(wanted, start=len(self._called))
        ]

    def _call_id(self, position: int) -> str:
        """The same in the same place of the same conversation, another everywhere else."""
        place = f"{self._request.model}\0{len(self._request.messages)}\0{position}\0" + "\0".join(self._said)
        return f"call_{hashlib.sha256(place.encode()).hexdigest()[:24]}"

    def _reply(self) -> str:
        if self._results:
            return self._report()
        if lines := _SAY_LINE.findall(self._text):
            return "\n".join(lines)
        if found := _COUNT.search(self._text):
            return " ".join(map(str, range(1, min(int(found[1]), _HIGHEST_COUNT) + 1)))
        wanted = self._request.response_format
        if isinstance(wanted, JsonSchemaFormat):
            return _json(smallest(wanted.json_schema.schema or {}))
        if wanted is not None:
            return _json({"model": "offline", "you_said": self._text, "messages_seen": len(self._said)})
        return self._from_memory() or self._default()

    def _report(self) -> str:
        names = {call.id: call.function.name for call in self._called}
        return "\n".join(
            f"{names.get(result.tool_call_id, 'The function')} answered: {result.content}" for result in self._results
        )

    def _from_memory(self) -> str | None:
        text, before = self._text.lower(), self._said[:-1]
        if asked := _ASKED.search(self._text):
            thing = asked[1].strip()
            for message in reversed(self._said):
                for told, value in reversed(_TOLD.findall(message)):
                    if told.strip().lower() == thing.lower():
                        return f"Your {thing} is {value.strip()}."
            return f"You have not told me your {thing}."
        if re.search(r"what did i say\b.*\bfirst|my first message", text):
            return f'You first said: "{self._said[0]}"' if before else "You have said nothing before this."
        if re.search(r"what did i (?:just )?say|repeat what i said|my (?:last|previous) message", text):
            return f'You said: "{before[-1]}"' if before else "You have said nothing before this."
        if re.search(r"your (?:system )?(?:instructions|prompt)", text):
            return f"My instructions are: {self._instructions}" if self._instructions else "I have no instructions."
        if re.search(r"how many messages|summar(?:y|i[sz]e)", text):
            count = len(self._request.messages) - sum(
                isinstance(m, SystemMessage | DeveloperMessage) for m in self._request.messages
            )
            began = f' It began with: "{self._said[0]}"' if self._said else ""
            return f"I have seen {count} messages in this thread, {len(self._said)} of them yours.{began}"
        if re.search(r"\b(?:who|what) are you\b|\bare you (?:an? )?(?:real|ai|language model|llm)", text):
            return WHAT_IT_IS
        if told := _TOLD.search(self._text):
            return f"I will remember that your {told[1].strip()} is {told[2].strip()}."
        return None

    def _default(self) -> str:
        if not self._said:
            return WHAT_IT_IS
        images = sum(
            isinstance(part, ImagePart)
            for m in self._request.messages[-1:]
            if isinstance(m, UserMessage) and not isinstance(m.content, str)
            for part in m.content
        )
        seen = f" and showed me {images} image{'' if images == 1 else 's'}, which I cannot see" if images else ""
        return f'{WHAT_IT_IS} You said: "{self._text}"{seen}.'


def _words(text: str) -> list[str]:
    """The text in words, each with the white space before it; what comes after the last one belongs to it."""
    words: list[str] = re.findall(r"\s*\S+", text)
    if words:
        words[-1] += text[sum(map(len, words)) :]
    return words


def _text(message: UserMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _pause_s(model: str) -> float:
    if model == "offline-slow":
        return _SLOW_S
    found = re.fullmatch(r"offline-(\d{1,4})ms", model)
    return int(found[1]) / 1000 if found else 0.0


def _words_of(request: ChatRequest) -> int:
    words = 0
    for message in request.messages:
        content = _text(message) if isinstance(message, UserMessage) else message.content
        words += len((content or "").split())
    return words


def _minimal_arguments(tool: ChatTool) -> str:
    made = smallest(tool.function.parameters or {"type": "object"})
    return _json(cast("object", made) if isinstance(made, dict) else {})


def _json(value: object) -> str:
    # With spaces, so that it streams in more than one word.
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def smallest(schema: dict[str, Any]) -> object:
    """A small value that fits the schema: required properties only, the first of any alternatives."""
    return _Smallest(schema).of(schema, 0)


class _Smallest:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def of(self, schema: object, depth: int) -> object:
        if not isinstance(schema, dict) or depth > 32:
            return None
        rule = cast("dict[str, Any]", schema)
        if isinstance(reference := rule.get("$ref"), str):
            return self.of(self._follow(reference), depth + 1)
        for key in ("const", "default"):
            if key in rule:
                return cast("object", rule[key])
        if options := rule.get("enum"):
            return options[0]
        for key in ("anyOf", "oneOf"):
            if alternatives := rule.get(key):
                return self.of(alternatives[0], depth + 1)
        if parts := rule.get("allOf"):
            made = [self.of({**rule, "allOf": None, **part}, depth + 1) for part in cast("list[dict[str, Any]]", parts)]
            if all(isinstance(m, dict) for m in made):
                return {k: v for m in cast("list[dict[str, Any]]", made) for k, v in m.items()}
            return made[0]
        kind = rule.get("type")
        if isinstance(kind, list):
            kind = next((k for k in cast("list[str]", kind) if k != "null"), "null")
        if kind is None:
            kind = "array" if "items" in rule else "object" if "properties" in rule or "required" in rule else "string"
        return self._of_type(cast("str", kind), rule, depth)

    def _of_type(self, kind: str, rule: dict[str, Any], depth: int) -> object:
        match kind:
            case "object":
                properties = cast("dict[str, Any]", rule.get("properties") or {})
                return {name: self.of(properties.get(name, {}), depth + 1) for name in rule.get("required") or ()}
            case "array":
                return [self.of(rule.get("items") or {}, depth + 1) for _ in range(min(rule.get("minItems") or 0, 100))]
            case "integer" | "number":
                low, above = rule.get("minimum"), rule.get("exclusiveMinimum")
                if isinstance(above, (int, float)) and not isinstance(above, bool):
                    return int(above) + 1
                if isinstance(low, (int, float)):
                    return low if kind == "number" or low == int(low) else int(low) + 1
                high = rule.get("maximum")
                return high if isinstance(high, (int, float)) and high < 0 else 0
            case "boolean":
                return False
            case "null":
                return None
            case _:
                shown = _FORMATS.get(cast("str", rule.get("format") or ""), "text")
                longest = rule.get("maxLength")
                shown = shown[:longest] if isinstance(longest, int) else shown
                return shown.ljust(min(rule.get("minLength") or 0, 10_000), "x")

    def _follow(self, reference: str) -> object:
        found: object = self._root
        for key in reference.removeprefix("#").strip("/").split("/"):
            if key:
                found = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
        return found


_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
