"""Annotations in a message while it is written: the deltas, and what they add up to."""

from typing import cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from openai.lib.streaming._assistants import accumulate_event
from openai.types.beta.assistant_stream_event import ThreadMessageDelta
from openai.types.beta.threads import Message as SdkMessage
from openai.types.beta.threads import MessageDeltaEvent, TextContentBlock

from tests.runs.test_annotations import CITATIONS, LINKS, cut_up, texts
from threadkeep.api.assistants_v1 import shown
from threadkeep.contract.messages import (
    Annotation,
    Content,
    ContentDelta,
    FileCitation,
    FileCitationAnnotation,
    FileCitationAnnotationDelta,
    FilePath,
    FilePathAnnotation,
    FilePathAnnotationDelta,
    ImageFile,
    ImageFileContent,
    ImageFileContentDelta,
    MessageDelta,
    MessageDeltaContent,
    RefusalContent,
    RefusalContentDelta,
    Text,
    TextContent,
    TextContentDelta,
    TextDelta,
)
from threadkeep.runs.annotations import Annotator, told
from threadkeep.runs.reply import Draft, RefusalAdded, TextAdded


def a_draft() -> Draft:
    return Draft(Annotator(LINKS, CITATIONS))


def said(index: int, text: str) -> TextContentDelta:
    return TextContentDelta(index=index, text=TextDelta(value=text))


def opened(index: int, text: str) -> TextContentDelta:
    return TextContentDelta(index=index, text=TextDelta(value=text, annotations=[]))


def test_a_mark_is_a_delta_of_its_own_with_its_annotation() -> None:
    draft = a_draft()

    assert draft.add(TextAdded("👩‍💻 See [it](sandbox:/mnt/data/report.csv)【4:0†source】.")) == [
        opened(0, "👩‍💻 See [it]("),
        TextContentDelta(
            index=0,
            text=TextDelta(
                value="sandbox:/mnt/data/report.csv",
                annotations=[
                    FilePathAnnotationDelta(
                        index=0,
                        text="sandbox:/mnt/data/report.csv",
                        start_index=13,
                        end_index=41,
                        file_path=FilePath(file_id="file-report"),
                    )
                ],
            ),
        ),
        said(0, ")"),
        TextContentDelta(
            index=0,
            text=TextDelta(
                value="【4:0†source】",
                annotations=[
                    FileCitationAnnotationDelta(
                        index=1,
                        text="【4:0†source】",
                        start_index=42,
                        end_index=54,
                        file_citation=FileCitation(file_id="file-sky", quote=""),
                    )
                ],
            ),
        ),
        said(0, "."),
    ]
    assert draft.content() == [
        TextContent(
            text=Text(
                value="👩‍💻 See [it](sandbox:/mnt/data/report.csv)【4:0†source】.",
                annotations=[
                    FilePathAnnotation(
                        text="sandbox:/mnt/data/report.csv",
                        start_index=13,
                        end_index=41,
                        file_path=FilePath(file_id="file-report"),
                    ),
                    FileCitationAnnotation(
                        text="【4:0†source】",
                        start_index=42,
                        end_index=54,
                        file_citation=FileCitation(file_id="file-sky", quote=""),
                    ),
                ],
            )
        )
    ]


def test_what_is_held_back_is_in_the_content_and_told_at_the_end() -> None:
    draft = a_draft()
    draft.add(TextAdded("Blue"))

    assert draft.add(TextAdded("【4:0")) == []
    assert draft.content() == [TextContent(text=Text(value="Blue【4:0"))]
    assert draft.end() == [said(0, "【4:0")]
    assert draft.end() == []
    assert draft.content() == [TextContent(text=Text(value="Blue【4:0"))]


def test_a_link_at_the_end_is_annotated_at_the_end() -> None:
    draft = a_draft()
    draft.add(TextAdded("sandbox:/mnt/data/report.csv"))
    [content] = draft.content()
    assert isinstance(content, TextContent)
    assert content.text.annotations == []

    [delta] = draft.end()

    assert isinstance(delta, TextContentDelta)
    assert delta.text.value == "sandbox:/mnt/data/report.csv"
    [content] = draft.content()
    assert isinstance(content, TextContent)
    assert [told(0, annotation) for annotation in content.text.annotations] == delta.text.annotations


def test_a_refusal_ends_what_is_held_back() -> None:
    draft = a_draft()
    draft.add(TextAdded("【4:0"))

    assert draft.add(RefusalAdded("†source】")) == [
        opened(0, "【4:0"),
        RefusalContentDelta(index=1, refusal="†source】"),
    ]
    assert draft.add(TextAdded("s")) == []
    assert draft.content() == [
        TextContent(text=Text(value="【4:0")),
        RefusalContent(refusal="†source】"),
        TextContent(text=Text(value="s")),
    ]


def test_offsets_and_annotations_are_counted_for_each_part() -> None:
    draft = a_draft()
    deltas = [
        *draft.add(TextAdded("A【4:0】")),
        *draft.add(RefusalAdded("no")),
        *draft.add(TextAdded("【4:0】")),
    ]

    last = deltas[-1]
    assert isinstance(last, TextContentDelta)
    assert last.text.annotations
    assert (last.index, last.text.annotations[0].index, last.text.annotations[0].start_index) == (2, 0, 0)


def test_a_picture_is_a_part_of_its_own() -> None:
    draft = a_draft()
    draft.add(TextAdded("a s"))
    picture = ImageFile(file_id="file-picture")

    assert draft.show("file-picture") == [said(0, "s"), ImageFileContentDelta(index=1, image_file=picture)]
    assert draft.show("file-picture") == [ImageFileContentDelta(index=2, image_file=picture)]
    assert draft.end() == []
    assert draft.add(TextAdded("b")) == [opened(3, "b")]
    assert draft.content() == [
        TextContent(text=Text(value="a s")),
        ImageFileContent(image_file=picture),
        ImageFileContent(image_file=picture),
        TextContent(text=Text(value="b")),
    ]


def test_a_message_may_begin_with_a_picture() -> None:
    draft = Draft()

    assert [delta.index for delta in draft.show("file-picture")] == [0]
    assert draft.add(TextAdded("b")) == [opened(1, "b")]


def test_nothing_said_is_said_at_once() -> None:
    draft = a_draft()

    assert draft.add(TextAdded("")) == [opened(0, "")]
    assert draft.content() == [TextContent(text=Text(value=""))]


def added_up(deltas: list[ContentDelta]) -> list[Content]:
    parts: list[Content] = []
    for delta in deltas:
        assert delta.index <= len(parts)
        before = parts[delta.index] if delta.index < len(parts) else None
        if isinstance(delta, ImageFileContentDelta):
            assert before is None
            part = ImageFileContent(image_file=delta.image_file)
        elif isinstance(delta, RefusalContentDelta):
            assert before is None or isinstance(before, RefusalContent)
            part = RefusalContent(refusal=(before.refusal if before else "") + delta.refusal)
        else:
            assert isinstance(delta, TextContentDelta)
            assert before is None or isinstance(before, TextContent)
            # Only the first delta of a part always has annotations.
            new = delta.text.annotations
            assert new is not UNSET if before is None else new != []
            value, annotations = (before.text.value, [*before.text.annotations]) if before else ("", list[Annotation]())
            for annotation in new or ():
                assert annotation.index == len(annotations)
                # The mark is the delta's value, whole.
                assert (annotation.text, annotation.start_index) == (delta.text.value, len(value))
                annotations.append(
                    FilePathAnnotation(
                        text=annotation.text,
                        start_index=annotation.start_index,
                        end_index=annotation.end_index,
                        file_path=annotation.file_path,
                    )
                    if isinstance(annotation, FilePathAnnotationDelta)
                    else FileCitationAnnotation(
                        text=annotation.text,
                        start_index=annotation.start_index,
                        end_index=annotation.end_index,
                        file_citation=annotation.file_citation,
                    )
                )
            part = TextContent(text=Text(value=value + (delta.text.value or ""), annotations=annotations))
        parts[delta.index :] = [part]
    return parts


# Text, a refusal, or a picture.
SAID = st.lists(st.tuples(st.sampled_from("tttri"), texts(), st.integers()), max_size=5)


@given(SAID, st.booleans())
def test_deltas_add_up_to_the_content(fragments: list[tuple[str, str, int]], is_annotated: bool) -> None:
    draft = a_draft() if is_annotated else Draft()
    deltas: list[ContentDelta] = []
    whole: list[tuple[str, str]] = []
    for kind, text, seed in fragments:
        if kind == "i":
            deltas += draft.show("file-picture")
            whole.append(("i", ""))
            continue
        for fragment in cut_up(text, seed):
            if not whole or whole[-1][0] != kind:
                whole.append((kind, ""))
            whole[-1] = (kind, whole[-1][1] + fragment)
            deltas += draft.add(TextAdded(fragment) if kind == "t" else RefusalAdded(fragment))
            assert [text_of(part) for part in draft.content()] == [text for _, text in whole]
    deltas += draft.end()

    assert added_up(deltas) == draft.content()
    for part in draft.content():
        if isinstance(part, TextContent):
            for annotation in part.text.annotations:
                assert part.text.value[annotation.start_index : annotation.end_index] == annotation.text


def text_of(part: Content) -> str:
    match part:
        case TextContent(text=text):
            return text.value
        case RefusalContent(refusal=refusal):
            return refusal
        case _:
            return ""


def test_the_sdk_adds_the_deltas_up_to_the_content() -> None:
    draft = a_draft()
    text = "See [it](sandbox:/mnt/data/report.csv) and ![that](sandbox:/mnt/data/📊.png): blue【4:0†a】【4:15†b】, s"
    deltas = [
        *(delta for character in text for delta in draft.add(TextAdded(character))),
        *draft.show("file-picture"),
        *draft.add(TextAdded("【4:0】")),
        *draft.end(),
    ]
    message = SdkMessage.construct(content=[])
    for delta in deltas:
        data = MessageDeltaEvent.model_validate_json(
            msgspec.json.encode(MessageDelta(id="msg_1", delta=MessageDeltaContent(content=[delta])))
        )
        message, _ = accumulate_event(
            event=ThreadMessageDelta(event="thread.message.delta", data=data), current_message_snapshot=message
        )

    assert message is not None
    accumulated = message.to_dict(mode="json")["content"]
    for part in cast("list[dict[str, dict[str, list[dict[str, int]]]]]", accumulated):
        cast("dict[str, object]", part).pop("index")
        for annotation in part.get("text", {}).get("annotations", []):
            annotation.pop("index")
    assert accumulated == msgspec.to_builtins(draft.content())
    first = message.content[0]
    assert isinstance(first, TextContentBlock)
    assert first.text.annotations is not None
    assert len(first.text.annotations) == 4


def test_the_first_beta_is_told_annotations_as_they_are() -> None:
    draft = a_draft()
    content = draft.add(TextAdded("Blue【4:0†source】, [it](sandbox:/mnt/data/report.csv)."))
    delta = MessageDelta(id="msg_1", delta=MessageDeltaContent(content=content))

    assert msgspec.to_builtins(shown(delta)) == msgspec.to_builtins(delta)
