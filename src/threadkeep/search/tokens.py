"""The tokenizer that passages are measured with: cl100k_base, as the contract's own embedding models count.

Its vocabulary is in this package, so nothing is ever fetched. Special tokens do not exist here: what looks like one in
a file is text.
"""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Final

import numpy
import tiktoken
from numpy.typing import NDArray

from threadkeep.contract.errors import ThreadkeepError

# As tiktoken publishes them (MIT licence): `tiktoken_ext.openai_public.cl100k_base`.
_VOCABULARY: Final = "cl100k_base.tiktoken"
_SHA256: Final = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_PATTERN: Final = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)


class Tokenizer:
    """Text to tokens. May be used by several threads; the interpreter is free while it works."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._encoding = tiktoken.Encoding(
            "cl100k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}, explicit_n_vocab=len(ranks)
        )
        # By token: how many bytes of UTF-8 it stands for.
        self.widths: NDArray[numpy.int64] = numpy.zeros(len(ranks), dtype=numpy.int64)
        for word, rank in ranks.items():
            self.widths[rank] = len(word)

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def count(self, text: str) -> int:
        return len(self._encoding.encode_ordinary(text))

    def beginning(self, text: str, tokens: int) -> str:
        """So many tokens of the text; a character that is cut in two is left out."""
        return self._encoding.decode_bytes(self._encoding.encode_ordinary(text)[:tokens]).decode(errors="ignore")


@cache
def tokenizer() -> Tokenizer:
    """The one of this process. The first call takes a tenth of a second: not for an event loop."""
    file = resources.files("threadkeep.search") / _VOCABULARY
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ThreadkeepError(f"{_VOCABULARY} is damaged. Please install threadkeep again.")
    lines = (line.split() for line in content.splitlines())
    return Tokenizer({base64.b64decode(word): int(rank) for word, rank in lines})
