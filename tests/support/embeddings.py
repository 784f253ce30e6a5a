"""A server of embeddings and rankings over real HTTP, whose model knows what a word means as far as it is told.

    with EmbeddingServer({"car": "automobile"}) as server: …     a text's vector counts its words, synonyms as one

What is asked is kept in `asked`; what it refuses, and how much it takes, is set while it runs.
"""

import json
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

DIMENSIONS = 64
_WORD = re.compile(r"\w+")


class EmbeddingServer:
    def __init__(self, synonyms: Mapping[str, str] | None = None) -> None:
        self._synonyms = synonyms or {}
        self.asked: list[dict[str, Any]] = []
        # Looked at before anything is answered: a status, with or without a header of seconds to wait.
        self.refuses: Callable[[dict[str, Any]], int | None] = lambda _: None
        self.most_texts = 32
        self.longest_text: int | None = None
        # Text Embeddings Inference's form of a ranking, instead of Cohere's.
        self.ranks_texts = False
        handler = type("Handler", (_Handler,), {"server_of_test": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def texts(self, model: str | None = None) -> list[str]:
        """All that were to be embedded, by the model."""
        asked = [each for each in self.asked if "input" in each and model in (None, each["model"])]
        return [text for each in asked for text in each["input"]]

    def vector(self, text: str, model: str, dimensions: int = DIMENSIONS) -> list[float]:
        vector = [0.0] * dimensions
        for word, count in Counter(_WORD.findall(text.lower())).items():
            chance = random.Random(f"{model} {self._synonyms.get(word, word)}")
            # Short words say little.
            weight = math.sqrt(count) * (1 if len(word) > 2 and word != "the" else 0.1)
            for place in range(dimensions):
                vector[place] += weight * chance.gauss(0, 1)
        return vector

    def relevance(self, query: str, text: str) -> float:
        asked, held = (
            {self._synonyms.get(word, word) for word in _WORD.findall(each.lower())} for each in (query, text)
        )
        return len(asked & held) / max(len(asked), 1)

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(asked)
        if (status := self.refuses(asked)) is not None:
            return status, {"error": {"message": "Not now."}}
        if path == "/v1/rerank":
            return self._ranking(asked)
        if len(asked["input"]) > self.most_texts:
            message = f"batch size {len(asked['input'])} > maximum allowed batch size {self.most_texts}"
            return 422, {"error": message, "error_type": "Validation"}
        if self.longest_text is not None and any(len(text) > self.longest_text for text in asked["input"]):
            return 413, {"error": "Input validation error: `inputs` must have less tokens", "error_type": "Validation"}
        dimensions = asked.get("dimensions", DIMENSIONS)
        data = [
            {"object": "embedding", "index": index, "embedding": self.vector(text, asked["model"], dimensions)}
            for index, text in enumerate(asked["input"])
        ]
        # In any order: the index says which is which.
        return 200, {"object": "list", "model": asked["model"], "data": data[::-1]}

    def _ranking(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if self.ranks_texts:
            if "texts" not in asked:
                return 422, "Failed to deserialize the JSON body into the target type: missing field `texts`"
            scores = [self.relevance(asked["query"], text) for text in asked["texts"]]
            return 200, [{"index": index, "score": score} for index, score in enumerate(scores)]
        scores = [self.relevance(asked["query"], text) for text in asked["documents"]]
        return 200, {
            "results": [{"index": index, "relevance_score": score} for index, score in enumerate(scores)][::-1]
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test: EmbeddingServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, said = self.server_of_test.answer(self.path, asked)
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status in (429, 503):
            self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nobody reads it."""
