"""A server that speaks S3, for tests: moto's, on a free port of this machine, with a bucket in it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest


@dataclass(frozen=True)
class S3:
    """What a process needs to know to keep its blobs there."""

    endpoint: str
    bucket: str

    @property
    def blobs_url(self) -> str:
        return f"s3://{self.bucket}/blobs"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def objects(self) -> list[str]:
        """The names of all objects."""
        listed = httpx2.get(f"{self.endpoint}/{self.bucket}?list-type=2", trust_env=False).text
        return [piece.partition("</Key>")[0] for piece in listed.split("<Key>")[1:]]

    def count_unfinished(self) -> int:
        """How many multipart uploads were begun and neither completed nor ended."""
        return httpx2.get(f"{self.endpoint}/{self.bucket}?uploads", trust_env=False).text.count("<UploadId>")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = S3(f"http://{host}:{port}", "threadkeep-test")
    httpx2.put(f"{place.endpoint}/{place.bucket}", trust_env=False).raise_for_status()
    before = {name: os.environ.get(name) for name in place.environment}
    # This is how anybody tells the program; servers in this process are told the same way.
    os.environ.update(place.environment)
    yield place
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()
