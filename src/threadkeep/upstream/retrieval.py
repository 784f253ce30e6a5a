"""What search asks of model servers: vectors of texts (``/embeddings``), and how well texts answer (``/rerank``).

Servers bound how much they take at once, each in its own way, and few say how much. What is refused for its size is
asked in halves, a text that is too long by itself as well: its vector is then the mean of those of its parts. What was
learnt so is kept, so that a server is hardly ever asked twice for the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import msgspec

from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream import failures
from threadkeep.upstream.client import ChatCompletionsUpstream

# What the strictest servers take unless they are told otherwise (Text Embeddings Inference).
MOST_TEXTS = 32
# Shorter texts are not cut any more: their length is not what is wrong.
_SHORTEST_CUT = 200

Vector = list[float]


class _Embedding(msgspec.Struct):
    embedding: Vector
    index: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]


class _Relevance(msgspec.Struct):
    index: int
    # Cohere, Jina, vLLM, llama.cpp, LiteLLM.
    relevance_score: float | None = None
    # Text Embeddings Inference.
    score: float | None = None


class _Ranking(msgspec.Struct):
    results: list[_Relevance]


_embeddings = msgspec.json.Decoder(_Embeddings)
_ranking = msgspec.json.Decoder(_Ranking)
_bare_ranking = msgspec.json.Decoder(list[_Relevance])


class EmbeddingServer:
    """The ``/embeddings`` of a server."""

    def __init__(self, server: ChatCompletionsUpstream) -> None:
        self._server = server
        self._most_texts = MOST_TEXTS
        # In characters. None: nothing was too long so far.
        self._longest: int | None = None

    async def vectors(
        self, model: str, texts: Sequence[str], *, deadline: float, dimensions: int | None = None
    ) -> list[Vector]:
        """A vector for each text, all equally long. ``deadline``, of ``time.monotonic()``, bounds each request and all
        its repetitions. Raises ``UpstreamFailed``."""
        asked = _Asked(self._server.config.name_there(model), deadline, dimensions)
        # Cut ahead where a text of this length was too long before.
        parts = [self._parts(text) for text in texts]
        flat = list(chain.from_iterable(parts))
        found: list[Vector] = []
        while len(found) < len(flat):
            found += await self._batch(flat[len(found) : len(found) + self._most_texts], asked)
        rest = iter(found)
        return [_mean([next(rest) for _ in some]) for some in parts]

    def _parts(self, text: str) -> list[str]:
        if self._longest is None or len(text) <= self._longest:
            return [text]
        count = math.ceil(len(text) / self._longest)
        size = math.ceil(len(text) / count)
        return [text[start : start + size] for start in range(0, len(text), size)]

    async def _batch(self, texts: Sequence[str], asked: _Asked) -> list[Vector]:
        try:
            return await self._ask(texts, asked)
        except UpstreamFailed as failure:
            if failure.code != "invalid_prompt":
                raise
            if len(texts) > 1:
                longest, half = self._longest, len(texts) // 2
                found = [*await self._batch(texts[:half], asked), *await self._batch(texts[half:], asked)]
                if longest == self._longest:
                    # None of them was too long: they were too many.
                    self._most_texts = max(min(self._most_texts, len(texts) - half), 1)
                return found
            (text,) = texts
            if len(text) < _SHORTEST_CUT:
                raise
            half = len(text) // 2
            found = [*await self._batch([text[:half]], asked), *await self._batch([text[half:]], asked)]
            self._longest = min(self._longest or half, half)
            return [_mean(found)]

    async def _ask(self, texts: Sequence[str], asked: _Asked) -> list[Vector]:
        # Servers refuse an empty text, or answer nonsense.
        request: dict[str, object] = {
            "model": asked.model,
            "input": [text if text.strip() else "." for text in texts],
            "encoding_format": "float",
        }
        if asked.dimensions is not None:
            request["dimensions"] = asked.dimensions
        answer = await self._server.ask("embeddings", asked.model, request, deadline=asked.deadline)
        try:
            data = _embeddings.decode(answer).data
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._broken(asked, "answered /embeddings with something else") from None
        if all(one.index is not None for one in data):
            data.sort(key=lambda one: one.index or 0)
        vectors = [one.embedding for one in data]
        if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
            raise self._broken(asked, "answered /embeddings with vectors that do not fit the request")
        if not all(math.isfinite(sum(vector)) for vector in vectors):
            raise self._broken(asked, "answered /embeddings with vectors that are no numbers")
        return vectors

    def _broken(self, asked: _Asked, why: str) -> UpstreamFailed:
        return failures.broken(self._server.place(asked.model), why)


class RerankServer:
    """The ``/rerank`` of a server, in Cohere's form (Jina, vLLM, llama.cpp, LiteLLM, …) or in that of Text Embeddings
    Inference; which one, its first answer tells."""

    def __init__(self, server: ChatCompletionsUpstream, model: str | None) -> None:
        self._server = server
        self._model = model
        self._says_texts = False

    async def relevance(self, query: str, texts: Sequence[str], *, deadline: float) -> list[float]:
        """How well each text answers, from 0 to 1. Raises ``UpstreamFailed``."""
        try:
            answer = await self._ask(query, texts, deadline)
        except UpstreamFailed as failure:
            if self._says_texts or failure.code != "invalid_prompt" or "texts" not in failure.message:
                raise
            self._says_texts = True
            answer = await self._ask(query, texts, deadline)
        found = _read(answer)
        if found is None or sorted(index for index, _ in found) != list(range(len(texts))):
            raise failures.broken(self._server.place(self._model or ""), "answered /rerank with something else")
        scores = [score for _, score in sorted(found)]
        if all(0 <= score <= 1 for score in scores):
            return scores
        # What the model said before it was made a probability.
        return [1 / (1 + math.exp(-max(min(score, 700.0), -700.0))) for score in scores]

    async def _ask(self, query: str, texts: Sequence[str], deadline: float) -> bytes:
        request: dict[str, object] = {"query": query}
        if self._says_texts:
            request |= {"texts": texts, "truncate": True}
        else:
            request |= {"documents": texts, "top_n": len(texts)}
        if self._model is not None:
            request["model"] = self._model
        return await self._server.ask("rerank", self._model or "", request, deadline=deadline)


class _Asked(msgspec.Struct, frozen=True):
    # By the server's name.
    model: str
    deadline: float
    dimensions: int | None


def _read(answer: bytes) -> list[tuple[int, float]] | None:
    """Index and score of each; None: that is no ranking."""
    try:
        found = _bare_ranking.decode(answer) if answer.lstrip()[:1] == b"[" else _ranking.decode(answer).results
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    scores = [(one.index, one.score if one.relevance_score is None else one.relevance_score) for one in found]
    read = [(index, score) for index, score in scores if score is not None and math.isfinite(score)]
    return read if len(read) == len(found) else None


def _mean(vectors: Sequence[Vector]) -> Vector:
    """At length 1 each: a long part says no more than a short one."""
    if len(vectors) == 1:
        return vectors[0]
    lengths = [math.hypot(*vector) or 1.0 for vector in vectors]
    return [
        sum(value / length for value, length in zip(column, lengths, strict=True))
        for column in zip(*vectors, strict=True)
    ]
