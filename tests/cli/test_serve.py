"""`threadkeep serve` as a process: what it says, what it refuses, how it stops."""

# pyright: reportDeprecated=false

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from openai import APIError, OpenAI

from tests.support.databases import Database
from tests.support.process import LISTENING, run, serving, started
from threadkeep import __version__

# The SDK says of every operation here that OpenAI no longer offers it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:openai", "ignore:.*deprecated:DeprecationWarning")

SECRET = "sk-upstream-1234567890"


class Answer(NamedTuple):
    status: int
    body: bytes


def get(url: str, key: str | None = "any") -> Answer:
    request = Request(url, headers={} if key is None else {"Authorization": f"Bearer {key}"})
    try:
        with urlopen(request, timeout=60) as answer:
            return Answer(answer.status, answer.read())
    except HTTPError as refusal:
        with refusal:
            return Answer(refusal.code, refusal.read())


def test_the_start_says_at_a_glance_what_runs_where(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server:
        url = server.url
        screen = server.output

    assert f"Threadkeep {__version__}" in screen
    assert f"{url}/v1" in screen
    assert f"{tmp_path}/data/threadkeep.db (SQLite)" in screen
    assert "offline, which answers by rule and is not a language model" in screen
    assert "any key will do, from this machine only" in screen
    assert "\n  code     " in screen
    assert "search   vector stores and file search, by words alone" in screen
    assert [line for line in server.lines if LISTENING in line] == [f"{LISTENING}{url}"]


def test_once_it_says_that_it_listens_it_answers(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server:
        live, ready = get(f"{server.url}/health/live", None), get(f"{server.url}/health/ready", None)

    assert (live.status, ready.status) == (200, 200)
    assert json.loads(ready.body)["parts"]["database"]["status"] == "ok"


def test_the_four_lines_on_the_screen_work_when_pasted(tmp_path: Path) -> None:
    import subprocess

    with serving(folder=tmp_path) as server:
        assert server.url
        begin = server.lines.index("from openai import OpenAI")
        snippet = "\n".join(server.lines[begin : begin + 4])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", snippet], capture_output=True, text=True, timeout=120, check=False
        )

    assert done.stderr == ""
    assert "offline model" in done.stdout


def test_the_screen_names_the_upstream_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    upstream = f"http://127.0.0.1:{port}/v1"
    with serving("--upstream-url", upstream, "--upstream-api-key", SECRET, folder=tmp_path) as server:
        assert server.url
        row = next(number for number, line in enumerate(server.lines) if upstream in line)

    assert server.lines[row] == f"  model    every model at {upstream}"
    assert f"127.0.0.1:{port} could not be reached" in server.lines[row + 1]
    assert SECRET not in server.output + server.errors


def test_sigterm_ends_it_with_success(tmp_path: Path) -> None:
    with serving("--code-interpreter", "off", folder=tmp_path) as server:
        assert server.stop() == 0

    assert [json.loads(line)["action"] for line in server.errors.splitlines()] == ["draining"]


def test_a_stream_that_runs_at_sigterm_is_finished_first(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server:
        beta = OpenAI(base_url=f"{server.url}/v1", api_key="any").beta
        assistant = beta.assistants.create(model="offline-20ms")
        thread = beta.threads.create(messages=[{"role": "user", "content": "count to 50"}])
        with beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
            words: list[str] = []
            for word in stream.text_deltas:
                if not words:
                    server.terminate()
                words.append(word)
            final = stream.get_final_run()
        status = server.wait()

    assert "".join(words).split() == [str(number) for number in range(1, 51)]
    assert final.status == "completed"
    assert status == 0


def test_what_does_not_end_within_the_grace_period_is_taken_up_by_the_next_start(tmp_path: Path) -> None:
    with serving("--grace-seconds", "0", folder=tmp_path) as server:
        beta = OpenAI(base_url=f"{server.url}/v1", api_key="any").beta
        assistant = beta.assistants.create(model="offline-5ms")
        thread = beta.threads.create(messages=[{"role": "user", "content": "count to 300"}])
        run_id = beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id).id
        assert server.stop() == 0

    with serving(folder=tmp_path) as server:
        beta = OpenAI(base_url=f"{server.url}/v1", api_key="any").beta
        finished = beta.threads.runs.poll(run_id, thread_id=thread.id, poll_interval_ms=50)

    assert finished.status == "completed"


def test_readers_are_told_where_the_answer_will_be_when_the_grace_period_is_over(tmp_path: Path) -> None:
    with serving("--grace-seconds", "0", folder=tmp_path) as server:
        beta = OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0).beta
        assistant = beta.assistants.create(model="offline-slow")
        hello: Any = {"messages": [{"role": "user", "content": "count to 1000"}]}
        stream = beta.threads.create_and_run(assistant_id=assistant.id, thread=hello, stream=True)
        while next(stream).event != "thread.message.delta":
            pass
        server.terminate()
        with pytest.raises(APIError, match="The run goes on"):
            list(stream)
        assert server.wait() == 0


def test_a_stream_begun_while_the_only_node_drains_ends_without_waiting_for_the_grace_period(tmp_path: Path) -> None:
    with serving("--grace-seconds", "600", "--code-interpreter", "off", folder=tmp_path) as server:
        beta = OpenAI(base_url=f"{server.url}/v1", api_key="any").beta
        assistant = beta.assistants.create(model="offline")
        body = json.dumps({"assistant_id": assistant.id, "stream": True}).encode()
        head = f"POST /v1/threads/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n".encode()
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            # A request that has begun keeps its connection.
            connection.sendall(head)
            assert get(f"{server.url}/health/live").status == 200
            server.terminate()
            until_refused(port)
            connection.sendall(b"Authorization: Bearer any\r\nContent-Type: application/json\r\n\r\n" + body)
            heard = b"".join(iter(lambda: connection.recv(65536), b""))
        assert server.wait() == 0

    assert b"event: thread.run.queued" in heard
    assert b"The server is shutting down." in heard


def until_refused(port: int) -> None:
    """Until nobody listens there any more."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
        except ConnectionError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_on_postgresql_the_screen_names_the_database_and_commands_work_beside_the_server(
    tmp_path: Path, postgres_database: Database
) -> None:
    assert postgres_database.url is not None
    environment = {"THREADKEEP_DATABASE_URL": postgres_database.url}
    with serving(folder=tmp_path, environment=environment) as server:
        made = run("keys", "create", "--project", "red", folder=tmp_path, environment=environment)
        answer = get(f"{server.url}/v1/models", made.output.strip())
        doctor = run("doctor", folder=tmp_path, environment=environment)
        status = server.stop()

    assert "data     postgresql://" in server.output
    assert answer.status == 200
    assert "PostgreSQL" in doctor.output
    assert (doctor.status, status) == (0, 0)


def test_a_second_server_on_the_same_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with serving(folder=tmp_path) as first:
        second = run("serve", "--port", "0", "--data-dir", data, folder=tmp_path)

    assert second.status == 1
    assert second.errors.count("\n") == 1
    assert data in second.errors
    assert f"process {first.pid} " in second.errors


def test_a_port_in_use_is_told_in_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run("serve", "--port", port, "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert refused.status == 1
    assert refused.errors.startswith(f"threadkeep: 127.0.0.1:{port} is in use by another program. ")
    assert refused.errors.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_data_folder_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    refused = run("serve", "--port", "0", "--data-dir", str(tmp_path / "file" / "data"), folder=tmp_path)

    assert refused.status == 1
    assert refused.errors.endswith("cannot be used: Not a directory.\n")
    assert refused.errors.count("\n") == 1


def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "threadkeep.db").write_text("something else\n" * 1000, encoding="utf-8")

    refused = run("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert refused.status == 1
    assert "file is not a database" in refused.errors
    assert refused.errors.count("\n") == 1


def test_a_database_that_is_away_is_told_in_one_line_without_its_password(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()

    refused = run(
        "serve", "--port", "0", "--database-url", f"postgresql://me:hunter22@127.0.0.1:{port}/x", folder=tmp_path
    )

    assert refused.status == 1
    assert refused.errors.startswith("threadkeep: The database cannot be reached")
    assert refused.errors.count("\n") == 1
    assert "hunter22" not in refused.errors
    assert time.monotonic() - began < 60


def test_wrong_settings_are_all_told_and_end_with_status_2(tmp_path: Path) -> None:
    refused = run(
        "serve", "--port", "x", "--host", "", folder=tmp_path, environment={"THREADKEEP_GRACE_SECONDS": "soon"}
    )

    assert refused.status == 2
    assert [line.split(":")[1] for line in refused.errors.splitlines()] == [
        " --host",
        " --port",
        " THREADKEEP_GRACE_SECONDS",
    ]


def test_an_unknown_flag_is_named(tmp_path: Path) -> None:
    refused = run("serve", "--prot", "1", folder=tmp_path)

    assert refused.status == 2
    assert "--prot" in refused.errors


def test_a_host_that_is_no_address_is_told_in_one_line(tmp_path: Path) -> None:
    refused = run("serve", "--host", "no.such.host.invalid", "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert refused.status == 1
    assert refused.errors.startswith("threadkeep: --host: 'no.such.host.invalid' is no address of this machine")


def test_other_machines_are_let_in_only_when_there_is_a_key(tmp_path: Path) -> None:
    data = str(tmp_path / "data")

    refused = run("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", data, folder=tmp_path)
    made = run("keys", "create", "--project", "x", "--data-dir", data, folder=tmp_path)
    with serving("--host", "0.0.0.0", folder=tmp_path) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        without, with_key = get(f"{url}/v1/models"), get(f"{url}/v1/models", made.output.strip())

    assert refused.status == 1
    assert f"'threadkeep keys create --project NAME --data-dir {data}'" in refused.errors
    assert (without.status, with_key.status) == (401, 200)


def test_a_variable_that_is_no_setting_is_logged_and_does_not_stop_the_start(tmp_path: Path) -> None:
    with serving(folder=tmp_path, environment={"THREADKEEP_NO_SUCH_THING": "x"}) as server:
        assert server.stop() == 0

    assert "THREADKEEP_NO_SUCH_THING is not a setting of this version" in server.errors


def test_a_killed_server_leaves_nothing_locked(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with started("serve", "--port", "0", "--data-dir", data, folder=tmp_path) as killed:
        assert killed.url
        killed.process.kill()
        killed.wait()
    with serving(folder=tmp_path) as server:
        assert get(f"{server.url}/health/live").status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_server_takes_no_more_than_90_mb(tmp_path: Path) -> None:
    run("migrate", "--data-dir", str(tmp_path / "data"), folder=tmp_path)
    with serving(folder=tmp_path) as server:
        assert get(f"{server.url}/v1/models").status == 200
        status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")

    resident_kb = int(status.split("VmRSS:")[1].split()[0])
    assert resident_kb <= 90_000


def raw(url: str, *pieces: bytes) -> bytes:
    """What comes back when ``pieces`` are sent one after the other, until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            while more := connection.recv(65536):
                received += more
        except ConnectionError:
            # It closed while we were still sending.
            pass
    return received


def test_what_is_no_http_is_refused_in_the_envelope(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server:
        answer = raw(server.url, b"BREW /coffee\r\n\r\n")

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_headers_without_end_are_refused_and_not_kept(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server:
        answer = raw(server.url, b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: ", *[b"y" * 16_384] * 5)
        after = get(f"{server.url}/health/live")

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert after.status == 200


def test_a_connection_serves_many_requests_and_large_bodies_are_no_headers(tmp_path: Path) -> None:
    body = json.dumps({"model": "offline", "instructions": "x" * 200_000}).encode()
    request = (
        b"POST /v1/assistants HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\ncontent-length: %d\r\n"
        % len(body)
    )
    pieces = [body[start : start + 30_000] for start in range(0, len(body), 30_000)]
    with serving(folder=tmp_path) as server:
        answer = raw(
            server.url,
            *(request, b"\r\n", *pieces),
            *(request, b"connection: close\r\n\r\n", *pieces),
        )

    assert answer.count(b"HTTP/1.1 200 OK") == 2
