"""The command line: ``serve``, ``migrate``, ``keys``, ``doctor``. The one place that speaks to a person.

What a person should act on is one line on the error stream, without a traceback. Exit status: 0 done, 1 it did not
work, 2 wrong settings or arguments. Imports stand in the functions that need them: a command starts with what it uses.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, TypeVar

from threadkeep import __version__, logs
from threadkeep.contract.errors import ThreadkeepError, UpstreamFailed
from threadkeep.sandbox.environment import COMMAND
from threadkeep.settings import (
    ROWS,
    Settings,
    WrongSettings,
    add_flags,
    as_markdown,
    flag,
    read_settings,
    without_password,
)

if TYPE_CHECKING:
    from threadkeep.app import Server
    from threadkeep.doctor import Finding
    from threadkeep.sandbox.sessions import State
    from threadkeep.storage import Store
    from threadkeep.upstream.client import ChatCompletionsUpstream
    from threadkeep.upstream.config import UpstreamConfig
    from threadkeep.upstream.upstreams import Upstreams

T = TypeVar("T")

# What every command that opens the database needs to know.
PLACE = ("data_dir", "database_url", "config", "log_level", "log_format")
# What decides where the environment of the code interpreter is, and what is in it.
SANDBOX = ("data_dir", "config", "sandbox_environment", "sandbox_packages", "log_level", "log_format")
# How often at least something is said of a long stage of an installation.
PROGRESS_S = 5.0
# How long the start waits for the upstreams to say which models they have.
MODELS_S = 1.0


class Failed(ThreadkeepError):
    """The command cannot do what it was asked; the message is one line for a person."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a question mark; it is no reason to fail.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    words = parser().parse_args(arguments)
    run: Callable[[Settings, argparse.Namespace], int] | None = getattr(words, "run", None)
    if run is None:
        parser().print_help()
        return 2
    try:
        settings = read_settings(vars(words), os.environ)
    except WrongSettings as wrong:
        for problem in wrong.problems:
            complain(problem)
        return 2
    logs.configure(settings.log_level, settings.log_format, secrets=settings.secrets())
    try:
        return run(settings, words)
    except ThreadkeepError as failure:
        complain(one_line(failure.message, settings))
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="threadkeep",
        description="A server for OpenAI's Assistants API, in front of any Chat Completions model server.",
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"threadkeep {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")

    def command(
        name: str, run: Callable[[Settings, argparse.Namespace], int], text: str | None, flags: Sequence[str]
    ) -> argparse.ArgumentParser:
        if text is None:
            # Not listed: it is for this project's own documentation.
            one = commands.add_parser(name, allow_abbrev=False)
        else:
            one = commands.add_parser(name, description=text, help=text, allow_abbrev=False)
        one.set_defaults(run=run)
        add_flags(one, flags)
        return one

    every = tuple(ROWS)
    serve_command = command("serve", serve, "start the server", every)
    serve_command.epilog = (
        "Each flag is also a variable (--data-dir: THREADKEEP_DATA_DIR) and a key in threadkeep.toml."
    )
    command("migrate", migrate, "bring the database to this version (serve does it too)", PLACE)
    keys = commands.add_parser(
        "keys", help="make, list and revoke API keys", description="API keys and their projects."
    )
    key_commands = keys.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, text in (
        ("create", create_key, "make a key and print it, once"),
        ("list", list_keys, "list the keys that were made"),
        ("revoke", revoke_key, "make a key worthless"),
    ):
        one = key_commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(run=run)
        if name == "create":
            one.add_argument("--project", required=True, metavar="NAME", help="the project that the key opens")
        if name == "revoke":
            one.add_argument("key_id", metavar="KEY_ID", help="as keys list tells it")
        add_flags(one, PLACE)
    sandbox = commands.add_parser(
        "sandbox",
        help="install the Python environment of the code interpreter, and say how it stands",
        description="Where the code that models write runs, and the Python environment that it finds there.",
    )
    sandbox_commands = sandbox.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, text in (
        ("install", install_environment, "install the environment, unless it is there"),
        ("status", show_sandbox, "say whether code can be isolated here, by trying it, and what to fix"),
    ):
        one = sandbox_commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.set_defaults(run=run)
        if name == "install":
            one.add_argument("--quiet", action="store_true", help="say nothing if it is there already")
            # For the server, which installs in the background: see `Installation`.
            one.add_argument("--aside", action="store_true", help=argparse.SUPPRESS)
        add_flags(one, SANDBOX if name == "install" else (*SANDBOX, "code_interpreter"))
    command("doctor", examine, "check settings, database, upstreams and machine, and say what to fix", every)
    command("settings", show_settings, None, ()).add_argument("--markdown", action="store_true", required=True)
    return whole


def complain(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"threadkeep: {line}", file=sys.stderr, flush=True)


def say(text: str = "") -> None:
    """To whoever started the program. That nobody listens any more is no reason to stop."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def one_line(message: str, settings: Settings) -> str:
    line = " ".join(message.split())
    for secret in settings.secrets():
        line = line.replace(secret, "***")
    return line


# --- serve


def serve(settings: Settings, words: argparse.Namespace) -> int:
    for warning in settings.warnings:
        logs.Log(__name__).warning("setting_ignored", warning)
    raise_open_files()
    # Bound before anything is opened, and listening only when all is: whoever connects is answered.
    with bind(settings) as listener:
        import uvloop  # noqa: PLC0415

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_on(listener, settings))
    return 0


async def serve_on(listener: socket.socket, settings: Settings) -> None:
    from threadkeep.app import open_server  # noqa: PLC0415
    from threadkeep.app import serve as serve_http  # noqa: PLC0415

    address = address_of(listener)
    on_loopback = is_loopback(listener)
    news = CodeNews(settings)
    async with open_server(
        settings, takes_any_key=on_loopback, on_sandbox=news.of_sandbox, on_installation=news.of_installation
    ) as server:
        keys = await server.store.read(None, lambda tx: tx.keys.list())
        good = [key for key in keys if key.revoked_at is None]
        if not on_loopback and not keys:
            raise Failed(
                f"{settings.named_as('host')} {settings.host} lets other machines in, and there are no API keys yet: "
                f"make one with 'threadkeep keys create --project NAME{place_flags(settings)}'."
            )
        if settings.code_interpreter == "on":
            await until_code_runs(server, settings)
        seen = await seen_models(server.upstreams)
        code = code_news(server.sandbox_state, settings)
        say(screen(settings, address, seen, len(good) if keys else None, code))
        news.begin(code)
        await serve_http(server, settings, listener, lambda: say(f"listening on {address}"))


def place_flags(settings: Settings) -> str:
    """The flags that make another command look at the same database, as far as they were given as flags."""
    given = [name for name in ("data_dir", "database_url", "config") if settings.given.get(name, "").startswith("--")]
    return "".join(f" {flag(name)} {settings.shown(name)}" for name in given)


def bind(settings: Settings) -> socket.socket:
    """A socket bound to the address that was asked for; not yet listening."""
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Failed(
            f"{settings.named_as('host')}: '{host}' is no address of this machine: {error.strerror}."
        ) from error
    # localhost is both; clients try IPv4 sooner or later, and some nothing else.
    family, kind, protocol, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" means every address, those of IPv4 too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Failed(bind_failure(settings, error)) from error
    return listener


def bind_failure(settings: Settings, error: OSError) -> str:
    import errno  # noqa: PLC0415

    where = f"{settings.host}:{settings.port}"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"{where} is in use by another program. "
                f"Stop that one, or choose another port: {flag('port')} {settings.port + 1}"
            )
        case errno.EACCES:
            return f"{where}: ports below 1024 need a privilege. Choose a higher one: {flag('port')} 8400"
        case errno.EADDRNOTAVAIL:
            return f"{settings.named_as('host')}: '{settings.host}' is no address of this machine."
        case _:
            return f"cannot listen on {where}: {error.strerror}"


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415

    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def raise_open_files() -> None:
    """Each stream is two connections, and the usual limit of 1,024 files (256 on macOS) is soft."""
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- the screen at the start


async def seen_models(upstreams: Upstreams) -> dict[str, list[str] | str]:
    """What each upstream says at once that it has, or why it says nothing. Its absence does not hold up the start."""
    from threadkeep.upstream.failures import told_plainly  # noqa: PLC0415

    async def ask(upstream: ChatCompletionsUpstream) -> list[str] | str:
        try:
            async with asyncio.timeout(MODELS_S):
                return [model.id for model in await upstream.models()]
        except TimeoutError:
            return "it has not said yet which models it has"
        except UpstreamFailed as failure:
            return told_plainly(failure)

    answers = await asyncio.gather(*(ask(upstream) for upstream in upstreams.configured))
    return {upstream.name: answer for upstream, answer in zip(upstreams.configured, answers, strict=True)}


# Four lines, so that pasting them anywhere works, the interactive interpreter too.
SNIPPET = """\
from openai import OpenAI
beta = OpenAI(base_url="{address}/v1", api_key="{key}").beta
hello = {{"messages": [{{"role": "user", "content": "Hello!"}}]}}; who = beta.assistants.create(model="{model}")
with beta.threads.create_and_run_stream(assistant_id=who.id, thread=hello) as run: print(*run.text_deltas, sep="")"""


def screen(settings: Settings, address: str, seen: dict[str, list[str] | str], keys: int | None, code: str) -> str:
    """What a person wants to know of a server that starts.

    ``keys``: how many are good; None: none was ever made. ``code``: how it stands with the code interpreter.
    """
    rows: list[tuple[str, str]] = [("address", f"{address}/v1")]
    if settings.database_url is None:
        rows.append(("data", f"{settings.data_dir / 'threadkeep.db'} (SQLite)"))
    else:
        rows.append(("data", without_password(settings.database_url)))
    if settings.blobs_url is not None:
        rows.append(("files", settings.blobs_url))
    if settings.upstreams:
        texts = [text for upstream in settings.upstreams for text in upstream_rows(upstream, seen[upstream.name])]
        rows += [("model" if number == 0 else "", text) for number, text in enumerate(texts)]
    else:
        rows.append(("model", "offline, which answers by rule and is not a language model"))
        rows.append(("", f"for a real one: {flag('upstream_url')} http://127.0.0.1:11434/v1"))
    match keys:
        case None:
            rows.append(("keys", "none were made: any key will do, from this machine only"))
        case _:
            rows.append(("keys", f"{keys} good; see: threadkeep keys list"))
    rows.append(("on", "assistants, threads, messages, runs, streaming, function calling, files, uploads"))
    rows.append(("", "the first beta (v1), Azure's paths, chat completions passed on"))
    rows.append(("code", code))
    how = "words alone" if settings.embedding_model is None else f"words and by meaning ({settings.embedding_model})"
    rows.append(("search", f"vector stores and file search, by {how}"))
    snippet = SNIPPET.format(
        address=reachable(address), key="any" if keys is None else "YOUR-KEY", model=model_to_try(settings, seen)
    )
    lines = [f"Threadkeep {__version__}", "", *(f"  {name:<9}{text}" for name, text in rows), ""]
    return "\n".join([*lines, "  Try it, in Python (pip install openai):", "", snippet, ""])


CODE = "code interpreter"


def code_news(state: State, settings: Settings) -> str:
    """How it stands with the code interpreter."""
    from threadkeep.sandbox.sessions import Off, Ready, Starting  # noqa: PLC0415

    match state:
        case Ready(tier, environment):
            return f"on, isolated by {tier}, with {len(environment.packages)} packages"
        case Starting(reason):
            return f"not yet: {reason}; a line below will say how that ends"
        case Off(reason, mend):
            command = environment_command(settings)
            return f"off: {reason}. {mend.replace(COMMAND, command)}"


def environment_command(settings: Settings) -> str:
    """What installs the environment that these settings name, wherever it is run."""
    place = settings.sandbox_environment
    if place is None:
        return f"{COMMAND}{place_flags(settings)}"
    return f"{COMMAND} {flag('sandbox_environment')} {shlex.quote(str(place.absolute()))}"


class CodeNews:
    """Tells how it goes on with the code interpreter once the screen was shown; where it is needed, before that too."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_shown = settings.code_interpreter == "on"
        self._said = ""
        self._stage = ""
        self._told_at = 0.0

    def begin(self, said: str) -> None:
        """The screen was shown, and said this."""
        self._is_shown = True
        self._said = said

    def of_sandbox(self, state: State) -> None:
        from threadkeep.sandbox.sessions import Starting  # noqa: PLC0415

        news = code_news(state, self._settings)
        if self._is_shown and not isinstance(state, Starting) and news != self._said:
            self._said = news
            say(f"{CODE}: {news}")

    def of_installation(self, line: str) -> None:
        """Every stage, and of a long one a line now and then."""
        stage, now = line.partition(" ")[0], time.monotonic()
        if self._is_shown and (stage != self._stage or now - self._told_at >= PROGRESS_S):
            self._stage, self._told_at = stage, now
            say(f"{CODE}: {line}")


async def until_code_runs(server: Server, settings: Settings) -> None:
    """Returns when code can run. Raises Failed when it cannot, as far as this start can bring it about."""
    from threadkeep.sandbox.sessions import LOOK_S, Off, Ready  # noqa: PLC0415

    say(f"{CODE}: it must be on, so the start waits for its self-test")
    while not isinstance(state := server.sandbox.state, Ready):
        if isinstance(state, Off) and not server.installation.is_at_work:
            # What was installed only just is seen with the next look.
            await asyncio.sleep(2 * LOOK_S)
            if server.sandbox.state == state:
                where = settings.named_as("code_interpreter")
                raise Failed(f"{where} is 'on', and the {CODE} is {code_news(state, settings)}")
        await asyncio.sleep(0.02)


def upstream_rows(upstream: UpstreamConfig, seen: list[str] | str) -> list[str]:
    answers = "every model" if upstream.models == ("*",) else ", ".join(upstream.models)
    row = f"{answers} at {without_password(upstream.url)}"
    if isinstance(seen, str):
        return [row, seen]
    if not seen:
        return [row]
    return [row, f"it has {', '.join(seen[:3])}{f' and {len(seen) - 3} more' if len(seen) > 3 else ''}"]


def model_to_try(settings: Settings, seen: dict[str, list[str] | str]) -> str:
    """A model that surely answers, or a word that says to put one there."""
    if not settings.upstreams:
        return "offline"
    spelt_out = [name for upstream in settings.upstreams for name in upstream.models if not set(name) & set("*?[")]
    listed = [name for names in seen.values() if isinstance(names, list) for name in names if "embed" not in name]
    # Of a long list nobody knows which ones chat.
    small = listed if len(listed) <= 5 else [name for name in ("gpt-4o-mini",) if name in listed]
    return next(iter([*spelt_out, *small]), "YOUR-MODEL")


def reachable(address: str) -> str:
    """The address as a client on this machine writes it: "every address" is none to call."""
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


# --- the other commands


def migrate(settings: Settings, words: argparse.Namespace) -> int:
    from threadkeep import storage  # noqa: PLC0415

    before, after = storage.migrate(settings.database_url, settings.data_dir)
    say(f"The database is at revision {after}" + (" already." if before == after else f"; it was {before or 'empty'}."))
    return 0


def create_key(settings: Settings, words: argparse.Namespace) -> int:
    project: str = words.project.strip()
    if not project or len(project) > 64 or not project.isprintable():
        raise Failed("--project: a project's name is 1 to 64 printable characters. Example: --project team-red")
    key_id, key = with_store(settings, lambda store: store.write(None, lambda tx: tx.keys.create(project)))
    # The key alone goes to the output, so that a script can keep it.
    say(key)
    note(f"This is {key_id}, which opens the project '{project}'. It is shown this once; only its hash is stored.")
    return 0


def list_keys(settings: Settings, words: argparse.Namespace) -> int:
    keys = with_store(settings, lambda store: store.read(None, lambda tx: tx.keys.list()))
    if not keys:
        note("No keys were made yet. Make one with: threadkeep keys create --project NAME")
        return 0
    rows = [("ID", "PROJECT", "KEY", "MADE", "STATE")]
    for key in keys:
        state = "good" if key.revoked_at is None else f"revoked {when(key.revoked_at)}"
        rows.append((key.id, key.project_name, f"…{key.hint}", when(key.created_at), state))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def revoke_key(settings: Settings, words: argparse.Namespace) -> int:
    key_id: str = words.key_id
    if not with_store(settings, lambda store: store.write(None, lambda tx: tx.keys.revoke(key_id))):
        raise Failed(f"there is no good key with the id '{key_id[:80]}'. See: threadkeep keys list")
    say(f"{key_id} is revoked; within a second no server accepts it.")
    return 0


def examine(settings: Settings, words: argparse.Namespace) -> int:
    from threadkeep.doctor import check  # noqa: PLC0415

    findings = asyncio.run(check(settings))
    report(findings, settings)
    problems = sum(finding.state == "problem" for finding in findings)
    say("\nEverything is well." if problems == 0 else f"\n{problems} to fix.")
    return 1 if problems else 0


def report(findings: Sequence[Finding], settings: Settings) -> None:
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        text = one_line(finding.text, settings).replace(COMMAND, environment_command(settings))
        say(f"{finding.state:<9}{finding.subject:<{width}}  {text}")


def install_environment(settings: Settings, words: argparse.Namespace) -> int:
    from threadkeep.sandbox import environment  # noqa: PLC0415

    if words.aside:
        environment.step_aside()
    place, began = settings.environment_place, time.monotonic()
    there = environment.read_environment(place, settings.sandbox_packages)
    if there is None:
        there = environment.install(place, settings.sandbox_packages, say)
        say(f"installed in {time.monotonic() - began:.0f} s: {len(there.packages)} packages in {there.folder}")
    elif not words.quiet:
        say(f"installed already: {len(there.packages)} packages in {there.folder}")
    return 0


def show_sandbox(settings: Settings, words: argparse.Namespace) -> int:
    from threadkeep.doctor import code_interpreter  # noqa: PLC0415

    findings = asyncio.run(code_interpreter(settings))
    report(findings, settings)
    return int(any(finding.state != "ok" for finding in findings))


def show_settings(settings: Settings, words: argparse.Namespace) -> int:
    sys.stdout.write(as_markdown())
    return 0


def with_store(settings: Settings, use: Callable[[Store], Awaitable[T]]) -> T:
    """What ``use`` finds or does in the database, which a running server may have open too."""

    async def run() -> T:
        from threadkeep.storage import open_store  # noqa: PLC0415

        store = await open_store(
            settings.database_url, settings.data_dir, readers=1, connections=1, is_sole_server=False
        )
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


def note(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def when(seconds: int) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}Z"
