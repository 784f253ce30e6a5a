"""How good the search is: nDCG@10 and recall through HTTP on a set with relevance judgements, one document a file.

    .venv/bin/python benchmarks/search_quality.py FOLDER                       by words only, SQLite
    .venv/bin/python benchmarks/search_quality.py FOLDER --postgres            the same on a PostgreSQL started for it
    .venv/bin/python benchmarks/search_quality.py FOLDER --embedding-url URL --embedding-model MODEL

FOLDER is a set in the form of BEIR: `corpus.jsonl` (_id, title, text), `queries.jsonl` (_id, text) and
`qrels/test.tsv` (query-id, corpus-id, score). With an embedding model the hybrid is measured; `--halves` measures the
model alone as well, by asking it here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from tests.support.postgres import PostgresServer  # noqa: E402 - found by the line above

TOP = 10
Judgements = dict[str, dict[str, int]]


def read_set(folder: Path) -> tuple[dict[str, str], dict[str, str], Judgements]:
    """Documents and queries by their ids, and what was judged relevant."""
    documents = {
        each["_id"]: f"{each.get('title') or ''}\n\n{each['text']}".strip() for each in _lines(folder / "corpus.jsonl")
    }
    judged: Judgements = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines():
        query, document, score = line.split("\t")
        if score.strip().lstrip("-").isdigit() and document in documents:
            judged.setdefault(query, {})[document] = int(score)
    judged = {query: some for query, some in judged.items() if any(score > 0 for score in some.values())}
    queries = {each["_id"]: each["text"] for each in _lines(folder / "queries.jsonl") if each["_id"] in judged}
    return documents, queries, {query: judged[query] for query in queries}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def ndcg(found: Sequence[str], judged: Mapping[str, int]) -> float:
    gained = sum(max(judged.get(each, 0), 0) / math.log2(rank + 1) for rank, each in enumerate(found[:TOP], 1))
    best = sorted((score for score in judged.values() if score > 0), reverse=True)[:TOP]
    return gained / sum(score / math.log2(rank + 1) for rank, score in enumerate(best, 1))


def recall(found: Sequence[str], judged: Mapping[str, int]) -> float:
    relevant = {each for each, score in judged.items() if score > 0}
    return len(relevant & set(found)) / len(relevant)


class Client:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, method: str, path: str, **fields: Any) -> Any:
        async with self._session.request(method, f"{self._url}/v1{path}", **fields) as answer:
            body = await answer.json()
            if answer.status != 200:
                raise SystemExit(f"{method} {path}: {answer.status} {body}")
            return body

    async def fill(self, documents: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """A store with a file for each document, all searchable; and which file is which document."""
        at_once = asyncio.Semaphore(8)

        async def upload(number: int, text: str) -> str:
            form = aiohttp.FormData({"purpose": "assistants"})
            form.add_field("file", text.encode(), filename=f"{number}.txt")
            async with at_once:
                return (await self.ask("POST", "/files", data=form))["id"]

        ids = await asyncio.gather(*(upload(number, text) for number, text in enumerate(documents.values())))
        store = (await self.ask("POST", "/vector_stores", json={}))["id"]
        for start in range(0, len(ids), 500):
            await self.ask("POST", f"/vector_stores/{store}/file_batches", json={"file_ids": ids[start : start + 500]})
        while True:
            counts = (await self.ask("GET", f"/vector_stores/{store}"))["file_counts"]
            if not counts["in_progress"]:
                break
            await asyncio.sleep(0.5)
        if counts["completed"] != len(ids):
            raise SystemExit(f"not all files were ingested: {counts}")
        return store, dict(zip(ids, documents, strict=True))

    async def found(self, store: str, query: str, names: Mapping[str, str]) -> list[str]:
        """Documents, best first, each once."""
        asked = {"query": query, "max_num_results": 50}
        hits = (await self.ask("POST", f"/vector_stores/{store}/search", json=asked))["data"]
        return list(dict.fromkeys(names[hit["file_id"]] for hit in hits))


async def measure(url: str, folder: Path) -> None:
    documents, queries, judged = read_set(folder)
    async with aiohttp.ClientSession(headers={"authorization": "Bearer any"}) as session:
        client = Client(url, session)
        began = time.monotonic()
        store, names = await client.fill(documents)
        print(
            f"{folder.name}: {len(documents):,} documents in {time.monotonic() - began:.0f} s, {len(queries)} queries"
        )
        found = {each: await client.found(store, text, names) for each, text in queries.items()}
    report("search", found, judged)


def report(name: str, found: Mapping[str, Sequence[str]], judged: Judgements) -> None:
    gains = statistics.mean(ndcg(found[query], judged[query]) for query in judged)
    recalls = statistics.mean(recall(found[query], judged[query]) for query in judged)
    print(f"  {name:10} nDCG@{TOP} {gains:.4f}   recall@50 {recalls:.4f}", flush=True)


async def measure_alone(url: str, model: str, folder: Path) -> None:
    """By the vectors of whole documents, without any server of ours."""
    import numpy as np  # noqa: PLC0415 - only here

    documents, queries, judged = read_set(folder)
    async with aiohttp.ClientSession() as session:

        async def vectors(texts: Sequence[str]) -> Any:
            parts: list[list[float]] = []
            for start in range(0, len(texts), 32):
                asked = {"model": model, "input": texts[start : start + 32], "encoding_format": "float"}
                async with session.post(f"{url}/embeddings", json=asked) as answer:
                    data = (await answer.json())["data"]
                parts += [each["embedding"] for each in sorted(data, key=lambda each: each["index"])]
            floats = np.array(parts, np.float32)
            return floats / np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-9)

        held, asked = await vectors(list(documents.values())), await vectors(list(queries.values()))
    names = list(documents)
    found = {
        query: [names[place] for place in np.argsort(-(held @ vector), kind="stable")[:50]]
        for query, vector in zip(queries, asked, strict=True)
    }
    report("model", found, judged)


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "threadkeep", "serve", "--port", "0", "--data-dir", str(folder), *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THREADKEEP_")}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, stderr=log, env=environ)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.startswith(b"listening on "):
                    break
            else:
                raise SystemExit((folder / "log").read_text())
            yield line.decode().split()[-1]
        finally:
            server.terminate()
            server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--embedding-url")
    parser.add_argument("--embedding-model")
    parser.add_argument("--halves", action="store_true")
    given = parser.parse_args()
    arguments: list[str] = []
    if given.embedding_model:
        arguments = ["--embedding-url", given.embedding_url, "--embedding-model", given.embedding_model]
    with contextlib.ExitStack() as parts:
        if given.postgres:
            postgres = PostgresServer()
            parts.callback(postgres.remove)
            postgres.start()
            arguments += ["--database-url", postgres.create_database()]
        data = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        url = parts.enter_context(serving(data, *arguments))
        for folder in given.folder:
            asyncio.run(measure(url, folder))
            if given.halves and given.embedding_model:
                asyncio.run(measure_alone(given.embedding_url, given.embedding_model, folder))


if __name__ == "__main__":
    main()
