import socket
from typing import NoReturn

import pytest

from threadkeep.search.tokens import tokenizer


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("hello world", [15339, 1917]),
        ("tiktoken is great!", [83, 1609, 5963, 374, 2294, 0]),
        ("お誕生日おめでとう", [33334, 45918, 243, 21990, 9080, 33334, 62004, 16556, 78699]),
    ],
)
def test_text_becomes_the_tokens_of_cl100k_base(text: str, tokens: list[int]) -> None:
    assert tokenizer().encode(text) == tokens
    assert tokenizer().count(text) == len(tokens)


def test_what_looks_like_a_special_token_is_text() -> None:
    assert tokenizer().count("<|endoftext|>") > 1


def test_the_widths_of_tokens_add_up_to_the_text() -> None:
    text = "Größere Bäume 检索 😀 <|endoftext|>\n"
    assert tokenizer().widths[tokenizer().encode(text)].sum() == len(text.encode())


def test_the_vocabulary_is_there_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tokenizer.cache_clear()
    assert tokenizer().count("hello world") == 2


def test_the_beginning_of_a_text_ends_with_a_whole_character() -> None:
    text = "𒀀𒀁𒀂"

    beginnings = {tokenizer().beginning(text, tokens) for tokens in range(tokenizer().count(text) + 2)}

    assert beginnings == {"", "𒀀", "𒀀𒀁", text}
