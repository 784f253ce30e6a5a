"""Uploads a large file and downloads it again, and says how fast it went and how much memory the server needed.

    .venv/bin/python benchmarks/uploads.py                         one file of 512 MB, in a folder
    .venv/bin/python benchmarks/uploads.py --at-once 4             four of them at the same time
    .venv/bin/python benchmarks/uploads.py --blobs-url s3://…      with the AWS_… variables, in S3

The server is a process of its own. Its memory is what Linux counts as resident and belonging to it alone; pages of the
disk's cache are not in it. The client is a bare socket, so that the figures are the server's.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

MIB = 1024**2
BOUNDARY = "threadkeep"


class Memory(threading.Thread):
    """Looks at a process until it is stopped; ``peak`` in bytes."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self._ended = threading.Event()

    def now(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return sum(int(found) * 1024 for found in re.findall(r"^(?:RssAnon|RssShmem):\s+(\d+)", status, re.MULTILINE))

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, self.now())

    def stop(self) -> None:
        self._ended.set()
        self.join()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def form(size: int) -> Iterator[bytes]:
    yield (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
    ).encode()
    # Random, so that nothing on the way makes it small, and with line breaks, where a boundary might begin.
    piece = os.urandom(MIB)
    for _ in range(size // MIB):
        yield piece
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def upload(place: str, size: int) -> str:
    connection = http.client.HTTPConnection(place, timeout=600)
    head, tail = (len(piece) for piece in (next(form(size)), f"\r\n--{BOUNDARY}--\r\n"))
    connection.request(
        "POST",
        "/v1/files",
        body=form(size),
        headers={
            "authorization": "Bearer any",
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "content-length": str(head + size + tail),
        },
    )
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert answer.status == 200, body
    return body["id"]


def download(place: str, file_id: str, size: int) -> None:
    connection = http.client.HTTPConnection(place, timeout=600)
    connection.request("GET", f"/v1/files/{file_id}/content", headers={"authorization": "Bearer any"})
    answer = connection.getresponse()
    got = 0
    while piece := answer.read(MIB):
        got += len(piece)
    assert got == size, got


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--blobs-url")
    options = parser.parse_args()
    size, at_once = options.megabytes * MIB, options.at_once
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "threadkeep", "serve", "--port", "0", "--data-dir", f"{folder}/data"]
        if options.blobs_url:
            command += ["--blobs-url", options.blobs_url]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if line.startswith("listening on ")).split()[-1]
            place = urlsplit(url).netloc
            # What is loaded at the first use belongs to idle.
            download(place, upload(place, MIB), MIB)
            time.sleep(0.5)
            memory = Memory(server.pid)
            idle = memory.now()
            memory.start()
            with ThreadPoolExecutor(at_once) as threads:
                began, cpu = time.perf_counter(), cpu_s(server.pid)
                ids = list(threads.map(upload, [place] * at_once, [size] * at_once))
                took_s = time.perf_counter() - began
                report("upload", at_once * size, took_s, cpu_s(server.pid) - cpu, memory.peak - idle)
                memory.peak = 0
                began, cpu = time.perf_counter(), cpu_s(server.pid)
                list(threads.map(download, [place] * at_once, ids, [size] * at_once))
                took_s = time.perf_counter() - began
                report("download", at_once * size, took_s, cpu_s(server.pid) - cpu, memory.peak - idle)
            memory.stop()
            print(f"idle: {idle / MIB:.0f} MB of its own")
        finally:
            server.terminate()
            server.wait()


def report(what: str, size: int, took_s: float, used_s: float, above_idle: int) -> None:
    print(
        f"{what}: {size / MIB:.0f} MB in {took_s:.2f} s ({size / MIB / took_s:.0f} MB/s), "
        f"{used_s:.2f} s of the server's CPU, at most {above_idle / MIB:.1f} MB above idle"
    )


if __name__ == "__main__":
    main()
