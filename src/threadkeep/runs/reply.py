"""Assembles what the model sends, fragment by fragment, into the parts of one reply.

Pure: fragments in, what is new out. It never sees the store or the stream.
"""

from typing import Final, NamedTuple

from threadkeep.contract.messages import (
    Annotation,
    Content,
    ContentDelta,
    ImageFile,
    ImageFileContent,
    ImageFileContentDelta,
    RefusalContent,
    RefusalContentDelta,
    Text,
    TextContent,
    TextContentDelta,
    TextDelta,
)
from threadkeep.contract.runs import CompletionTokensDetails, PromptTokenDetails, Usage
from threadkeep.runs.annotations import Annotator, Piece, told
from threadkeep.upstream.chat import ChatChunk, FinishReason
from threadkeep.upstream.chat import Usage as ChatUsage


class TextAdded(NamedTuple):
    """More of the answer's text."""

    text: str


class RefusalAdded(NamedTuple):
    """More of the text in which the model declines to answer."""

    refusal: str


class CallStarted(NamedTuple):
    """The model begins to call a function; ``number`` counts the calls of this reply from 0."""

    number: int
    name: str


class ArgumentsAdded(NamedTuple):
    """More of a call's JSON arguments."""

    number: int
    arguments: str


# Far more than a model writes in one answer, and little enough to hold for a run: characters, and the pieces and calls
# that they come in. Each piece is an event that readers may still want.
_MOST_CHARACTERS: Final = 16 * 1024 * 1024
_MOST_PIECES: Final = 256 * 1024
_MOST_CALLS: Final = 1024

Addition = TextAdded | RefusalAdded | CallStarted | ArgumentsAdded


class Reply:
    """One answer of the model while it arrives."""

    def __init__(self) -> None:
        # How many calls it makes.
        self.calls = 0
        self.finish_reason: FinishReason | None = None
        # What the upstream counted; None when it counts nothing.
        self.usage: Usage | None = None
        # Characters so far, to estimate usage where the upstream does not count.
        self.length = 0
        self._pieces = 0

    @property
    def is_endless(self) -> bool:
        """Whether it is longer than an answer can be: the model has lost itself, or means harm."""
        return self.length > _MOST_CHARACTERS or self._pieces > _MOST_PIECES or self.calls > _MOST_CALLS

    def feed(self, chunk: ChatChunk) -> list[Addition]:
        """What ``chunk`` adds. Only the first choice exists for a run."""
        added: list[Addition] = []
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices:
            if choice.index:
                continue
            delta = choice.delta
            if delta.content:
                self.length += len(delta.content)
                added.append(TextAdded(delta.content))
            if delta.refusal:
                self.length += len(delta.refusal)
                added.append(RefusalAdded(delta.refusal))
            if delta.tool_calls:
                for call in delta.tool_calls:
                    number = call.index or 0
                    if call.function.name is not None:
                        number = self.calls
                        self.calls += 1
                        added.append(CallStarted(number, call.function.name))
                    if call.function.arguments and number < self.calls:
                        self.length += len(call.function.arguments)
                        added.append(ArgumentsAdded(number, call.function.arguments))
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
        self._pieces += len(added)
        return added


class _TextPart(NamedTuple):
    fragments: list[str]
    annotations: list[Annotation]


class _RefusalPart(NamedTuple):
    fragments: list[str]


class Draft:
    """A message while it is written: fragments in, deltas out, the whole content whenever it is needed.

    With an annotator, what may yet become a mark is in the content at once and in the deltas once that is decided.
    """

    def __init__(self, annotator: Annotator | None = None) -> None:
        self._annotator = annotator
        self._parts: list[_TextPart | _RefusalPart | ImageFileContent] = []
        # The last part: its index, what it takes more of, and where it keeps that.
        self._index = -1
        self._takes: type[TextAdded | RefusalAdded] | None = None
        self._fragments: list[str] = []
        self._annotations: list[Annotation] = []
        # Whether deltas have opened it, and how many code points of its text the annotator has given back.
        self._is_opened = False
        self._given = 0

    def add(self, added: TextAdded | RefusalAdded) -> list[ContentDelta]:
        """Appends and says what is new. Text and refusal are parts of their own."""
        kind = type(added)
        deltas = [] if kind is self._takes else self._begin(kind)
        self._fragments.append(added[0])
        if isinstance(added, RefusalAdded):
            deltas.append(RefusalContentDelta(index=self._index, refusal=added.refusal))
        elif self._annotator is None or not added.text:
            # Nothing said is said at once: it opens the part.
            text = TextDelta(value=added.text) if self._is_opened else self._opening(added.text)
            deltas.append(TextContentDelta(index=self._index, text=text))
        else:
            deltas += map(self._tell, self._annotator.feed(added.text))
        return deltas

    def show(self, file_id: str) -> list[ContentDelta]:
        """Adds a picture, which is a part of its own, after what was held back."""
        before = self.end()
        shown = ImageFile(file_id=file_id)
        self._append(None, ImageFileContent(image_file=shown))
        return [*before, ImageFileContentDelta(index=self._index, image_file=shown)]

    def end(self) -> list[ContentDelta]:
        """What was held back, as nothing more comes of it. To be told before the message is closed."""
        if self._annotator is None or self._takes is not TextAdded:
            return []
        return [*map(self._tell, self._annotator.finish())]

    def content(self) -> list[Content]:
        """Everything so far, what is held back included: without that, what the deltas add up to.

        Another thread may ask while this one adds.
        """
        return [_content(part) for part in self._parts.copy()]

    def _begin(self, kind: type[TextAdded | RefusalAdded]) -> list[ContentDelta]:
        """Opens a part; what was held back of the one before is its end."""
        held_back = self.end()
        self._fragments, self._annotations = [], []
        is_text = kind is TextAdded
        self._append(kind, _TextPart(self._fragments, self._annotations) if is_text else _RefusalPart(self._fragments))
        self._is_opened, self._given = False, 0
        return held_back

    def _append(
        self, takes: type[TextAdded | RefusalAdded] | None, part: "_TextPart | _RefusalPart | ImageFileContent"
    ) -> None:
        self._parts.append(part)
        self._index += 1
        self._takes = takes

    def _opening(self, text: str) -> TextDelta:
        """The first of a part says that it has annotations, if none yet."""
        self._is_opened = True
        return TextDelta(value=text, annotations=[])

    def _tell(self, piece: Piece) -> TextContentDelta:
        annotation = piece.annotation(self._given)
        self._given += len(piece.text)
        if annotation is None:
            text = TextDelta(value=piece.text) if self._is_opened else self._opening(piece.text)
            return TextContentDelta(index=self._index, text=text)
        self._is_opened = True
        new = told(len(self._annotations), annotation)
        self._annotations.append(annotation)
        return TextContentDelta(index=self._index, text=TextDelta(value=piece.text, annotations=[new]))


def _content(part: _TextPart | _RefusalPart | ImageFileContent) -> Content:
    match part:
        case _TextPart(fragments, annotations):
            # In this order: text is added before what is annotated in it.
            annotated = annotations.copy()
            return TextContent(text=Text(value="".join(fragments), annotations=annotated))
        case _RefusalPart(fragments):
            return RefusalContent(refusal="".join(fragments))
        case ImageFileContent():
            return part


def _usage(counted: ChatUsage) -> Usage:
    cached = counted.prompt_tokens_details
    reasoning = counted.completion_tokens_details
    return Usage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.total_tokens,
        prompt_token_details=PromptTokenDetails(cached_tokens=(cached and cached.cached_tokens) or 0),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=(reasoning and reasoning.reasoning_tokens) or 0
        ),
    )
