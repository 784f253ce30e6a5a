"""Makes every upstream's stream look the same: one answer, numbered tool calls with ids, thoughts apart from text."""

from __future__ import annotations

import secrets
from collections.abc import Collection

import msgspec

from threadkeep.upstream.chat import ChatChunk, Choice, ChoiceDelta, FinishReason, FunctionDelta, ToolCallDelta

_OPEN, _CLOSE = "<think>", "</think>"


class Tidier:
    """Tidies one answer: ``tidy`` every chunk in order, then ``end``.

    Afterwards a consumer may rely on: only choice 0; what ``ToolCallDelta`` promises; ``finish_reason`` is
    ``tool_calls`` exactly when there are some and the answer was not cut; an answer that opens with ``<think>`` has
    those thoughts in ``reasoning_content``.
    """

    def __init__(self, *, thinks_aloud: bool = True, taken_ids: Collection[str] = ()) -> None:
        self._calls: list[_Call] = []
        # How many of them have a name by now: those before are nobody's business yet.
        self._told = 0
        self._by_index: dict[int, _Call] = {}
        # Ids that this conversation has used already: servers that count calls from 0 in every answer repeat them.
        self._taken = set(taken_ids)
        self._thoughts = _Thoughts() if thinks_aloud else None
        # A choice has been seen; its finish reason has.
        self.has_begun = False
        self.is_finished = False

    def tidy(self, chunk: ChatChunk) -> ChatChunk:
        """The chunk as the consumer should see it; most are returned as they are."""
        choices = chunk.choices
        if len(choices) == 1:
            choice = choices[0]
        elif not choices:
            return chunk
        else:
            choice = next((c for c in choices if c.index == 0), choices[0])
        self.has_begun = True
        delta = choice.delta
        if (
            self._thoughts is None
            and delta.tool_calls is None
            and choice.finish_reason is None
            and len(choices) == 1
            and choice.index == 0
        ):
            return chunk
        if choice.index != 0:
            return ChatChunk(usage=chunk.usage)
        content, reasoning = delta.content, delta.reasoning_content
        if self._thoughts is not None and content:
            content, thought = self._thoughts.sort(content)
            reasoning = (reasoning or "") + thought if thought else reasoning
            if self._thoughts.are_over:
                self._thoughts = None
        calls = [c for call in delta.tool_calls or () if (c := self._call(call)) is not None]
        reason = choice.finish_reason
        usage = chunk.usage or (chunk.x_groq and chunk.x_groq.usage)
        if reason is not None and self.is_finished:
            reason = None  # some servers repeat it beside the usage
        if reason is not None:
            self.is_finished = True
            if self._thoughts is not None:
                content = (content or "") + self._thoughts.rest() or None
                self._thoughts = None
            calls += self._empty_arguments()
            reason = self._finish(reason)
        return ChatChunk(
            choices=[
                Choice(
                    delta=ChoiceDelta(
                        content=content,
                        refusal=delta.refusal,
                        tool_calls=calls or None,
                        reasoning_content=reasoning,
                        reasoning=delta.reasoning,
                    ),
                    finish_reason=reason,
                )
            ],
            usage=usage,
        )

    def end(self) -> list[ChatChunk]:
        """What is still owed when the stream has ended properly but without a finish reason."""
        if self.is_finished:
            return []
        return [self.tidy(ChatChunk(choices=[Choice(ChoiceDelta(), finish_reason="stop")]))]

    def _finish(self, reason: FinishReason) -> FinishReason:
        if self._told and reason == "stop":
            return "tool_calls"  # Ollama and older llama.cpp say "stop" after tool calls
        if not self._told and reason == "tool_calls":
            return "stop"
        return reason

    def _call(self, delta: ToolCallDelta) -> ToolCallDelta | None:
        call = self._known(delta)
        name, arguments = delta.function.name, delta.function.arguments
        if call is None:
            if not name and not delta.id and not arguments:
                return None
            call = _Call(delta.id)
            self._calls.append(call)
            if delta.index is not None:
                self._by_index[delta.index] = call
        call.id = call.id or delta.id
        call.add(arguments)
        if call.index is not None:
            return ToolCallDelta(call.index, None, FunctionDelta(None, arguments)) if arguments else None
        if not name:
            return None
        call.name, call.index = name, self._told
        self._told += 1
        identifier = call.id
        if not identifier or identifier in self._taken:
            identifier = f"call_{secrets.token_hex(12)}"
        self._taken.add(identifier)
        return ToolCallDelta(call.index, identifier, FunctionDelta(name, call.arguments))

    def _known(self, delta: ToolCallDelta) -> _Call | None:
        """The call that this delta goes on with; None when it begins a new one.

        Met in the wild: no index at all; index 0 for every call (Ollama, Gemini); the id and the name repeated on
        every delta; a fresh id on every delta; no ids.
        """
        name = delta.function.name
        if delta.index is not None:
            call = self._by_index.get(delta.index)
            if call is None:
                return None
        else:
            if delta.id:
                known = next((c for c in self._calls if c.id == delta.id), None)
                if known is not None:
                    return known
            if not self._calls or (name and self._calls[-1].name):
                return None
            call = self._calls[-1]
        if delta.id and call.id and delta.id != call.id and name:
            return None
        if name and call.name and not (delta.id and delta.id == call.id) and call.is_whole:
            return None
        return call

    def _empty_arguments(self) -> list[ToolCallDelta]:
        """A call without arguments has ``{}``, so that nobody has to parse an empty text."""
        empty = [call for call in self._calls if call.index is not None and not call.arguments]
        for call in empty:
            call.add("{}")
        return [ToolCallDelta(call.index, None, FunctionDelta(None, "{}")) for call in empty]


class _Call:
    """One tool call while it is being assembled."""

    __slots__ = ("_arguments", "id", "index", "name")

    def __init__(self, identifier: str | None) -> None:
        # Its number among those told of; None until its name is known.
        self.index: int | None = None
        # As the upstream calls it, for recognising later deltas.
        self.id = identifier
        self.name: str | None = None
        self._arguments: list[str] = []

    def add(self, arguments: str | None) -> None:
        if arguments:
            self._arguments.append(arguments)

    @property
    def arguments(self) -> str:
        """All so far."""
        return "".join(self._arguments)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a whole JSON text: asked only when a name comes a second time."""
        try:
            msgspec.json.decode(self.arguments)
        except msgspec.DecodeError:
            return False
        return True


class _Thoughts:
    """Sorts an answer that opens with ``<think>`` into thoughts and text, wherever the deltas are cut."""

    def __init__(self) -> None:
        self._held: str = ""
        self._inside = False
        self._after = False
        # The answer's text has begun, or the thoughts have ended: nothing is left to sort.
        self.are_over = False

    def sort(self, piece: str) -> tuple[str | None, str]:
        """Text to show (None: none), and thoughts."""
        held = self._held + piece
        if self._after:
            self.are_over = bool(text := held.lstrip())
            return text or None, ""
        if not self._inside:
            start = held.lstrip()
            if not start or (len(start) < len(_OPEN) and _OPEN.startswith(start)):
                self._held = held
                return None, ""
            if not start.startswith(_OPEN):
                self.are_over = True
                return held, ""
            self._inside = True
            held = start[len(_OPEN) :]
        thought, mark, text = held.partition(_CLOSE)
        if mark:
            self._after, self._held = True, ""
            return self.sort(text)[0], thought
        # The last characters may be the beginning of the closing mark.
        keep = next((n for n in range(len(_CLOSE) - 1, 0, -1) if held.endswith(_CLOSE[:n])), 0)
        self._held = held[len(held) - keep :]
        return None, held[: len(held) - keep]

    def rest(self) -> str:
        """What was held back and turned out to be text."""
        return "" if self._inside or self._after else self._held
