"""Every setting is one row of ``Settings``: its name, kind, default, meaning and example.

From the row follow the flag of ``threadkeep serve``, the variable ``THREADKEEP_<NAME>``, the key in
``threadkeep.toml``, the validation, ``--help`` and the reference page. A flag wins over a variable, that over the
file, that over the default. Nothing else in the program reads the environment. To add a setting: one row here.
"""

# ruff: noqa: RUF009 - a row is a call that makes a dataclass field

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from threadkeep.contract.errors import ThreadkeepError
from threadkeep.contract.files import MAX_FILE_BYTES
from threadkeep.contract.tools import MAX_FILE_TOKENS
from threadkeep.sandbox.environment import DEFAULT
from threadkeep.sandbox.limits import Limits
from threadkeep.upstream.config import UpstreamConfig

if TYPE_CHECKING:
    import argparse

T = TypeVar("T")
D = TypeVar("D")

PREFIX = "THREADKEEP_"
CONFIG_FILE = "threadkeep.toml"

CodeInterpreter = Literal["auto", "on", "off"]
AssistantsDownloads = Literal["allow", "refuse"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "human", "json"]


class WrongSettings(ThreadkeepError):
    """Start-up stops here: each problem names the setting as it was given and shows a right one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# --- kinds of values


class Kind(Generic[T]):
    """What a value may be: ``parse`` turns its text into it, or raises ValueError saying what is wrong with it."""

    def __init__(self, metavar: str, parse: Callable[[str], T]) -> None:
        self.metavar = metavar
        self.parse = parse


def _anything(value: str) -> str:
    return value


def _path(value: str) -> Path:
    return Path(value).expanduser()


def whole_number(metavar: str, least: int, most: int) -> Kind[int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise ValueError(f"{_quoted(value)} is not a whole number from {least} to {most}")
        return number

    return Kind(metavar, parse)


def seconds(least: float, most: float) -> Kind[float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise ValueError(f"{_quoted(value)} is not a number of seconds from {least:g} to {most:g}")
        return number

    return Kind("SECONDS", parse)


def _days(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0.00001 <= number <= 36_500:
        raise ValueError(f"{_quoted(value)} is not a number of days from 0.00001 to 36500")
    return number


def one_of(options: tuple[T, ...]) -> Kind[T]:
    words = {str(option): option for option in options}

    def parse(value: str) -> T:
        if value.lower() not in words:
            raise ValueError(f"{_quoted(value)} is not one of {', '.join(words)}")
        return words[value.lower()]

    return Kind("{" + ",".join(words) + "}", parse)


def _switch(value: str) -> bool:
    if value.lower() not in ("on", "off", "true", "false"):
        raise ValueError(f"{_quoted(value)} is neither on nor off")
    return value.lower() in ("on", "true")


def _split(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"'{without_password(value)}' is not a URL: {error}") from None
    return parts


def _upstream_url(value: str) -> str:
    parts = _split(value)
    shown = without_password(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{shown}' is not an http:// or https:// URL")
    for operation in ("/chat/completions", "/embeddings", "/rerank"):
        if parts.path.rstrip("/").endswith(operation):
            raise ValueError(f"'{shown}' is the address of one operation: leave off {operation}")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in ("postgresql", "postgres", "sqlite"):
        raise ValueError(f"'{without_password(value)}' is neither a postgresql:// nor a sqlite:/// URL")
    return value


def _blobs_url(value: str) -> str:
    parts = _split(value)
    shown = without_password(value)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"'{shown}' holds more than a place; credentials are read from AWS_... variables")
    if parts.scheme == "file" and not parts.netloc and len(parts.path) > 1:
        return value
    if parts.scheme == "s3" and parts.netloc:
        return value
    raise ValueError(f"'{shown}' is neither a file:///folder nor an s3://bucket/prefix URL")


def _origins(value: str) -> tuple[str, ...]:
    origins = tuple(dict.fromkeys(origin for part in value.split(",") if (origin := part.strip().rstrip("/"))))
    for origin in origins:
        if origin == "*" or origin == "null":
            continue
        parts = _split(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != origin:
            raise ValueError(f"{_quoted(origin)} is not an origin: a scheme, a host and perhaps a port, and no path")
    return tuple(origin.lower() for origin in origins)


def _packages(value: str) -> tuple[str, ...]:
    packages: list[str] = []
    for part in (part.strip() for part in value.split(",")):
        if part[:1] in tuple("<>=!~") and packages:
            # "numpy>=2,<3" is one.
            packages[-1] += f",{part}"
        elif part:
            packages.append(part)
    for package in packages:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?( *(==|[<>~!]=|[<>]).*)?", package):
            raise ValueError(f"{_quoted(package)} is neither a package's name nor a name and a version")
    return tuple(dict.fromkeys(packages))


def _quirks(value: str) -> str:
    from threadkeep.upstream.quirks import QUIRKS  # noqa: PLC0415 - most starts name none

    names = sorted({quirk.name for quirk in QUIRKS})
    if value not in names:
        raise ValueError(f"{_quoted(value)} is not one of {', '.join(names)}")
    return value


TEXT = Kind("TEXT", _anything)
HOST = Kind("HOST", _anything)
KEY = Kind("KEY", _anything)
FOLDER = Kind("FOLDER", _path)
FILE = Kind("FILE", _path)
UPSTREAM_URL = Kind("URL", _upstream_url)
BLOBS_URL = Kind("URL", _blobs_url)
DATABASE_URL = Kind("URL", _database_url)
ORIGINS = Kind("ORIGINS", _origins)
QUIRKS_NAME = Kind("NAME", _quirks)
PACKAGES = Kind("PACKAGES", _packages)
CODE_INTERPRETER: Kind[CodeInterpreter] = one_of(("auto", "on", "off"))
ASSISTANTS_DOWNLOADS: Kind[AssistantsDownloads] = one_of(("allow", "refuse"))
LOG_LEVEL: Kind[LogLevel] = one_of(("debug", "info", "warning", "error"))
LOG_FORMAT: Kind[LogFormat] = one_of(("auto", "human", "json"))
SWITCH = Kind("on|off", _switch)
PORT = whole_number("PORT", 0, 65535)
BYTES = whole_number("BYTES", 1024, 1024**4)
COUNT = whole_number("NUMBER", 1, 10_000_000)
DAYS = Kind("DAYS", _days)
TOKENS = whole_number("TOKENS", 512, 100_000_000)


# --- the table


class Row(Generic[T]):
    """What is known about a setting beside its name and default."""

    def __init__(
        self, kind: Kind[T], meaning: str, example: str, group: str, secret: bool, default: str, limit: str | None
    ) -> None:
        self.kind = kind
        self.meaning = meaning
        self.example = example
        self.group = group
        self.is_secret = secret
        # How the default is told to a person.
        self.default_shown = default
        # The field of Limits that it is the value of.
        self.limit = limit


def setting(
    kind: Kind[T],
    default: D,
    meaning: str,
    example: str,
    *,
    group: str,
    secret: bool = False,
    default_shown: str | None = None,
    limit: str | None = None,
) -> D:
    """A row. To ``dataclass`` it is the field, to the type checker its default."""
    shown = (
        default_shown
        if default_shown is not None
        else ("none" if default is None else f"{default:g}" if isinstance(default, float) else f"{default}")
    )
    row = Row(kind, meaning, example, group, secret, shown, limit)
    return cast("D", field(default=default, metadata={"row": row}))


_LIMITS = Limits()
CODE = "Code interpreter"


def bound(kind: Kind[T], limit: str, meaning: str, example: str) -> T:
    """A row for a field of ``Limits``, which has the default."""
    return setting(kind, cast("T", getattr(_LIMITS, limit)), meaning, example, group=CODE, limit=limit)


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    host: str = setting(
        HOST,
        "127.0.0.1",
        "The address to listen on. Any but a loopback address needs API keys.",
        "0.0.0.0",
        group="Server",
    )
    port: int = setting(PORT, 8400, "The port to listen on; 0 takes a free one.", "8400", group="Server")
    strict_beta: bool = setting(
        SWITCH,
        False,
        "Whether calls without an OpenAI-Beta header are refused, as OpenAI refused them.",
        "on",
        group="Server",
        default_shown="off",
    )
    cors_origins: tuple[str, ...] = setting(
        ORIGINS,
        (),
        "Web pages of which origins may use the server from a browser; `*` for all.",
        "https://app.example,http://localhost:3000",
        group="Server",
        default_shown="none",
    )
    data_dir: Path = setting(
        FOLDER,
        Path(),
        "The folder that holds the SQLite database and the files.",
        "/var/lib/threadkeep",
        group="Data",
        default_shown="the platform's user data folder",
    )
    database_url: str | None = setting(
        DATABASE_URL,
        None,
        "Where objects are stored, when not in the data folder.",
        "postgresql://threadkeep:secret@db.example/threadkeep",
        group="Data",
        default_shown="SQLite in the data folder",
    )
    database_connections: int = setting(
        whole_number("NUMBER", 1, 1000), 8, "How many connections to PostgreSQL this node keeps.", "16", group="Data"
    )
    blobs_url: str | None = setting(
        BLOBS_URL,
        None,
        "Where the contents of files lie: a folder or an S3 bucket, whose credentials, region and endpoint are those "
        "of the usual AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL.",
        "s3://bucket/prefix",
        group="Data",
        default_shown="the folder blobs in the data folder",
    )
    upstream_url: str | None = setting(
        UPSTREAM_URL,
        None,
        "The base URL of a Chat Completions server.",
        "http://127.0.0.1:11434/v1",
        group="Models",
        default_shown="none: the offline model answers",
    )
    upstream_api_key: str | None = setting(
        KEY, None, "The key that the upstream wants.", "sk-...", group="Models", secret=True
    )
    upstream_quirks: str | None = setting(
        QUIRKS_NAME,
        None,
        "What kind of server the upstream is, when its URL does not tell.",
        "vllm",
        group="Models",
        default_shown="detected",
    )
    context_window: int | None = setting(
        TOKENS,
        None,
        "How many tokens the upstream's models take, when their names do not tell.",
        "32768",
        group="Models",
        default_shown="by the model's name",
    )
    upstream_connect_timeout_seconds: float = setting(
        seconds(0.1, 600), 10.0, "How long connecting to an upstream may take.", "5", group="Models"
    )
    upstream_first_byte_timeout_seconds: float = setting(
        seconds(0.1, 3600), 300.0, "How long an upstream may think before it answers at all.", "60", group="Models"
    )
    upstream_idle_timeout_seconds: float = setting(
        seconds(0.1, 3600), 60.0, "How long an upstream may fall silent within an answer.", "30", group="Models"
    )
    upstream_retries: int = setting(
        whole_number("NUMBER", 0, 20),
        4,
        "How often a call is tried again that failed before anything of its answer was shown.",
        "5",
        group="Models",
    )
    upstream_max_concurrent: int | None = setting(
        whole_number("NUMBER", 1, 100_000),
        None,
        "How many runs this node executes at once for an upstream; the next wait in the queue.",
        "8",
        group="Models",
        default_shown="as many as leave room for the other upstreams",
    )
    embedding_model: str | None = setting(
        TEXT,
        None,
        "The model whose vectors files of vector stores are searched by, beside their words. A changed model embeds "
        "all files anew, in the background.",
        "text-embedding-3-small",
        group="Search",
        default_shown="none: files are searched by their words only",
    )
    embedding_url: str | None = setting(
        UPSTREAM_URL,
        None,
        "The base URL of the server whose /embeddings has that model.",
        "http://127.0.0.1:11434/v1",
        group="Search",
        default_shown="the upstream that answers the model's name",
    )
    embedding_api_key: str | None = setting(
        KEY, None, "The key that the server at --embedding-url wants.", "sk-...", group="Search", secret=True
    )
    embedding_dimensions: int | None = setting(
        whole_number("NUMBER", 1, 4096),
        None,
        "To how many dimensions the model is asked to cut its vectors, if it can.",
        "256",
        group="Search",
        default_shown="as many as the model has",
    )
    rerank_url: str | None = setting(
        UPSTREAM_URL,
        None,
        "The base URL of a server whose /rerank puts what was found in a better order: in the form of Cohere, Jina, "
        "vLLM and llama.cpp, or in that of Text Embeddings Inference.",
        "http://127.0.0.1:8080/v1",
        group="Search",
        default_shown="none: the order stays as it is found",
    )
    rerank_model: str | None = setting(
        TEXT,
        None,
        "The model that is asked for there.",
        "jina-reranker-v2-base-multilingual",
        group="Search",
        default_shown="none is named",
    )
    rerank_api_key: str | None = setting(
        KEY, None, "The key that the server at --rerank-url wants.", "sk-...", group="Search", secret=True
    )
    run_expires_seconds: int = setting(
        whole_number("SECONDS", 1, 7 * 24 * 3600),
        600,
        "How long a run may take until it ends as expired.",
        "3600",
        group="Runs",
    )
    thread_ttl_days: float | None = setting(
        DAYS,
        None,
        "After so many days in which no message and no run was made in it, a thread is deleted with all that is in it. "
        "All nodes must have the same.",
        "90",
        default_shown="never",
        group="Runs",
    )
    max_concurrent_runs: int = setting(
        whole_number("NUMBER", 1, 100_000),
        256,
        "How many runs this node executes at once; the next wait in the queue.",
        "64",
        group="Runs",
    )
    max_concurrent_files: int = setting(
        whole_number("NUMBER", 1, 1_000),
        2,
        "How many files of vector stores this node reads and indexes at once, beside its runs.",
        "4",
        group="Runs",
    )
    max_file_tokens: int = setting(
        whole_number("TOKENS", 1_000, 10**12),
        MAX_FILE_TOKENS,
        "The most tokens of text that a file of a vector store may hold.",
        "50000000",
        group="Runs",
    )
    lease_seconds: float = setting(
        seconds(1, 3600), 10.0, "How long a silent node keeps its work before others take it over.", "10", group="Runs"
    )
    code_interpreter: CodeInterpreter = setting(
        CODE_INTERPRETER,
        "auto",
        "auto: on where code can be isolated; on: the server does not start without; off: never.",
        "off",
        group=CODE,
    )
    sandbox_environment: Path | None = setting(
        FOLDER,
        None,
        "The folder of the Python environment that code runs in.",
        "/var/lib/threadkeep/sandbox",
        group=CODE,
        default_shown="the folder sandbox in the data folder",
    )
    sandbox_packages: tuple[str, ...] = setting(
        PACKAGES,
        (DEFAULT,),
        "What is installed there. `default`: numpy, pandas, matplotlib and others, locked by digest; more may stand "
        "beside it.",
        "default,polars,seaborn",
        group=CODE,
        default_shown=DEFAULT,
    )
    sandbox_install: bool = setting(
        SWITCH,
        False,
        "Whether the server installs the environment itself, in the background, where it is missing.",
        "on",
        group=CODE,
        default_shown="off; `./run`: on",
    )
    sandbox_pool: int | None = setting(
        whole_number("NUMBER", 0, 1000),
        None,
        "How many boxes wait with the data libraries loaded.",
        "2",
        group=CODE,
        default_shown="by memory",
    )
    sandbox_sessions: int | None = setting(
        whole_number("NUMBER", 1, 10_000),
        None,
        "How many threads may have a box at once; then the one idle longest ends, else a call waits.",
        "16",
        group=CODE,
        default_shown="by memory",
    )
    code_timeout_seconds: float = bound(seconds(1, 86_400), "call_s", "How long one call may run.", "60")
    code_cpu_seconds: float = bound(
        seconds(1, 864_000), "cpu_s", "How much time on processors one call may use, over all its processes.", "120"
    )
    code_interrupt_seconds: float = bound(
        seconds(0.1, 600), "interrupt_s", "How long code may go on after it was interrupted; then it is killed.", "5"
    )
    code_reset_seconds: float = bound(
        seconds(0.1, 600), "reset_s", "How long that killing may take; then the box goes, and its files with it.", "10"
    )
    code_max_bytes: int = bound(BYTES, "code_bytes", "The longest code that is run.", "65536")
    code_output_bytes: int = bound(BYTES, "output_bytes", "How much text of one call is kept.", "65536")
    code_images: int = bound(COUNT, "images", "How many pictures of one call are kept.", "5")
    code_image_bytes: int = bound(BYTES, "image_bytes", "The largest picture that is kept.", "1048576")
    code_files: int = bound(COUNT, "files_out", "How many files that one call wrote are kept.", "10")
    sandbox_memory_bytes: int = bound(
        BYTES, "memory_bytes", "Memory of one box: its processes and its files.", "4294967296"
    )
    sandbox_disk_bytes: int = bound(BYTES, "disk_bytes", "The size of /mnt/data, which is in memory.", "2147483648")
    sandbox_scratch_bytes: int = bound(
        BYTES, "scratch_bytes", "The size of each of /tmp, /dev/shm and the home folder.", "134217728"
    )
    sandbox_file_bytes: int = bound(BYTES, "file_bytes", "The largest file, in and out.", "104857600")
    sandbox_inodes: int = bound(COUNT, "inodes", "How many files and folders a box may hold.", "10000")
    sandbox_listed_files: int = bound(COUNT, "listed_files", "How many files are looked at after a call.", "500")
    sandbox_depth: int = bound(COUNT, "depth", "How deep in folders files are looked for.", "8")
    sandbox_processes: int = bound(COUNT, "processes", "How many processes and threads a box may have.", "128")
    sandbox_open_files: int = bound(COUNT, "open_files", "How many files a process may have open.", "512")
    sandbox_idle_seconds: float = bound(
        seconds(1, 604_800), "idle_s", "After how long without a call a thread's box ends.", "600"
    )
    sandbox_life_seconds: float = bound(
        seconds(1, 604_800), "life_s", "After how long a thread's box ends in any case.", "86400"
    )
    sandbox_start_seconds: float = bound(seconds(1, 3600), "start_s", "How long a box may take to start.", "120")
    sandbox_reply_seconds: float = bound(
        seconds(1, 3600), "reply_s", "How long a box may take for anything but running code.", "60"
    )
    max_request_bytes: int = setting(
        whole_number("BYTES", 1024, 1024**3),
        8 * 1024**2,
        "The longest request body that is read.",
        "4194304",
        group="Limits",
    )
    max_file_bytes: int = setting(
        whole_number("BYTES", 1024, 8 * 1024**3),
        MAX_FILE_BYTES,
        "The longest file that is taken in one piece.",
        "104857600",
        group="Limits",
    )
    assistants_downloads: AssistantsDownloads = setting(
        ASSISTANTS_DOWNLOADS,
        "allow",
        "refuse: what was uploaded for assistants does not come back, as it was with OpenAI.",
        "refuse",
        group="Limits",
    )
    keep_alive_seconds: float = setting(
        seconds(0.1, 3600),
        15.0,
        "How often an idle stream is sent a comment, so that nothing between closes it.",
        "10",
        group="Limits",
    )
    stream_retention: float = setting(
        seconds(0, 86_400),
        600.0,
        "How long the stream of a run can be read again word for word after its end, if memory for it suffices; "
        "afterwards it is made of what is stored.",
        "3600",
        group="Limits",
    )
    max_connections: int | None = setting(
        COUNT,
        None,
        "How many connections of clients this node has at once; more are answered with 503.",
        "2000",
        group="Limits",
        default_shown="by the files it may open, at most 10000",
    )
    grace_seconds: int = setting(
        whole_number("SECONDS", 0, 3600),
        30,
        "How long running streams may go on after SIGTERM; then they are handed over.",
        "60",
        group="Limits",
    )
    drain_delay_seconds: float = setting(
        seconds(0, 3600),
        0.0,
        "How long after SIGTERM connections are still taken while `/health/ready` says 503, so that a load balancer "
        "can look away first.",
        "5",
        group="Limits",
    )
    log_level: LogLevel = setting(LOG_LEVEL, "info", "The least that is logged.", "debug", group="Logs")
    log_format: LogFormat = setting(
        LOG_FORMAT, "auto", "auto: human in a terminal, JSON otherwise.", "json", group="Logs"
    )
    config: Path | None = setting(
        FILE,
        None,
        "The settings file.",
        "/etc/threadkeep.toml",
        group="Data",
        default_shown=f"{CONFIG_FILE} in the current folder, else in the data folder",
    )

    # Not rows: what follows from the file and from where values came.
    upstreams: tuple[UpstreamConfig, ...] = ()
    # name -> the flag, variable or key that set it; names with their default are absent.
    given: Mapping[str, str] = field(default_factory=dict[str, str])
    # Worth a line at start-up, not worth stopping.
    warnings: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        """The bounds of the code interpreter, all together."""
        return Limits(**{row.limit: getattr(self, name) for name, row in ROWS.items() if row.limit is not None})

    @property
    def environment_place(self) -> Path:
        """Where the code interpreter's environments are."""
        return self.sandbox_environment or self.data_dir / "sandbox"

    def shown(self, name: str) -> str:
        """The value as a person may see it: secrets and passwords are not in it."""
        value: object = getattr(self, name)
        if value is None:
            return "none"
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, tuple):
            return ",".join(cast("tuple[str, ...]", value)) or "none"
        return "***" if ROWS[name].is_secret else without_password(str(value))

    def secrets(self) -> list[str]:
        """What must never appear in a log line."""
        found = {self.upstream_api_key, self.embedding_api_key, self.rerank_api_key, *_passwords(self.database_url)}
        found |= _passwords(self.embedding_url) | _passwords(self.rerank_url)
        for upstream in self.upstreams:
            found |= upstream.secrets | _passwords(upstream.url)
        return sorted(secret for secret in found if secret)

    def named_as(self, name: str) -> str:
        """How a message should call the setting: as it was given, else by its flag."""
        return self.given.get(name, flag(name))

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={self.shown(name)!r}' for name in self.given)})"


def _rows() -> dict[str, Row[Any]]:
    declared: Iterable[Field[Any]] = fields(Settings)
    return {row.name: row.metadata["row"] for row in declared if "row" in row.metadata}


ROWS: Mapping[str, Row[Any]] = _rows()


# --- reading


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return PREFIX + name.upper()


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Flags take their text as it is: ``read_settings`` judges all values in one go and lists every wrong one."""
    groups: dict[str, argparse._ArgumentGroup] = {}  # pyright: ignore[reportPrivateUsage] - it has no public name
    wanted = set(names)
    for name, row in ROWS.items():
        if name in wanted:
            group = groups.get(row.group) or groups.setdefault(row.group, parser.add_argument_group(row.group))
            shown = f"{row.meaning} Default: {row.default_shown}".replace("%", "%%")
            if row.kind is SWITCH:
                # The bare flag is enough.
                group.add_argument(flag(name), dest=name, metavar=row.kind.metavar, nargs="?", const="on", help=shown)
            else:
                group.add_argument(flag(name), dest=name, metavar=row.kind.metavar, help=shown)


def read_settings(
    arguments: Mapping[str, str | None], environ: Mapping[str, str], *, folder: Path | None = None
) -> Settings:
    """Values from flags, variables, the file in ``folder`` (the current one) or the data folder, and defaults."""
    reading = _Reading()
    reading.take_arguments(arguments)
    reading.take_environment(environ)
    # The file may lie in the data folder, so that one is looked for in what is known before the file is read.
    if "data_dir" not in reading.values:
        reading.values["data_dir"] = _default_data_dir()
    reading.take_file(folder or Path.cwd(), environ)
    return reading.settings()


def _default_data_dir() -> Path:
    from platformdirs import user_data_path  # noqa: PLC0415 - not needed when a folder is named

    return user_data_path("threadkeep", appauthor=False)


class _Reading:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.given: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.upstreams: list[UpstreamConfig] = []
        self._tables: list[tuple[str, dict[str, Any]]] = []

    def take_arguments(self, arguments: Mapping[str, str | None]) -> None:
        for name, value in arguments.items():
            if name in ROWS and value is not None:
                self._take(name, value, flag(name), f"{flag(name)} {{}}")

    def take_environment(self, environ: Mapping[str, str]) -> None:
        for key in sorted(k for k in environ if k.startswith(PREFIX)):
            name = key.removeprefix(PREFIX).lower()
            if name in ROWS and key == variable(name):
                # Compose files and the like pass variables on that nobody has set.
                if environ[key]:
                    self._take(name, environ[key], key, f"{key}={{}}")
            elif not name.startswith("test_"):
                close = nearest(name, ROWS)
                if close is None:
                    self.warnings.append(f"{key} is not a setting of this version and is ignored.")
                else:
                    self.problems.append(f"{key}: there is no such setting. Did you mean {variable(close)}?")

    def take_file(self, folder: Path, environ: Mapping[str, str]) -> None:
        file: Path | None = self.values.get("config")
        if file is None:
            places = (folder / CONFIG_FILE, self.values["data_dir"] / CONFIG_FILE)
            file = next((place for place in places if _is_file(place)), None)
            if file is None:
                return
        import tomllib  # noqa: PLC0415 - most starts have no file

        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self.problems.append(f"{self.given.get('config', CONFIG_FILE)}: {file} cannot be read: {reason}")
            return
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{file}: {error}")
            return
        self.values["config"] = file
        for key, value in table.items():
            if key == "upstream":
                self._take_upstreams(file, value, environ)
            elif key not in ROWS or key == "config":
                self.problems.append(f"{file}: there is no setting '{key}'.{_did_you_mean(key, ROWS)}")
            elif key not in self.given:
                text = value if isinstance(value, str) else _toml_number(value)
                if isinstance(value, bool) and ROWS[key].kind is SWITCH:
                    text = "on" if value else "off"
                if key == "data_dir" and text is not None:
                    # Beside the file, wherever the server is started.
                    text = str(file.parent / _path(text))
                example = f"{key} = {_toml_text(ROWS[key].example)}".replace("{", "{{").replace("}", "}}")
                self._take(key, text, f"{file}: {key}", example)

    def _take(self, name: str, value: str | None, where: str, example: str) -> None:
        if name in self.given:
            return
        row = ROWS[name]
        self.given[name] = where
        try:
            if value is None:
                raise ValueError("neither text nor a number")
            if "\0" in value:
                raise ValueError("it holds a NUL character")
            if not value.strip():
                raise ValueError("it is empty")
            self.values[name] = row.kind.parse(value.strip())
        except ValueError as error:
            said = f"{error}" if not row.is_secret else "not a usable value"
            self.problems.append(f"{where}: {said}. Example: {example.format(row.example)}")

    def _take_upstreams(self, file: Path, value: object, environ: Mapping[str, str]) -> None:
        tables = cast("list[object]", value) if isinstance(value, list) else []
        if not tables or not all(isinstance(table, dict) for table in tables):
            self.problems.append(f"{file}: upstream: each upstream is a table of its own that begins with [[upstream]]")
            return
        for number, table in enumerate(cast("list[dict[str, Any]]", tables), 1):
            name = table.get("name", f"upstream {number}")
            where = f"{file}: [[upstream]] {name if isinstance(name, str) else number}"
            entries = dict(table)
            key_variable = entries.pop("api_key_env", None)
            if isinstance(key_variable, str) and "api_key" not in entries:
                if not environ.get(key_variable):
                    self.problems.append(f"{where}: api_key_env: the variable {key_variable} is not set")
                entries["api_key"] = environ.get(key_variable) or "unset"
            elif key_variable is not None:
                self.problems.append(f"{where}: give api_key or api_key_env (a variable's name), not both")
            self._tables.append((where, entries))

    def settings(self) -> Settings:
        """All together, or all that is wrong. Upstreams come last: their timeouts default to the general ones."""
        # Wrong values were not taken, so there is nothing here that their defaults could not stand for.
        settings = Settings(**self.values, given=self.given, warnings=tuple(self.warnings))
        upstreams: list[UpstreamConfig] = []
        for where, table in self._tables:
            upstream = self._upstream(where, table, settings)
            if upstream is None:
                continue
            if any(upstream.name == other.name for other in upstreams):
                self.problems.append(f"{where}: another [[upstream]] has this name already")
            upstreams.append(upstream)
        if self.problems:
            raise WrongSettings(self.problems)
        if settings.upstream_url is not None:
            # Last: it takes what the tables' patterns leave.
            upstreams.append(
                UpstreamConfig(
                    name="default",
                    url=settings.upstream_url,
                    api_key=settings.upstream_api_key,
                    quirks=settings.upstream_quirks,
                    context_window=settings.context_window,
                    **_general(settings),
                )
            )
        model = settings.embedding_model
        if model is not None and settings.embedding_url is None and not any(each.answers(model) for each in upstreams):
            named = settings.named_as("embedding_model")
            raise WrongSettings([f"{named}: no upstream answers {_quoted(model)}. Give --embedding-url as well."])
        return Settings(**self.values, given=self.given, warnings=tuple(self.warnings), upstreams=tuple(upstreams))

    def _upstream(self, where: str, table: dict[str, Any], settings: Settings) -> UpstreamConfig | None:
        values: dict[str, Any] = _general(settings)
        before = len(self.problems)
        for key, value in table.items():
            entry = UPSTREAM_KEYS.get(key)
            if entry is None:
                self.problems.append(f"{where}: there is no key '{key}'.{_did_you_mean(key, UPSTREAM_KEYS)}")
                continue
            try:
                values[entry.field] = entry.read(value)
            except ValueError as error:
                self.problems.append(f"{where}: {key}: {error}. Example: {key} = {entry.example}")
        for key in ("name", "url"):
            if key not in table:
                self.problems.append(f"{where}: {key} is missing. Example: {key} = {UPSTREAM_KEYS[key].example}")
        return UpstreamConfig(**values) if len(self.problems) == before else None


def _general(settings: Settings) -> dict[str, Any]:
    return {
        "connect_timeout_s": settings.upstream_connect_timeout_seconds,
        "first_byte_timeout_s": settings.upstream_first_byte_timeout_seconds,
        "idle_timeout_s": settings.upstream_idle_timeout_seconds,
        "max_retries": settings.upstream_retries,
        "max_concurrent": settings.upstream_max_concurrent,
    }


# --- the keys of an [[upstream]] table


@dataclass(frozen=True)
class UpstreamKey:
    # The field of UpstreamConfig.
    field: str
    read: Callable[[object], object]
    meaning: str
    example: str


def _text_of(kind: Kind[T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        text = value.strip() if isinstance(value, str) else _toml_number(value)
        if not text:
            raise ValueError("it is empty or of the wrong type")
        return kind.parse(text)

    return read


def _patterns(value: object) -> tuple[str, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    if not items or not all(isinstance(item, str) and item for item in items):
        raise ValueError("it is not a list of model names or patterns")
    return tuple(str(item) for item in items)


def _vision(value: object) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("*",) if value else ()
    return _patterns(value)


def _texts(value: object) -> dict[str, str]:
    table = cast("dict[str, object]", value) if isinstance(value, dict) else {}
    if not table or not all(isinstance(name, str) and name for name in table.values()):
        raise ValueError("it is not a table of texts")
    return {key: str(name) for key, name in table.items()}


def _as_general(name: str) -> Callable[[object], object]:
    return _text_of(ROWS[f"upstream_{name}"].kind)


UPSTREAM_KEYS: Mapping[str, UpstreamKey] = {
    "name": UpstreamKey("name", _text_of(TEXT), "What messages and logs call it.", '"ollama"'),
    "url": UpstreamKey("url", _text_of(UPSTREAM_URL), "Its Chat Completions base URL.", '"http://127.0.0.1:11434/v1"'),
    "api_key": UpstreamKey(
        "api_key", _text_of(KEY), "Its key. Better: `api_key_env`, the name of a variable that holds it.", '"sk-..."'
    ),
    "models": UpstreamKey("models", _patterns, "The models that it answers for.", '["gpt-*", "o3"]'),
    "rename": UpstreamKey(
        "model_rename", _texts, "What it calls the models that clients ask for.", '{ "gpt-4o" = "llama3.3:70b" }'
    ),
    "quirks": UpstreamKey(
        "quirks", _text_of(QUIRKS_NAME), "What kind of server it is, if its URL does not tell.", '"vllm"'
    ),
    "vision": UpstreamKey("vision", _vision, "Which of its models can be shown images; false: none.", '["llava*"]'),
    "context_window": UpstreamKey("context_window", _text_of(TOKENS), "How many tokens its models take.", "32768"),
    "connect_timeout_seconds": UpstreamKey(
        "connect_timeout_s", _as_general("connect_timeout_seconds"), "As the general setting.", "5"
    ),
    "first_byte_timeout_seconds": UpstreamKey(
        "first_byte_timeout_s", _as_general("first_byte_timeout_seconds"), "As the general setting.", "60"
    ),
    "idle_timeout_seconds": UpstreamKey(
        "idle_timeout_s", _as_general("idle_timeout_seconds"), "As the general setting.", "30"
    ),
    "retries": UpstreamKey("max_retries", _as_general("retries"), "As the general setting.", "5"),
    "max_concurrent": UpstreamKey("max_concurrent", _as_general("max_concurrent"), "As the general setting.", "8"),
    "api_version": UpstreamKey(
        "api_version", _text_of(TEXT), "Azure's `api-version`, where it wants one.", '"2024-10-21"'
    ),
    "headers": UpstreamKey("extra_headers", _texts, "Sent with every request.", '{ "X-Team" = "red" }'),
}


# --- words


def without_password(url: str) -> str:
    """The URL as it may be shown. Text that is no URL stays as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority, slash, path = rest.partition("/")
    login, at, place = authority.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        authority = f"{user}{':***' if colon else ''}@{place}"
    path, question, query = path.partition("?")
    # PostgreSQL takes the password as a parameter too, and no parameter is worth the risk.
    return f"{scheme}://{authority}{slash}{path}{question and '?'}{query and '...'}"


def _passwords(url: str | None) -> set[str]:
    """Every form in which a URL's password may turn up in a message."""
    if url is None:
        return set()
    parts = urlsplit(url)
    # PostgreSQL's URLs may have it among the parameters.
    written = {parts.password, *(value for name, value in parse_qsl(parts.query) if "password" in name)} - {None, ""}
    return {form for password in written if password for form in (password, unquote(password))}


def nearest(name: str, names: Iterable[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only for somebody's mistake

    return next(iter(difflib.get_close_matches(name, list(names), 1, 0.75)), None)


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = nearest(name.replace("-", "_"), names)
    return f" Did you mean '{close}'?" if close else ""


def _quoted(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _toml_number(value: object) -> str | None:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _toml_text(example: str) -> str:
    try:
        float(example)
    except ValueError:
        return f'"{example}"'
    return example


def as_markdown() -> str:
    """The reference page, docs/reference/settings.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `threadkeep settings --markdown`; to change it, change src/threadkeep/settings.py. -->",
        "",
        "A setting is a flag of `threadkeep serve`, a variable, or a key in `threadkeep.toml`. A flag wins over a",
        "variable, that over the file. `threadkeep.toml` is looked for in the current folder, then in the data folder;",
        "`--config` names another. A wrong value stops the start with the setting's name and an example.",
    ]
    for group in dict.fromkeys(row.group for row in ROWS.values()):
        lines += [
            "",
            f"## {group}",
            "",
            "| flag | variable | key | default | meaning | example |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in ROWS.items():
            if row.group == group:
                key = f"`{name}`" if name != "config" else ""
                cells = [
                    f"`{flag(name)}`",
                    f"`{variable(name)}`",
                    key,
                    row.default_shown,
                    row.meaning,
                    f"`{row.example}`",
                ]
                lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## Several upstreams",
        "",
        "In `threadkeep.toml` each `[[upstream]]` is one model server. A run's model goes to the first whose `models`",
        "match; `--upstream-url` takes what is left.",
        "",
        "```toml",
        "[[upstream]]",
        'name = "openai"',
        'url = "https://api.openai.com/v1"',
        'api_key_env = "OPENAI_API_KEY"',
        'models = ["gpt-*", "o3*"]',
        "",
        "[[upstream]]",
        'name = "local"',
        'url = "http://127.0.0.1:11434/v1"',
        'models = ["*"]',
        "context_window = 32768",
        "```",
        "",
        "| key | meaning | example |",
        "|---|---|---|",
        *(f"| `{key}` | {entry.meaning} | `{entry.example}` |" for key, entry in UPSTREAM_KEYS.items()),
        "",
    ]
    return "\n".join(lines)
