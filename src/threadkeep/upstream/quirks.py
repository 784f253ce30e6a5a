"""Where upstreams differ from OpenAI's Chat Completions, as one table, and what a refusal teaches us.

``QUIRKS`` is the table. An entry holds for an upstream whose configuration names it (``quirks = "ollama"``), or, when
none is named, whose URL matches; within the upstream it holds for the models that match. Several entries may hold:
they are merged in the table's order. ``learn`` reads an upstream's refusal and says what to leave out or to change;
the client remembers that for this upstream and model.

To add a quirk: one entry here. To recognise one more refusal: one phrase here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from threadkeep.upstream.chat import (
    AssistantMessage,
    ChatMessage,
    ChatRequest,
    ChatTool,
    ContentPart,
    DeveloperMessage,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    StreamOptions,
    SystemMessage,
    TextPart,
    UserMessage,
)

Feature = Literal[
    "stream_options",  # usage at the end of a stream; without it runs estimate
    "parallel_tool_calls",
    "tool_choice",
    "strict",  # of a function, and of a JSON schema
    "reasoning_effort",
    "temperature",
    "top_p",
    "json_schema",  # becomes json_object and a sentence with the schema in the instructions
    "json_object",  # becomes a JSON schema that admits any object, or the sentence alone
    "same_role_twice",  # several user messages in a row: become one
    "model_list",  # GET /models says nothing of use
]


class Quirk(Struct, frozen=True, kw_only=True):
    """One difference, or several that come together. ``None`` and empty mean: nothing different here."""

    name: str
    # Matched against "host:port/path" of the upstream's URL.
    urls: tuple[str, ...] = ()
    # Matched against the model's name at the upstream, in lower case.
    models: tuple[str, ...] = ("*",)
    lacks: frozenset[Feature] = frozenset()
    # What the system message is called; "none" folds it into the first user message.
    system_role: Literal["system", "developer", "none"] | None = None
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    # Some servers leave a thinking model's `<think>…</think>` in the text; False shows it as it is.
    thinks_aloud: bool | None = None
    key_header: Literal["bearer", "api-key"] | None = None
    # "deployments": Azure's classic form, where the path names the model and the query an API version.
    path: Literal["plain", "deployments"] | None = None


_OPENAI_REASONING = ("o1*", "o3*", "o4*")

QUIRKS: tuple[Quirk, ...] = (
    Quirk(name="openai", urls=("api.openai.com/*", "*.api.openai.com/*"), max_tokens_field="max_completion_tokens"),
    Quirk(
        name="azure",
        urls=("*.openai.azure.com", "*.openai.azure.com/openai", "*.openai.azure.com/openai/deployments*"),
        max_tokens_field="max_completion_tokens",
        key_header="api-key",
        path="deployments",
        # It lists the base models, not the deployments that can be called.
        lacks=frozenset({"model_list"}),
    ),
    Quirk(
        name="azure-v1",
        urls=("*.openai.azure.com/openai/v1*", "*.services.ai.azure.com/openai/v1*"),
        max_tokens_field="max_completion_tokens",
        key_header="api-key",
        lacks=frozenset({"model_list"}),
    ),
    *(
        Quirk(name=name, models=_OPENAI_REASONING, lacks=frozenset({"parallel_tool_calls", "temperature", "top_p"}))
        for name in ("openai", "azure", "azure-v1")
    ),
    *(
        Quirk(name=name, models=("o1-mini*", "o1-preview*"), system_role="none")
        for name in ("openai", "azure", "azure-v1")
    ),
    # Ollama ignores max_completion_tokens and parallel_tool_calls without a word; tool_choice likewise.
    Quirk(name="ollama", urls=("*:11434/*",), max_tokens_field="max_tokens", lacks=frozenset({"parallel_tool_calls"})),
    Quirk(name="vllm", max_tokens_field="max_tokens"),
    Quirk(name="llama.cpp", max_tokens_field="max_tokens"),
    Quirk(name="litellm", urls=("*:4000/*",)),
    Quirk(name="lmstudio", urls=("*:1234/*",), lacks=frozenset({"json_object", "parallel_tool_calls"})),
    Quirk(
        name="mistral",
        urls=("api.mistral.ai/*",),
        max_tokens_field="max_tokens",
        lacks=frozenset({"stream_options"}),  # usage comes unasked
    ),
    Quirk(
        name="deepseek",
        urls=("api.deepseek.com*",),
        max_tokens_field="max_tokens",
        lacks=frozenset({"json_schema", "parallel_tool_calls"}),
    ),
    Quirk(name="groq", urls=("api.groq.com/*",), max_tokens_field="max_completion_tokens"),
    Quirk(
        name="gemini",
        urls=("generativelanguage.googleapis.com/*",),
        max_tokens_field="max_tokens",
        lacks=frozenset({"parallel_tool_calls", "strict"}),
    ),
    Quirk(name="openrouter", urls=("openrouter.ai/*",)),
)

NAMES: frozenset[str] = frozenset(q.name for q in QUIRKS)


def quirk_for(url: str, name: str | None, model: str) -> Quirk:
    """What is known beforehand of this model at this upstream. Raises ``ValueError`` for a name not in the table."""
    if name is not None and name not in NAMES:
        raise ValueError(f"there are no quirks called {name!r}; known: {', '.join(sorted(NAMES))}")
    if name is None:
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/").lower()
        names = {q.name for q in QUIRKS if any(fnmatchcase(place, u) or fnmatchcase(place + "/", u) for u in q.urls)}
    else:
        names = {name}
    model = model.lower()
    found = Quirk(name=name or "")
    for quirk in QUIRKS:
        if quirk.name in names and any(fnmatchcase(model, pattern) for pattern in quirk.models):
            found = merge(found, quirk)
    return found


def merge(first: Quirk, then: Quirk) -> Quirk:
    """Both; where they say different things, ``then`` is right."""
    return Quirk(
        name=then.name or first.name,
        lacks=first.lacks | then.lacks,
        system_role=then.system_role or first.system_role,
        max_tokens_field=then.max_tokens_field or first.max_tokens_field,
        thinks_aloud=first.thinks_aloud if then.thinks_aloud is None else then.thinks_aloud,
        key_header=then.key_header or first.key_header,
        path=then.path or first.path,
    )


# ---------------------------------------------------------------- writing a request as this upstream wants it


def fit(request: ChatRequest, quirk: Quirk) -> ChatRequest:
    """The request as the upstream understands it; the model's name stays as it is."""
    lacks = quirk.lacks
    messages = [_plain(m) for m in request.messages]
    response_format, sentence = _fit_format(request, lacks)
    if sentence:
        messages = _instruct(messages, sentence)
    if quirk.system_role == "developer":
        messages = [DeveloperMessage(m.content) if isinstance(m, SystemMessage) else m for m in messages]
    elif quirk.system_role == "none":
        messages = _fold_system(messages)
    if "same_role_twice" in lacks:
        messages = _join_same_role(messages)
    tools = request.tools or None
    if tools and "strict" in lacks:
        tools = [ChatTool(replace(t.function, strict=None)) for t in tools]
    limit = request.max_completion_tokens
    newer = quirk.max_tokens_field == "max_completion_tokens"
    return replace(
        request,
        messages=messages,
        tools=tools,
        # Without tools these three are refused by some servers and mean nothing to any.
        tool_choice=None if "tool_choice" in lacks or not tools else request.tool_choice,
        parallel_tool_calls=None if "parallel_tool_calls" in lacks or not tools else request.parallel_tool_calls,
        temperature=None if "temperature" in lacks else request.temperature,
        top_p=None if "top_p" in lacks else request.top_p,
        # The older name is the default: everybody but OpenAI's newest models knows it, and OpenAI says so when it
        # does not, while others ignore the newer name in silence.
        max_completion_tokens=limit if newer else None,
        max_tokens=None if newer else limit,
        response_format=response_format,
        reasoning_effort=None if "reasoning_effort" in lacks else request.reasoning_effort,
        stream=True,
        stream_options=None if "stream_options" in lacks else StreamOptions(),
    )


def _plain(message: ChatMessage) -> ChatMessage:
    """Text parts as one text, which every server reads; parts stay where there is an image."""
    if isinstance(message, UserMessage) and not isinstance(message.content, str):
        texts = [part.text for part in message.content if isinstance(part, TextPart)]
        if len(texts) == len(message.content):
            return UserMessage("\n".join(texts))
    return message


def _fit_format(
    request: ChatRequest, lacks: frozenset[Feature]
) -> tuple[JsonObjectFormat | JsonSchemaFormat | None, str | None]:
    """The format to ask for, and what has to be said in words because it can't be asked for."""
    wanted = request.response_format
    if isinstance(wanted, JsonSchemaFormat):
        if "json_schema" not in lacks:
            if "strict" in lacks and wanted.json_schema.strict is not None:
                wanted = JsonSchemaFormat(replace(wanted.json_schema, strict=None))
            return wanted, None
        schema = msgspec.json.encode(wanted.json_schema.schema or {}).decode()
        sentence = f"Answer with one JSON object, and nothing else, that is valid under this JSON Schema: {schema}"
        return None if "json_object" in lacks else JsonObjectFormat(), sentence
    if isinstance(wanted, JsonObjectFormat) and "json_object" in lacks:
        if "json_schema" not in lacks:
            return JsonSchemaFormat(JsonSchema(name="object", schema={"type": "object"})), None
        return None, "Answer with one JSON object and nothing else."
    return wanted, None


def _instruct(messages: Sequence[ChatMessage], sentence: str) -> list[ChatMessage]:
    """Adds to the instructions at the beginning, where they are looked for, and makes them if there are none."""
    if messages and isinstance(first := messages[0], SystemMessage):
        return [SystemMessage(f"{first.content}\n\n{sentence}"), *messages[1:]]
    return [SystemMessage(sentence), *messages]


def _fold_system(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    system = "\n\n".join(m.content for m in messages if isinstance(m, SystemMessage))
    rest: list[ChatMessage] = [m for m in messages if not isinstance(m, SystemMessage)]
    if not system:
        return rest
    for at, message in enumerate(rest):
        if isinstance(message, UserMessage):
            rest[at] = _joined(UserMessage(system), message)
            return rest
        if at == 0 and isinstance(message, AssistantMessage):
            break  # an answer comes first: the instructions must come before it
    return [UserMessage(system), *rest]


def _join_same_role(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    joined: list[ChatMessage] = []
    for message in messages:
        last = joined[-1] if joined else None
        if isinstance(message, UserMessage) and isinstance(last, UserMessage):
            joined[-1] = _joined(last, message)
        elif isinstance(message, SystemMessage) and isinstance(last, SystemMessage):
            joined[-1] = SystemMessage(f"{last.content}\n\n{message.content}")
        elif (
            isinstance(message, AssistantMessage)
            and isinstance(last, AssistantMessage)
            and last.tool_calls is msgspec.UNSET
        ):
            text = "\n\n".join(t for t in (last.content, message.content) if t)
            joined[-1] = replace(message, content=text or None)
        else:
            joined.append(message)
    return joined


def _joined(first: UserMessage, then: UserMessage) -> UserMessage:
    if isinstance(first.content, str) and isinstance(then.content, str):
        return UserMessage(f"{first.content}\n\n{then.content}")
    parts: list[ContentPart] = []
    for content in (first.content, then.content):
        parts += [TextPart(content)] if isinstance(content, str) else content
    return UserMessage(parts)


# ---------------------------------------------------------------- learning from a refusal

# A field is dropped only when the refusal says that the field as such is not wanted. A refusal of its value ("Input
# should be 'low', 'medium' or 'high'") is the caller's to know.
_UNWANTED = re.compile(
    r"unsupported (?:parameter|value|field|property|option)|unrecognized (?:request )?(?:argument|parameter|field|key)"
    r"|unknown (?:parameter|name|field|argument|property|key)|unexpected (?:parameter|keyword|field|property)"
    r"|extra (?:inputs?|fields?|parameters?)|extra_forbidden|additional propert|cannot find field|no such field"
    r"|(?:is|are) (?:not|currently not|un)[ -]?(?:support|permitted|allowed|recogni|available|implement)"
    r"|(?:not|n't) (?:yet )?(?:support|permit|allow|recogni|implement)|unavailable|is unsupported|unsupportedparams"
)

_FIELDS: tuple[Feature, ...] = (
    "stream_options",
    "parallel_tool_calls",
    "reasoning_effort",
    "tool_choice",
    "temperature",
    "top_p",
    "strict",
)
assert set(_FIELDS) < set(get_args(Feature))

# Refusals that don't name a field of ours. Texts of real servers; lower case, because the refusal is lowered first.
_NO_SYSTEM = re.compile(
    r"system (?:role|message)s? (?:is |are )?(?:not|un)[ -]?support|does not support 'system'"
    r"|only user and assistant roles|only user, assistant and tool roles"
    r"|invalid role:? '?system|unexpected (?:message )?role:? '?system"
)
_NO_DEVELOPER = re.compile(
    r"(?:unknown variant|invalid role|invalid value:?|unexpected role|does not support) [`'\"]?developer"
    r"|['\"]?developer['\"]?,? (?:is )?not one of|developer role|role ['\"`]?developer"
)
_ALTERNATE = re.compile(r"roles must alternate|must alternate user|consecutive (?:user|messages)")
_SCHEMA_WANTED = re.compile(r"response_format\.type'? must be '?json_schema")


def learn(status: int, refusal: str, sent: ChatRequest, known: Quirk) -> Quirk | None:
    """What to do differently after this refusal of ``sent``, merged into ``known``; None when it teaches nothing new.

    Only what was sent can be dropped, so every lesson makes the next request a different one.
    """
    if status in (401, 402, 403, 408, 413, 429):
        return None
    text = refusal.lower()
    lessons = Quirk(name="")
    unwanted = _UNWANTED.search(text) is not None
    if unwanted:
        fields = (f for f in _FIELDS if _was_sent(f, sent) and _names(text, f))
        if "supported values" in text:  # the field is known, the value is not; OpenAI words both alike
            fields = (f for f in fields if f == "temperature")
        lessons = replace(lessons, lacks=frozenset(fields))
        if sent.max_tokens is not None and _names(text, "max_tokens") and "max_completion_tokens" in text:
            lessons = replace(lessons, max_tokens_field="max_completion_tokens")
        elif sent.max_completion_tokens is not None and "max_completion_tokens" in text:
            lessons = replace(lessons, max_tokens_field="max_tokens")
    if sent.response_format is not None:
        if isinstance(sent.response_format, JsonObjectFormat):
            if _SCHEMA_WANTED.search(text) or (unwanted and ("json_object" in text or "response_format" in text)):
                lessons = replace(lessons, lacks=lessons.lacks | {"json_object"})
        elif (
            (unwanted or "must be" in text or "unknown variant" in text)
            and ("json_schema" in text or "response_format" in text)
            # A complaint about the schema itself is the caller's to hear.
            and "invalid schema" not in text
            and not lessons.lacks
        ):
            lessons = replace(lessons, lacks=lessons.lacks | {"json_schema"})
    roles = {type(m) for m in sent.messages}
    if SystemMessage in roles and _NO_SYSTEM.search(text):
        lessons = replace(lessons, system_role="none")
    elif DeveloperMessage in roles and _NO_DEVELOPER.search(text):
        lessons = replace(lessons, system_role="system")
    if _ALTERNATE.search(text):
        # Templates that count roles do so without a system message only; told twice, fold that in too.
        if "same_role_twice" in known.lacks:
            lessons = replace(lessons, system_role="none")
        else:
            lessons = replace(lessons, lacks=lessons.lacks | {"same_role_twice"})
    learned = merge(known, lessons)
    return learned if learned != known else None


def _names(text: str, field: str) -> bool:
    return re.search(rf"(?<![a-z0-9_]){field}(?![a-z0-9_])", text) is not None


def _was_sent(field: Feature, sent: ChatRequest) -> bool:
    if field == "strict":
        in_format = isinstance(sent.response_format, JsonSchemaFormat) and sent.response_format.json_schema.strict
        return in_format is True or any(t.function.strict is not None for t in sent.tools or ())
    return getattr(sent, field) is not None


__all__ = ["NAMES", "QUIRKS", "Feature", "Quirk", "fit", "learn", "merge", "quirk_for"]
