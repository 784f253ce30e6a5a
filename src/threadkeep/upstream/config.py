"""What is configured of one upstream. ``settings`` makes these; nothing here opens anything."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from msgspec import Struct, field

from threadkeep.upstream import windows


class UpstreamConfig(Struct, frozen=True, kw_only=True):
    """One Chat Completions server. Its ``repr`` never shows the key."""

    name: str
    # The base URL, e.g. http://127.0.0.1:11434/v1; "/chat/completions" is added to it.
    url: str
    api_key: str | None = None
    # Which model names this upstream answers, as glob patterns.
    models: tuple[str, ...] = ("*",)
    # An entry of the table in quirks.py; None: found by the URL.
    quirks: str | None = None
    connect_timeout_s: float = 10.0
    # From the start of the request to the first byte of the answer. A large model on a small machine reads a long
    # prompt for minutes before it says a word.
    first_byte_timeout_s: float = 300.0
    # The longest silence between two bytes of an answer.
    idle_timeout_s: float = 60.0
    # Further attempts after the first, only before the first byte, and all within `retry_total_s`.
    max_retries: int = 4
    retry_total_s: float = 60.0
    # How many runs of its models a node executes at once; None: as many as leave room for other upstreams.
    max_concurrent: int | None = None
    # Tokens; None: by the model's name, from the table in windows.py.
    context_window: int | None = None
    # Our name of a model (or a pattern) -> the upstream's: {"gpt-4o": "llama3.1:8b"}.
    model_rename: Mapping[str, str] = field(default_factory=dict[str, str])
    # Which model names, as patterns, can be shown images.
    vision: tuple[str, ...] = ("*",)
    # Azure's `api-version`; only its classic form needs one.
    api_version: str | None = None
    # Sent with every request, for proxies that want them. Their values are treated as secrets.
    extra_headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def answers(self, model: str) -> bool:
        """Whether a model of this name is this upstream's to answer."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def sees(self, model: str) -> bool:
        """Whether a model of this name can be shown images."""
        return any(fnmatchcase(model, pattern) for pattern in self.vision)

    def name_there(self, model: str) -> str:
        """What the upstream calls the model."""
        exact = self.model_rename.get(model)
        if exact is not None:
            return exact
        return next((to for pattern, to in self.model_rename.items() if fnmatchcase(model, pattern)), model)

    def window(self, model: str) -> int:
        """The model's context window in tokens."""
        return self.context_window or windows.window(self.name_there(model))

    @property
    def host(self) -> str:
        """``host:port`` for messages, without credentials."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return f"{parts.hostname}:{port}"

    @property
    def secrets(self) -> frozenset[str]:
        """Everything that no message may contain."""
        password = urlsplit(self.url).password
        values = [self.api_key, password, *self.extra_headers.values()]
        return frozenset(v for v in values if v and len(v) >= 4)

    def __repr__(self) -> str:
        key = "set" if self.api_key else "none"
        return f"UpstreamConfig(name={self.name!r}, host={self.host!r}, models={self.models!r}, api_key={key})"
