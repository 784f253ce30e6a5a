"""`keys`, `migrate`, `doctor` and the rest: what they print, what they change, how they end."""

import json
import socket
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.support.process import run, serving
from tests.support.s3 import S3
from threadkeep import __version__


def status_of(url: str, key: str) -> int:
    try:
        with urlopen(Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}), timeout=60) as answer:
            return answer.status
    except HTTPError as refusal:
        with refusal:
            return refusal.code


def test_version_is_printed(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).output == f"threadkeep {__version__}\n"


def test_help_tells_every_flag_of_serve_with_its_default(tmp_path: Path) -> None:
    told = " ".join(run("serve", "--help", folder=tmp_path).output.split())

    assert "--port PORT The port to listen on; 0 takes a free one. Default: 8400" in told


def test_a_key_counts_at_once_and_is_worthless_within_a_second_of_its_end(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    with serving(folder=tmp_path) as server:
        open_mode = status_of(server.url, "whatever")
        made = run("keys", "create", "--project", "red", *data, folder=tmp_path)
        key = made.output.strip()
        with_key = status_of(server.url, key)
        key_id = next(word for word in made.errors.replace(",", " ").split() if word.startswith("key_"))
        revoked = run("keys", "revoke", key_id, *data, folder=tmp_path)
        since = time.monotonic()
        while status_of(server.url, key) == 200:
            assert time.monotonic() - since < 30
        within_s = time.monotonic() - since
        without_any_good_key = status_of(server.url, "whatever")

    assert (open_mode, with_key, without_any_good_key) == (200, 200, 401)
    assert revoked.output == f"{key_id} is revoked; within a second no server accepts it.\n"
    assert within_s < 3


def test_the_key_alone_stands_on_the_output_and_is_stored_nowhere(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = run("keys", "create", "--project", "red", "--data-dir", str(data), folder=tmp_path)

    key = made.output.strip()
    assert made.status == 0
    assert key.startswith("sk-")
    assert " " not in key
    assert key not in made.errors
    assert all(key.encode() not in file.read_bytes() for file in data.iterdir())


def test_the_list_tells_keys_apart_without_telling_them(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    empty = run("keys", "list", *data, folder=tmp_path)
    key = run("keys", "create", "--project", "team red", *data, folder=tmp_path).output.strip()

    listed = run("keys", "list", *data, folder=tmp_path).output

    assert (empty.status, empty.output) == (0, "")
    assert "No keys were made yet" in empty.errors
    title, row = listed.splitlines()
    assert title.split() == ["ID", "PROJECT", "KEY", "MADE", "STATE"]
    assert "team red" in row
    assert f"…{key[-4:]}" in row
    assert row.endswith("good")
    assert key not in listed


def test_revoking_a_key_that_is_not_there_fails(tmp_path: Path) -> None:
    refused = run("keys", "revoke", "key_none", "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert refused.status == 1
    assert refused.errors == "threadkeep: there is no good key with the id 'key_none'. See: threadkeep keys list\n"


def test_a_project_needs_a_name(tmp_path: Path) -> None:
    refused = run("keys", "create", "--project", " ", "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert refused.status == 1
    assert "Example: --project team-red" in refused.errors


def test_migrate_says_from_where_to_where_and_does_it_once(tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))

    first, second = (run("migrate", *data, folder=tmp_path) for _ in range(2))

    assert (first.status, second.status) == (0, 0)
    assert "it was empty" in first.output
    assert second.output.endswith(" already.\n")


def test_the_doctor_finds_nothing_wrong_with_a_fresh_installation(tmp_path: Path) -> None:
    well = run("doctor", "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert well.status == 0
    assert well.output.endswith("Everything is well.\n")
    assert "it will be made at the first start" in well.output
    assert not (tmp_path / "data").exists()


def test_the_doctor_looks_while_the_server_runs(tmp_path: Path) -> None:
    with serving(folder=tmp_path):
        well = run("doctor", "--data-dir", str(tmp_path / "data"), folder=tmp_path)

    assert well.status == 0
    assert "as this version wants it" in well.output


def test_the_doctor_names_each_problem_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    ill = run(
        *("doctor", "--data-dir", str(tmp_path / "file" / "data"), "--upstream-url", f"http://127.0.0.1:{port}/v1"),
        *("--database-url", f"postgresql://me:hunter22@127.0.0.1:{port}/x", "--code-interpreter", "on"),
        folder=tmp_path,
        environment={"THREADKEEP_UPSTREAM_API_KEY": "sk-upstream-123456"},
    )

    lines = [line.removeprefix("problem").strip() for line in ill.output.splitlines() if line.startswith("problem")]
    problems = [line.split("  ")[0] for line in lines]
    assert ill.status == 1
    # The code interpreter lacks its environment here, and on some machines bubblewrap as well.
    assert list(dict.fromkeys(problems)) == ["data folder", "database", "upstream default", "code interpreter"]
    assert ill.output.endswith(f"{len(problems)} to fix.\n")
    assert "hunter22" not in ill.output
    assert "sk-upstream-123456" not in ill.output


def test_the_doctor_looks_at_the_place_for_files(s3: S3, tmp_path: Path) -> None:
    def files_of(url: str) -> str:
        said = run("doctor", "--data-dir", "data", "--blobs-url", url, folder=tmp_path, environment=s3.environment)
        [line] = [line for line in said.output.splitlines() if line.split()[1:2] == ["files"]]
        return " ".join(line.split())

    (tmp_path / "file").touch()

    assert files_of(s3.blobs_url) == f"ok files {s3.blobs_url}: it can be written"
    assert files_of((tmp_path / "new").as_uri()).startswith(f"ok files {tmp_path / 'new'}: it will be made")
    assert files_of("s3://no-such-bucket").startswith("problem files s3://no-such-bucket cannot be written: ")
    assert files_of((tmp_path / "file" / "x").as_uri()).startswith("problem files ")
    assert not (tmp_path / "new").exists()


def test_the_doctor_tells_a_database_of_a_newer_version(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    run("migrate", "--data-dir", str(tmp_path), folder=tmp_path)
    with closing(sqlite3.connect(tmp_path / "threadkeep.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")

    ill = run("doctor", "--data-dir", str(tmp_path), folder=tmp_path)
    refused = run("serve", "--port", "0", "--data-dir", str(tmp_path), folder=tmp_path)

    assert ill.status == 1
    assert "made by a newer version" in ill.output
    assert refused.status == 1
    assert refused.errors.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("keys",), ("sandbox",)])
def test_a_command_that_is_not_whole_says_what_there_is(tmp_path: Path, words: tuple[str, ...]) -> None:
    told = run(*words, folder=tmp_path)

    assert told.status == 2
    assert "COMMAND" in told.output + told.errors


def test_log_lines_are_json_when_nobody_watches_and_no_key_is_in_them(tmp_path: Path) -> None:
    with serving("--log-level", "debug", folder=tmp_path) as server:
        assert status_of(server.url, "sk-a-clients-own-key") == 200
        assert server.stop() == 0

    events = [json.loads(line) for line in server.errors.splitlines()]
    assert any(event["action"] == "request" and event["request_id"].startswith("req_") for event in events)
    assert "sk-a-clients-own-key" not in server.errors
