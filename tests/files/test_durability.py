"""What was answered with 200 is there after kill -9."""

import signal
from pathlib import Path

import httpx2
import pytest

from tests.support.process import Program, serving
from tests.support.s3 import S3

KEY = {"authorization": "Bearer any"}
CONTENT = bytes(range(256)) * 8192


def client_of(program: Program) -> httpx2.Client:
    return httpx2.Client(base_url=f"{program.url}/v1", headers=KEY, timeout=120, trust_env=False)


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_files_and_parts_survive_kill_9_right_after_they_were_acknowledged(place: str, s3: S3, tmp_path: Path) -> None:
    flags = ["--blobs-url", s3.blobs_url] if place == "s3" else []
    acknowledged: list[str] = []
    with serving(*flags, folder=tmp_path, environment=s3.environment) as program, client_of(program) as client:
        for _ in range(5):
            answer = client.post("/files", data={"purpose": "assistants"}, files={"file": ("a.bin", CONTENT)})
            acknowledged.append(answer.raise_for_status().json()["id"])
        request = {"filename": "b", "bytes": 5, "mime_type": "text/plain", "purpose": "assistants"}
        upload = client.post("/uploads", json=request).json()["id"]
        part = client.post(f"/uploads/{upload}/parts", files={"data": ("x", b"12345")}).raise_for_status().json()
        program.process.send_signal(signal.SIGKILL)
        program.wait()

    with serving(*flags, folder=tmp_path, environment=s3.environment) as program, client_of(program) as client:
        for file_id in acknowledged:
            assert client.get(f"/files/{file_id}/content").content == CONTENT
        completed = client.post(f"/uploads/{upload}/complete", json={"part_ids": [part["id"]]}).json()
        assert client.get(f"/files/{completed['file']['id']}/content").content == b"12345"
        assert program.stop() == 0


def test_a_server_says_when_its_blobs_are_away(s3: S3, tmp_path: Path) -> None:
    with serving("--blobs-url", "s3://no-such-bucket", folder=tmp_path, environment=s3.environment) as program:
        ready = httpx2.get(f"{program.url}/health/ready", timeout=120, trust_env=False)
        upload = httpx2.post(
            f"{program.url}/v1/files",
            data={"purpose": "assistants"},
            files={"file": ("a", b"x")},
            headers=KEY,
            timeout=120,
            trust_env=False,
        )

    assert ready.status_code == 503
    assert ready.json()["parts"]["blobs"]["status"] == "failed"
    assert ready.json()["parts"]["database"]["status"] == "ok"
    assert (upload.status_code, "retry-after" in upload.headers) == (503, True)
