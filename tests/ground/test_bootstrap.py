"""The set-up's own logic, and the whole of it in a copy of the project with a package index of one wheel."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bootstrap
import pytest

ROOT = Path(__file__).resolve().parents[2]

HTML = f"""<!DOCTYPE html><html><body>
<a href="../../files/pip-1.0.tar.gz#sha256=00">pip-1.0.tar.gz</a>
<a data-requires-python="&gt;=3.9"
   href="../../files/{bootstrap.PIP_WHEEL}?a=1&amp;b=2#sha256=11">{bootstrap.PIP_WHEEL}</a>
</body></html>""".encode()


# --- what ./run means


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ([], ["serve"]),
        (["--port", "9000"], ["serve", "--port", "9000"]),
        (["serve", "--port", "9000"], ["serve", "--port", "9000"]),
        (["keys", "list"], ["keys", "list"]),
        (["--version"], ["--version"]),
        (["--help"], ["--help"]),
    ],
)
def test_flags_alone_mean_serve_and_the_rest_is_passed_on(given: list[str], passed_on: list[str]) -> None:
    assert bootstrap.program_arguments(given) == passed_on


# --- finding pip's wheel


def test_a_link_in_an_html_page_is_found_relative_to_the_page() -> None:
    link = bootstrap.wheel_link(HTML, "text/html", "https://index.example/root/simple/pip/")

    assert link == f"https://index.example/root/files/{bootstrap.PIP_WHEEL}?a=1&b=2#sha256=11"


def test_a_link_in_a_json_page_is_found() -> None:
    page = b'{"files": [{"filename": "x", "url": "https://files.example/%s"}]}' % bootstrap.PIP_WHEEL.encode()

    link = bootstrap.wheel_link(page, "application/vnd.pypi.simple.v1+json", "https://index.example/simple/pip/")

    assert link == f"https://files.example/{bootstrap.PIP_WHEEL}"


def test_the_password_of_a_page_goes_to_files_of_the_same_host_only() -> None:
    page = "https://ann:secret@index.example/simple/pip/"
    same = f'<a href="https://index.example/f/{bootstrap.PIP_WHEEL}">'.encode()
    other = f'<a href="https://files.example/f/{bootstrap.PIP_WHEEL}">'.encode()

    assert bootstrap.wheel_link(same, "text/html", page).startswith("https://ann:secret@index.example/f/")
    assert bootstrap.wheel_link(other, "text/html", page).startswith("https://files.example/f/")


def test_a_page_without_the_wheel_is_refused() -> None:
    with pytest.raises(ValueError, match="does not list"):
        bootstrap.wheel_link(b'<a href="pip-1.0-py3-none-any.whl">', "text/html", "https://index.example/simple/pip/")


# --- pip's configuration


def test_a_command_section_wins_over_global_and_a_variable_over_both(tmp_path: Path) -> None:
    everybody, own = tmp_path / "a.conf", tmp_path / "b.conf"
    everybody.write_text("[global]\nindex_url = https://a.example\ncert = /a.pem\n[install]\nfind-links = /wheels\n")
    own.write_text("[global]\nindex-url = https://b.example\nfind-links = /other\n")

    settings = bootstrap.pip_settings({"PIP_CERT": "/env.pem", "PIP_PROXY": ""}, [everybody, own, tmp_path / "none"])

    assert settings == {"index-url": "https://b.example", "cert": "/env.pem", "find-links": "/wheels"}


def test_no_file_is_read_when_pip_is_told_to_read_none() -> None:
    assert bootstrap.pip_configuration_files({"PIP_CONFIG_FILE": os.devnull, "HOME": "/home/ann"}) == []


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({}, [f"{bootstrap.DEFAULT_INDEX}/pip/"]),
        ({"index-url": "https://b.example/simple/"}, ["https://b.example/simple/pip/"]),
        (
            {"find-links": "/wheels", "extra-index-url": "file:///x/simple"},
            ["/wheels", f"{bootstrap.DEFAULT_INDEX}/pip/", "file:///x/simple/pip/"],
        ),
        ({"find-links": "/wheels", "no-index": "true"}, ["/wheels"]),
    ],
)
def test_pip_is_looked_for_where_the_configuration_says(
    settings: dict[str, str], places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_INDEX_URL", raising=False)
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)

    assert bootstrap.places_of_pip(settings) == places


def test_no_message_shows_a_password() -> None:
    assert bootstrap.without_password("https://ann:secret@index.example/simple") == "https://index.example/simple"


@pytest.fixture
def guarded_index() -> Iterator[str]:
    """An index on this machine that wants a name and a password, and whose wheel is not pip's."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] != "Basic " + base64.b64encode(b"ann:s/cret").decode():
                self.send_error(401)
                return
            body = b"not pip" if self.path.endswith(".whl") else f'<a href="{bootstrap.PIP_WHEEL}">'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_port}/simple/pip/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_wheel_with_another_digest_is_refused_however_it_came(guarded_index: str) -> None:
    with pytest.raises(ValueError, match="not the one whose digest"):
        bootstrap.fetch_pip(f"http://ann:s%2Fcret@{guarded_index}", {})


def test_an_index_that_wants_a_password_gets_none_that_was_not_given(guarded_index: str) -> None:
    with pytest.raises(OSError, match="401"):
        bootstrap.fetch_pip(f"http://{guarded_index}", {})


# --- the whole set-up

PIP_OF_THE_COPY = """
import os, pathlib, sys, time
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
gate = pathlib.Path(os.environ["PIP_LOG"] + ".gate")
while gate.exists():
    time.sleep(0.01)
"""


class Copy:
    """The set-up's files in a folder of their own, with a pip that only writes down what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a path with spaces"
        self.log = folder / "log"
        self.gate = folder / "log.gate"
        (self.folder / "src/threadkeep").mkdir(parents=True)
        (self.folder / "src/threadkeep/__init__.py").touch()
        (self.folder / "src/threadkeep/cli.py").write_text(
            "import sys\n\n\ndef main() -> int:\n    print(*sys.argv[1:])\n    return 7\n"
        )
        (self.folder / "locks").mkdir()
        for name in ("runtime", "dev"):
            (self.folder / f"locks/{name}.txt").write_text("a==1\n")
        wheel = folder / "wheels" / bootstrap.PIP_WHEEL
        wheel.parent.mkdir()
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("pip/__main__.py", PIP_OF_THE_COPY)
        shutil.copytree(ROOT / "scripts", self.folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "run", self.folder)
        script = self.folder / "scripts/bootstrap.py"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        script.write_text(script.read_text().replace(bootstrap.PIP_SHA256, digest))
        # Only what a bare machine has: a shell's few words and a Python; no uv.
        path = folder / "bin"
        path.mkdir()
        for tool in ("sh", "dirname"):
            (path / tool).symlink_to(shutil.which(tool) or tool)
        (path / "python3").symlink_to(getattr(sys, "_base_executable", sys.executable))
        self.environment = {
            "PATH": str(path),
            "PIP_FIND_LINKS": str(wheel.parent),
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_LOG": str(self.log),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [str(self.folder / "run"), *arguments]
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def installs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def wait_until_pip_is_at_work(copy: Copy) -> None:
    deadline = time.monotonic() + 60
    while not copy.installs():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_start_installs_by_digest_and_the_second_only_runs(copy: Copy) -> None:
    first = copy.run("keys", "list", "--all projects")
    second = copy.run("keys", "list", "--all projects")

    assert (first.returncode, first.stdout) == (7, "keys list --all projects\n")
    assert "Setting up .venv" in first.stderr
    assert (second.returncode, second.stdout, second.stderr) == (7, "keys list --all projects\n", "")
    (install,) = copy.installs()
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert install.endswith("locks/runtime.txt")


def test_setup_alone_does_not_start_the_program(copy: Copy) -> None:
    done = copy.run("setup")

    assert (done.returncode, done.stdout) == (0, "")


def test_a_changed_lock_is_installed_at_the_next_start(copy: Copy) -> None:
    copy.run("setup")
    (copy.folder / "locks/runtime.txt").write_text("a==2\n")

    copy.run("setup")
    copy.run("setup")

    assert len(copy.installs()) == 2


def test_a_moved_folder_is_set_up_again(copy: Copy) -> None:
    copy.run("setup")
    copy.folder = copy.folder.rename(copy.folder.with_name("elsewhere"))

    moved = copy.run("hello")

    assert (moved.returncode, moved.stdout) == (7, "hello\n")


def test_a_set_up_that_was_killed_is_started_afresh(copy: Copy) -> None:
    copy.gate.touch()
    killed = copy.start("setup")
    wait_until_pip_is_at_work(copy)
    (copy.folder / ".venv/half-installed").touch()
    killed.kill()
    killed.wait(timeout=60)
    # The pip that it started lives on and may still write, so the next one waits for that too.
    again = copy.start("hello")
    assert again.stderr is not None
    assert "waiting" in again.stderr.readline()
    copy.gate.unlink()

    out, _ = again.communicate(timeout=60)
    killed.communicate(timeout=60)

    assert (again.returncode, out) == (7, "hello\n")
    assert not (copy.folder / ".venv/half-installed").exists()
    assert len(copy.installs()) == 2


def test_of_two_set_ups_at_once_one_works_and_the_other_waits(copy: Copy) -> None:
    copy.gate.touch()
    first = copy.start("setup")
    wait_until_pip_is_at_work(copy)
    second = copy.start("hello")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    copy.gate.unlink()

    out, _ = second.communicate(timeout=60)
    first.communicate(timeout=60)

    assert (first.returncode, second.returncode, out) == (0, 7, "hello\n")
    assert len(copy.installs()) == 1


def test_a_machine_that_reaches_no_index_is_told_where_was_looked(copy: Copy) -> None:
    copy.environment["PIP_FIND_LINKS"] = "/no/such/folder"
    # A Python without ensurepip, as Debian's is.
    hidden = copy.folder / "scripts/bootstrap.py"
    hidden.write_text(hidden.read_text().replace('"ensurepip"', '"there_is_no_ensurepip"'))

    failed = copy.run("setup")

    assert failed.returncode == 1
    assert "/no/such/folder" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_an_old_python_is_refused_by_name(copy: Copy) -> None:
    old = Path(copy.environment["PATH"]) / "python3"
    old.unlink()
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)

    refused = copy.run("setup")

    assert refused.returncode == 1
    assert "3.11 or newer" in refused.stderr
    assert "Python 3.9.2" in refused.stderr
