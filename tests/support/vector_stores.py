"""Vector stores through plain HTTP: files in, answers out."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

_PATIENCE_S = 60


class Stores:
    def __init__(self, http: httpx2.Client) -> None:
        self.http = http

    def of(self, texts: Mapping[str, str], **fields: Any) -> str:
        """The id of a store with these files, all of them ingested."""
        file_ids = [self.upload(name, text) for name, text in texts.items()]
        store_id = self._post("/vector_stores", file_ids=file_ids, **fields)["id"]
        self.until_completed(store_id, len(texts))
        return store_id

    def upload(self, name: str, text: str) -> str:
        answer = self.http.post("/files", data={"purpose": "assistants"}, files={"file": (name, text.encode())})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def add(self, store_id: str, name: str, text: str) -> str:
        file_id = self.upload(name, text)
        self._post(f"/vector_stores/{store_id}/files", file_id=file_id)
        return file_id

    def until_completed(self, store_id: str, count: int) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while (counts := self.counts(store_id))["completed"] < count:
            assert counts["failed"] == 0
            assert time.monotonic() < deadline, counts
            time.sleep(0.02)

    def counts(self, store_id: str) -> dict[str, int]:
        answer = self.http.get(f"/vector_stores/{store_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()["file_counts"]

    def answer(self, store_id: str, query: str | Sequence[str], **fields: Any) -> dict[str, Any]:
        return self._post(f"/vector_stores/{store_id}/search", query=query, **fields)

    def search(self, store_id: str, query: str | Sequence[str], **fields: Any) -> list[dict[str, Any]]:
        return self.answer(store_id, query, **fields)["data"]

    def names(self, store_id: str, query: str | Sequence[str], **fields: Any) -> list[str]:
        """Of the files that were found, best first."""
        return [hit["filename"] for hit in self.search(store_id, query, **fields)]

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()
